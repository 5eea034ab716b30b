import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from small_models import classifier, every_model, go_offline, put_on_hub, resnet, write_run

from zoobot.models.finetune import FinetuneableZoobotClassifier


def card_of(folder) -> str:
    return (folder / "README.md").read_text()


def test_a_folder_holds_weights_description_and_card_and_no_pickle(tmp_path):
    classifier().save_pretrained(tmp_path / "rings")
    names = {path.name for path in (tmp_path / "rings").iterdir()}
    assert names == {"model.safetensors", "config.json", "README.md"}


def test_the_card_of_every_model_tells_what_it_predicts_and_sees(tree, tmp_path):
    for kind, model in every_model(tree).items():
        model.save_pretrained(tmp_path / kind)
        card = card_of(tmp_path / kind)
        head = yaml.safe_load(card.split("---\n")[1])
        assert head["library_name"] == "zoobot"
        assert f"# {kind}\n" in card
        assert all(f"`{column}`" in card for column in model.prediction_columns())
        assert "`test_resnet`" in card
        assert "the image's shorter side divided by 1.2." in card
        assert "resized to 32 px a side" in card
        assert card.count("Not told by the model's authors.") == 2
    assert "| `bar` | `bar_strong`, `bar_weak`, `bar_no` | `smooth_no` |" in card_of(
        tmp_path / "tree"
    )
    bands = card_of(tmp_path / "bands")
    assert "The bands g, r, in this order" in bands
    assert "scaled (asinh): arcsinh((x - sky) / (5 * noise))" in bands
    assert "g 0.5 ± 2, r 0.25 ± 4 after scaling by asinh" in bands
    assert "A FITS image is made one by the scaling `asinh`." in card_of(tmp_path / "classifier")


def test_the_card_tells_what_the_user_tells(tmp_path):
    classifier().save_pretrained(
        tmp_path / "a",
        name="someone/rings",
        training_data="992 galaxies of SDSS.",
        metrics={"finetuning/test_acc": 0.912345678},
        license="cc-by-4.0",
    )
    card = card_of(tmp_path / "a")
    assert "## Training data\n\n992 galaxies of SDSS.\n" in card
    assert "| `finetuning/test_acc` | 0.91235 |" in card
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "cc-by-4.0"
    assert "--checkpoint hf_hub:someone/rings " in card


def test_names_in_a_card_are_no_markup(tmp_path):
    model = classifier(class_names=["a|b", "`<b>"])
    model.save_pretrained(tmp_path / "a")
    assert "0. `a\\|b`\n1. `'<b>`\n" in card_of(tmp_path / "a")


def test_the_code_of_the_card_runs_where_the_model_is_on_the_hub(
    tmp_path, small_catalog, monkeypatch
):
    go_offline(monkeypatch, tmp_path / "home")
    classifier().save_pretrained(tmp_path / "a", name="someone/galaxies")
    put_on_hub(tmp_path / "a", tmp_path / "home")
    (code,) = re.findall(r"```python\n(.*?)```", card_of(tmp_path / "a"), re.DOTALL)
    monkeypatch.chdir(small_catalog.parent)
    exec(code, {})
    assert (tmp_path / "predictions.csv").read_text().startswith("id_str,ring,none")


def test_the_metrics_of_a_run_are_those_of_its_test_galaxies(tmp_path):
    run = write_run(classifier(), tmp_path / "run")
    lines = [
        {"epoch": 1, "split": "validation", "finetuning/val_acc": 0.5},
        {"epoch": 1, "split": "test", "finetuning/test_acc": 0.75},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:1]))
    with pytest.raises(ValueError, match="metrics.jsonl tells no metrics of test galaxies"):
        classifier().save_pretrained(tmp_path / "a", metrics=run)
    assert not (tmp_path / "a").exists()
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    classifier().save_pretrained(tmp_path / "a", metrics=run)
    assert "| `finetuning/test_acc` | 0.75 |" in card_of(tmp_path / "a")
    assert "val_acc" not in card_of(tmp_path / "a")


def test_files_of_other_things_are_not_written_over(tmp_path):
    run = write_run(classifier(), tmp_path / "run")
    with pytest.raises(ValueError, match="is the folder of a run: give another"):
        classifier().save_pretrained(run)
    (tmp_path / "project").mkdir()
    for name in ("model.safetensors", "README.md"):
        (tmp_path / "project" / name).write_text("mine")
        with pytest.raises(ValueError, match=f"{name} is there, and of no shared model"):
            classifier().save_pretrained(tmp_path / "project")
        assert (tmp_path / "project" / name).read_text() == "mine"
        (tmp_path / "project" / name).unlink()
    (tmp_path / "project" / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="README.md is there, and of no shared model"):
        classifier().save_pretrained(tmp_path / "project")
    assert (tmp_path / "project" / "README.md").read_text() == "mine"
    classifier().save_pretrained(tmp_path / "a")
    classifier().save_pretrained(tmp_path / "a", training_data="others")
    assert "others" in card_of(tmp_path / "a")


def test_a_model_that_others_could_not_load_is_not_written(tmp_path):
    blank = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    with pytest.raises(ValueError, match="only encoders that timm can build can be shared"):
        FinetuneableZoobotClassifier(2, encoder=blank).save_pretrained(tmp_path / "a")
    changed = classifier()
    changed.head = torch.nn.Linear(96, 3)
    with pytest.raises(ValueError, match="can't be built again from its checkpoints"):
        changed.save_pretrained(tmp_path / "a")
    assert not (tmp_path / "a").exists()


class Hub:
    """Stands for huggingface_hub's HfApi."""

    calls: list = []

    def create_repo(self, name, **options):
        self.calls.append(("create", name, options))
        if name == "someone/elses":
            raise RuntimeError("403 Forbidden: not yours")

    def upload_folder(self, *, repo_id, folder_path, **options):
        files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        self.calls.append(("upload", repo_id, files))
        return f"https://hub/{repo_id}/commit/1"


def test_a_model_is_put_on_the_hub_as_it_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "calls", [])
    model = classifier()
    address = model.push_to_hub("someone/rings", private=True, training_data="SDSS")
    assert address == "https://hub/someone/rings/commit/1"
    created, (_, repository, files) = Hub.calls
    assert created == ("create", "someone/rings", {"private": True, "exist_ok": True})
    assert repository == "someone/rings"
    model.save_pretrained(tmp_path / "a", name="someone/rings", training_data="SDSS")
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}


def test_a_hub_that_refuses_is_told_with_the_way_to_log_in(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    with pytest.raises(ValueError, match="as 'someone/elses': 403 .*; log in with 'hf auth login'"):
        classifier().push_to_hub("someone/elses")


def test_a_model_of_an_encoder_that_was_given_is_shared(tmp_path):
    FinetuneableZoobotClassifier(2, encoder=resnet()).save_pretrained(tmp_path / "a")
    assert "a view that is not told; its size is not known" in card_of(tmp_path / "a")


class Wider(FinetuneableZoobotClassifier):
    """A subclass of a user's own."""


def test_the_card_of_a_class_of_ones_own_says_how_to_load_it(tmp_path):
    Wider(2, encoder=resnet()).save_pretrained(tmp_path / "a", name="someone/wide")
    assert 'model = Wider.load_from_checkpoint("hf_hub:someone/wide")' in card_of(tmp_path / "a")
    assert "--checkpoint hf_hub" not in card_of(tmp_path / "a")
    assert isinstance(Wider.load_from_checkpoint(tmp_path / "a"), Wider)
