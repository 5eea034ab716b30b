import numpy as np
import pandas as pd
import pytest
from conftest import draw_galaxies
from small_runs import find, open_run, save_epochs
from small_shards import in_memory, write

from zoobot.data import CatalogDataModule
from zoobot.data.catalog import read_catalog
from zoobot.data.shards.reader import Shards, open_shards, open_splits
from zoobot.data.sources import RowsOf
from zoobot.data.splits import load_splits
from zoobot.runs.changes import check_same_run
from zoobot.runs.data_digest import Known, known_galaxies


def table(num_galaxies=40, start=0):
    numbers = np.arange(start, start + num_galaxies)
    votes = np.random.default_rng(0).integers(0, 20, (start + num_galaxies, 2))[start:]
    ids = [f"g{i}" for i in numbers]
    locs = [f"/data/images/{i}.png" for i in ids]
    return pd.DataFrame({"id_str": ids, "file_loc": locs, "yes": votes[:, 0], "no": votes[:, 1]})


def known(train, val=None):
    return Known({"train": train, "val": table(10, 90) if val is None else val}, ["yes", "no"])


def saved(folder, data, epoch_step=0):
    """The state of a run that knows these galaxies."""
    with open_run(folder, data=data) as run:
        progress = save_epochs(run, [1.0])
        run.save({"progress": {**vars(progress), "epoch_step": epoch_step}, "model": {}}, {})
    return find(folder)


def compare_data(state, data, allow_changes):
    check_same_run(state, {}, data, allow_changes)


def relabelled(frame):
    return frame.assign(yes=frame["yes"].where(frame["id_str"] != "g3", 99))


def other_image(frame):
    return frame.assign(file_loc=frame["file_loc"].str.replace("g4.png", "h4.png"))


@pytest.mark.parametrize(
    ("train", "val", "told"),
    [
        (relabelled(table()), None, "1 relabelled"),
        (table().assign(yes=table()["no"], no=table()["yes"]), None, "relabelled"),
        (other_image(table()), None, "1 with another image"),
        (table(43), None, "3 new"),
        (table(38), None, "2 gone"),
        (table(38), pd.concat([table(2, 38), table(10, 90)]), "2 moved to another split"),
        (relabelled(other_image(table(39))), None, "1 gone, 1 relabelled, 1 with another image"),
        (table(), relabelled(table(10, 90)).assign(yes=0), "relabelled"),
    ],
)
def test_changed_galaxies_are_counted_and_refused_unless_allowed(
    tmp_path, capsys, train, val, told
):
    state = saved(tmp_path, known(table()).digest())
    now = known(train, val).digest()
    with pytest.raises(ValueError, match=f"last.ckpt was trained on other data .*{told}.*--allow"):
        compare_data(state, now, allow_changes=False)
    compare_data(state, now, allow_changes=True)
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("sidecar", ["missing", "of other galaxies", "spoilt"])
def test_without_the_hashes_of_each_galaxy_a_change_is_refused_all_the_same(tmp_path, sidecar):
    state = saved(tmp_path, known(table()).digest())
    path = tmp_path / "checkpoints" / "data.safetensors"
    if sidecar == "missing":
        path.unlink()
    elif sidecar == "spoilt":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        known(table(7)).digest().save(path)
    compare_data(state, known(table()).digest(), allow_changes=False)
    with pytest.raises(ValueError, match=r"another checksum \(train 40, now 41, val 10, now 10;"):
        compare_data(state, known(table(41)).digest(), allow_changes=False)


def test_galaxies_are_the_same_in_another_folder_format_and_type(tmp_path, tree):
    for name in ("here", "there"):
        draw_galaxies(tmp_path / name, tree, 20)
    frame = pd.read_csv(tmp_path / "there" / "catalog.csv")
    frame[tree.label_cols[0]] = frame[tree.label_cols[0]].astype(float)
    frame["comment"] = "a new column"
    frame.to_parquet(tmp_path / "there" / "catalog.parquet")
    digests = [
        Known(load_splits(path, None, None, tree.label_cols, seed=1), tree.label_cols).digest()
        for path in (tmp_path / "here" / "catalog.csv", tmp_path / "there" / "catalog.parquet")
    ]
    assert digests[0].summary == digests[1].summary


def test_another_order_of_rows_is_refused_within_an_epoch_only(tmp_path, capsys):
    shuffled = known(table().sample(frac=1, random_state=0)).digest()
    state = saved(tmp_path / "a", known(table()).digest())
    compare_data(state, shuffled, allow_changes=False)
    assert "in another order" in capsys.readouterr().out
    state = saved(tmp_path / "b", known(table()).digest(), epoch_step=2)
    compare_data(state, known(table()).digest(), allow_changes=False)
    with pytest.raises(ValueError, match="in another order, and within an epoch"):
        compare_data(state, shuffled, allow_changes=False)


def test_other_label_columns_are_told(tmp_path):
    state = saved(tmp_path, known(table()).digest())
    renamed = table().rename(columns={"no": "never"})
    other = Known({"train": renamed}, ["yes", "never"]).digest()
    with pytest.raises(ValueError, match="the label columns were yes, no"):
        compare_data(state, other, allow_changes=False)


def test_what_is_not_known_is_not_compared(tmp_path, capsys):
    state = saved(tmp_path / "a", known(table()).digest())
    compare_data(state, None, allow_changes=False)
    assert "can't be compared" in capsys.readouterr().out
    del state["data"]  # an earlier version's
    compare_data(state, known(table(3)).digest(), allow_changes=False)
    assert "can't be compared" in capsys.readouterr().out
    foreign = saved(tmp_path / "b", Known({}, []).digest())
    compare_data(foreign, None, allow_changes=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("source", ["table", "loaders", "embedded"])
def test_galaxies_of_any_source_have_the_digest_of_their_table(small_catalog, tree, source):
    frame = read_catalog(small_catalog)
    if source == "embedded":
        images = [open(path, "rb").read() for path in frame.pop("file_loc")]
        frame["image"] = images
        other = frame.assign(image=[{"bytes": x, "path": "?"} for x in images])
    else:
        other = frame
    arguments = {"train_catalog": frame[:40], "val_catalog": frame[40:], "num_workers": 0}
    data = CatalogDataModule(tree.label_cols, **arguments)
    mine = known_galaxies(data, {}).digest()
    if source == "loaders":
        loaders = {"train": data.train_dataloader(), "val": data.val_dataloader()}
        theirs = known_galaxies(None, loaders).digest()
    else:
        theirs = Known({"train": other[:40], "val": other[40:]}, tree.label_cols).digest()
    assert mine.summary == theirs.summary
    spoilt = frame.assign(**{tree.label_cols[0]: 0})
    assert (
        Known({"train": spoilt[:40]}, tree.label_cols)
        .digest()
        .changes_since(mine.summary, small_catalog)
    )


def test_no_bit_of_a_label_goes_unnoticed():
    before = known(table()).digest().summary
    for value in (0.5, 1e-6, 100, -1):
        frame = table()
        frame["yes"] = frame["yes"].astype(float) + np.where(frame["id_str"] == "g7", value, 0)
        assert known(frame).digest().summary["train"]["sha256"] != before["train"]["sha256"]


def test_shards_are_known_by_their_ids_labels_and_checksums(tmp_path):
    def digest(name, **columns):
        write(in_memory(12, split=["train"] * 8 + ["val"] * 4, **columns), tmp_path / name)
        return Known(open_splits(tmp_path / name, ["a", "b"]), []).digest()

    state = saved(tmp_path / "run", digest("first"))
    compare_data(state, digest("again"), allow_changes=False)
    with pytest.raises(ValueError, match="the shards are others; galaxies: 1 relabelled"):
        compare_data(state, digest("mended", b=[7] * 11 + [8]), allow_changes=False)


@pytest.mark.parametrize("part", ["all", "rows"])
def test_shards_are_read_once_and_not_galaxy_by_galaxy(tmp_path, monkeypatch, part):
    split = ["train"] * 11 + (["val"] * 4 if part == "all" else [])
    write(in_memory(len(split), split=split), tmp_path)  # 4 a shard
    splits = open_splits(tmp_path, ["a", "b"])
    ids = {s: [galaxies.id_str(i) for i in range(len(galaxies))] for s, galaxies in splits.items()}
    labels = {s: galaxies.labels(range(len(galaxies))) for s, galaxies in splits.items()}
    frames = {s: pd.DataFrame(labels[s].numpy(), columns=["a", "b"]) for s in splits}
    of_table = Known(
        {s: frames[s].assign(id_str=ids[s], file_loc="/x.png") for s in splits}, ["a", "b"]
    ).digest()
    read = []
    for kind in (Shards, RowsOf):
        real = kind.labels
        monkeypatch.setattr(kind, "id_str", lambda *_: pytest.fail("read one by one"))
        monkeypatch.setattr(kind, "labels", lambda *a, r=real: read.append(type(a[0])) or r(*a))
    data = Known(splits, [])
    tables = data.checked_labels(lambda table, split: None)
    num_reads = len(read)
    digest = data.digest()
    assert len(read) == num_reads
    assert {s: table["id_str"].tolist() for s, table in tables.items()} == {
        s: names for s, names in ids.items() if names
    }
    for s in splits:
        assert digest.summary[s]["order"] == of_table.summary[s]["order"]
        assert (digest.hashes[s][:, :2] == of_table.hashes[s][:, :2]).all()


def test_ids_of_shards_are_the_same_in_any_range(tmp_path):
    write(in_memory(11, split="train"), tmp_path)
    splits = open_splits(tmp_path, ["a", "b"])
    for galaxies in (splits["train"], splits["val"], open_shards(tmp_path, "train")):
        names = [galaxies.id_str(i) for i in range(len(galaxies))]
        for start, stop in ((0, len(names)), (0, 0), (1, 3), (3, 4), (4, 9), (7, 10), (2, 99)):
            rows = range(len(names))[start:stop]
            assert galaxies.ids(rows).to_pylist() == names[start:stop]
