import numpy as np
import pandas as pd
import pytest

from zoobot.evaluation.provenance import Provenance
from zoobot.runs.data_digest import DIGEST_FILE, Known


@pytest.fixture
def run(tmp_path):
    """A run's folder that tells its galaxies: 8 to train on, 4 to validate, 3 to test."""
    folder = tmp_path / "run"
    (folder / "checkpoints" / "best").mkdir(parents=True)
    (folder / "best.safetensors").touch()
    sizes = {"train": range(8), "val": range(8, 12), "test": range(12, 15)}
    splits = {
        split: pd.DataFrame({"id_str": [f"g{i}" for i in ids], "file_loc": "x.png", "label": 0})
        for split, ids in sizes.items()
    }
    Known(splits, ["label"]).digest().save(folder / DIGEST_FILE)
    (folder / "config.json").write_text('{"catalog": "galaxies.parquet"}')
    lines = [
        f'{{"epoch": {i}, "split": "validation", "validation/supervised_loss": {loss}}}\n'
        for i, loss in enumerate((3.0, 1.5, 2.0), 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


def seen(made, ids, **columns):
    return made.seen_in_training(pd.DataFrame({"id_str": ids, **columns}), np.array(ids))


def test_galaxies_that_a_run_trained_on_or_chose_its_epoch_by_are_counted(run):
    for checkpoint in ("best.safetensors", "checkpoints/best/epoch=2-abc.ckpt", ""):
        made = Provenance.of("cat.csv", run / checkpoint)
        told, is_warning = seen(made, ["g0", "g3", "g9", "g13", "new"])
        assert told.startswith("Of these 5 galaxies 2 were trained on and 1 chose the epoch")
        assert is_warning
    told, is_warning = seen(made, ["g12", "g13", "new"])
    assert told.startswith("None of these galaxies was trained on")
    assert not is_warning


def test_the_column_split_tells_where_the_run_is_not_found(tmp_path):
    made = Provenance.of("cat.csv", tmp_path / "away" / "best.safetensors")
    told, is_warning = seen(made, ["a", "b"], split=["train", "test"])
    assert told.startswith("Of these 2 galaxies 1 were trained on (as the catalog's column")
    assert is_warning
    told, is_warning = seen(made, ["a", "b"])
    assert "not known which" in told
    assert "--checkpoint" in told
    assert not is_warning


def test_catalog_checkpoint_and_epoch_are_told(run):
    lines = dict(Provenance.of("", run / "best.safetensors").lines())
    assert lines["catalog"] == "galaxies.parquet"
    assert lines["epoch"] == "2"
    assert lines["date"][:2] == "20"
    kept = Provenance.of("cat.csv", run / "checkpoints" / "best" / "epoch=7-abc.ckpt")
    assert dict(kept.lines())["epoch"] == "7"
    lines = dict(Provenance.of("", None).lines())
    assert lines["catalog"] == "a table in memory"
    assert lines["checkpoint"] == "not told by the predictions"
    assert "epoch" not in lines


def test_a_checkpoint_is_also_looked_for_beside_the_predictions(run, tmp_path):
    made = Provenance.of("cat.csv", "run/best.safetensors", beside=tmp_path)
    assert made.run == run
    assert Provenance.of("cat.csv", "run/best.safetensors").run is None
