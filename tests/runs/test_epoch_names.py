import pytest

from zoobot.runs.epoch_names import check_template, epoch_name


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{epoch}", "epoch=3"),
        ("{epoch:02d}", "epoch=03"),
        ("rings-{epoch}", "rings-epoch=3"),
        ("epoch={epoch}", "epoch=3"),
        ("{epoch}-{finetuning/val_loss:.3f}", "epoch=3-val_loss=0.125"),
        ("epoch-{epoch}-val_loss-{finetuning/val_loss:.7f}", "epoch-3-val_loss-0.1250000"),
        ("{epoch}-{finetuning/val_acc:.1f}", "epoch=3-val_acc=nan"),
    ],
)
def test_fields_are_filled_in_and_named_once(template, name):
    assert epoch_name(template, 3, {"finetuning/val_loss": 0.125}) == name


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("best", "lacks {epoch}"),
        ("{finetuning/val_loss}", "lacks {epoch}"),
        ("{epoch", "file_template '{epoch'"),
        ("{epoch:.q}", "file_template '{epoch:.q}'"),
        ("folds/{epoch}", "names files, not folders"),
        ("{epoch}-{val_loss:.2f}", "not 'val_loss'; did you mean 'finetuning/val_loss'"),
    ],
)
def test_a_template_that_names_no_files_of_epochs_is_told(template, told):
    with pytest.raises(ValueError, match=told):
        check_template(template, ["finetuning/val_loss"])
