import io
import json
import os
import pickle
import tarfile

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_shards import encoded, in_memory, script, write

from zoobot.data.catalog import read_catalog
from zoobot.data.images import read_image
from zoobot.data.shards import webdataset
from zoobot.data.shards.mapped import MAX_HEADER_BYTES
from zoobot.data.shards.reader import open_shards, read_index, schema_hash, verify
from zoobot.system.workers import starting_workers


def ids(folder, split="train"):
    shards = open_shards(folder, split)
    return [shards.id_str(i) for i in range(shards.num_galaxies)]


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_galaxies_come_back_with_their_ids_labels_and_pixels(
    tmp_path, tree, small_catalog, encoding
):
    catalog = read_catalog(small_catalog)
    folder = tmp_path / "shards"
    index = write(
        catalog, folder, tree.label_cols, encoding=encoding, img_size=40, galaxies_a_shard=25
    )
    shards = open_shards(folder, "train")
    assert (shards.num_galaxies, shards.shard_sizes) == (60, [20, 20, 20])
    assert (shards.label_cols, shards.encoding) == (tree.label_cols, encoding)
    assert index == shards.index == read_index(folder)
    assert sorted(ids(folder)) == sorted(catalog["id_str"])
    by_id = catalog.set_index("id_str")
    rows = [59, 0, 31, 31, 7]
    labels = shards.labels(rows)
    assert labels.dtype == torch.int32
    votes = by_id.loc[[shards.id_str(i) for i in rows], tree.label_cols]
    assert labels.tolist() == votes.to_numpy().tolist()
    for i in rows:
        original = np.asarray(read_image(by_id.loc[shards.id_str(i), "file_loc"]))
        if encoding == "raw":
            np.testing.assert_array_equal(shards.source(i), original)
            assert not shards.source(i).flags.owndata
        else:
            difference = np.asarray(read_image(shards.source(i))).astype(int) - original
            assert np.abs(difference).mean() < 4
    assert verify(folder) == 60


def test_other_readers_of_safetensors_read_a_shard(tmp_path):
    write(in_memory(3, b=0.5), tmp_path, encoding="raw")
    path = tmp_path / "train/shard-00000.safetensors"
    tensors = safetensors.numpy.load_file(path)
    assert {name: t.shape for name, t in tensors.items()} == {
        "ids": (6,), "id_offsets": (4,), "images": (3, 8, 8, 3), "labels": (3, 2)
    }  # fmt: skip
    assert tensors["labels"].dtype == np.float32
    with safetensors.safe_open(path, "np") as file:
        assert json.loads(file.metadata()["zoobot"])["label_cols"] == ["a", "b"]


def test_small_jpegs_are_kept_and_larger_ones_shrunk(tmp_path):
    images = [
        encoded((30, 20), "JPEG"),
        encoded((21, 21), "JPEG"),
        encoded((80, 40), "JPEG"),
        encoded((30, 20), "PNG"),
        encoded((50, 40), "WEBP"),
    ]
    table = in_memory(5).assign(image=images)
    write(table, tmp_path, img_size=20)
    shards = open_shards(tmp_path, "train")
    found = {shards.id_str(i): shards.source(i) for i in range(5)}
    assert found["g0"] == images[0]
    sizes = {name: Image.open(io.BytesIO(found[name])).size for name in found}
    assert sizes == {"g0": (30, 20), "g1": (20, 20), "g2": (40, 20), "g3": (30, 20), "g4": (25, 20)}
    assert all(image.startswith(b"\xff\xd8\xff") for image in found.values())


def area_weights(width, size):
    """(size, width): the share of each pixel in each mean."""
    low = np.arange(size)[:, None] * width / size
    first = np.arange(width)
    overlap = np.minimum(low + width / size, first + 1) - np.maximum(low, first)
    return np.maximum(overlap, 0) * size / width


@pytest.mark.parametrize(
    ("size", "side", "channels"),
    [((64, 64), 16, 3), ((101, 64), 15, 1), ((65, 99), 48, 3), ((424, 424), 300, 3)],
)
def test_raw_pixels_are_the_mean_over_their_area_of_the_centred_square(
    tmp_path, size, side, channels
):
    image = encoded(size)
    table = in_memory(1).assign(image=[image])
    write(table, tmp_path, encoding="raw", img_size=side, channels=channels)
    width, height = size
    pixels = np.asarray(read_image(image, channels=channels), dtype=float)
    pixels, square = pixels.reshape(height, width, channels), min(size)
    top, left = (height - square) // 2, (width - square) // 2
    pixels = pixels[top : top + square, left : left + square]
    weights = area_weights(square, side)
    mean = np.tensordot(weights, np.tensordot(weights, pixels, (1, 0)), (1, 1)).swapaxes(0, 1)
    source = open_shards(tmp_path, "train").source(0)
    assert np.abs(source - mean).max() < 0.6


def test_small_images_are_enlarged_in_raw_shards(tmp_path):
    write(in_memory(1), tmp_path, encoding="raw", img_size=20)
    assert open_shards(tmp_path, "train").source(0).shape == (20, 20, 3)


def test_embedded_images_of_hugging_face_are_read(tmp_path):
    table = in_memory(3)
    table["image"] = [{"bytes": image, "path": None} for image in table["image"]]
    table.to_parquet(tmp_path / "catalog.parquet")
    write(read_catalog(tmp_path / "catalog.parquet"), tmp_path / "shards")
    assert len(ids(tmp_path / "shards")) == 3


def test_the_split_has_the_size_asked_for_and_ignores_the_order_of_rows(tmp_path):
    table = in_memory(30)
    write(table, tmp_path / "a", eval_size=11)
    write(table.sample(frac=1, random_state=1), tmp_path / "b", eval_size=11)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(ids(tmp_path / "a", "test")) == 11
    assert set(ids(tmp_path / "a", "test")).isdisjoint(ids(tmp_path / "a"))
    write(table, tmp_path / "c", eval_size=11, seed=1)
    assert set(ids(tmp_path / "c", "test")) != set(ids(tmp_path / "a", "test"))
    write(table, tmp_path / "d", eval_size=5)
    assert set(ids(tmp_path / "d", "test")) < set(ids(tmp_path / "a", "test"))


def test_a_shard_is_a_random_sample(tmp_path):
    write(in_memory(40), tmp_path, galaxies_a_shard=20)
    first = open_shards(tmp_path, "train").labels(range(20))[:, 0].double()
    assert 10 < first.mean() < 29  # of 0 to 39: 19.5 +- 1.8
    assert first.tolist() != sorted(first.tolist())


def test_a_split_column_is_used(tmp_path):
    table = in_memory(9, split=["val", "train", "train"] * 3)
    index = write(table, tmp_path / "a")
    assert {s: index["splits"][s]["num_galaxies"] for s in index["splits"]} == {
        "train": 6,
        "val": 3,
    }
    assert sorted(ids(tmp_path / "a", "val")) == ["g0", "g3", "g6"]
    with pytest.raises(ValueError, match="no split 'test'; splits: train, val"):
        open_shards(tmp_path / "a", "test")
    with pytest.raises(ValueError, match="eval_size=2, but the catalog has a column 'split'"):
        write(table, tmp_path / "b", eval_size=2)
    with pytest.raises(ValueError, match="column 'split' holds 'dev'"):
        write(table.assign(split="dev"), tmp_path / "b")


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(num_galaxies=st.integers(1, 40), size=st.integers(1, 9), eval_frac=st.floats(0, 0.9))
def test_every_galaxy_is_in_exactly_one_shard(
    tmp_path_factory, monkeypatch, num_galaxies, size, eval_frac
):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    folder = tmp_path_factory.mktemp("shards")
    table = in_memory(40)[:num_galaxies]
    index = write(table, folder, galaxies_a_shard=size, eval_size=int(num_galaxies * eval_frac))
    found = []
    for split, described in index["splits"].items():
        shards = open_shards(folder, split)
        found += ids(folder, split)
        assert described["num_galaxies"] == len(shards) == sum(shards.shard_sizes)
        assert max(shards.shard_sizes) <= size
        assert max(shards.shard_sizes) - min(shards.shard_sizes) <= 1
        firsts = shards.labels(range(len(shards)))[:, 0].tolist()
        assert [f"g{n}" for n in firsts] == ids(folder, split)
    assert sorted(found) == sorted(table["id_str"])


def test_a_killed_run_leaves_nothing_half_and_goes_on(tmp_path, monkeypatch):
    table = in_memory(20)
    write(table, tmp_path / "whole")
    replace, calls = os.replace, []

    def killed(source, target):
        calls.append(target)
        if len(calls) == 4:  # plan.json and two shards were before
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write(table, tmp_path / "killed")
    whole, left = contents(tmp_path / "whole"), contents(tmp_path / "killed")
    assert len(left) == 3
    assert left.items() < whole.items()
    with pytest.raises(ValueError, match="no index.json.*rerun"):
        open_shards(tmp_path / "killed", "train")

    (tmp_path / "killed/train/.shard-00002.safetensors.abc.partial").write_bytes(b"of kill -9")
    (tmp_path / "killed/train/shard-00001.safetensors").write_bytes(b"torn")
    kept = (tmp_path / "killed/train/shard-00000.safetensors").stat().st_mtime_ns
    write(table, tmp_path / "killed")
    assert contents(tmp_path / "killed") == whole
    assert (tmp_path / "killed/train/shard-00000.safetensors").stat().st_mtime_ns == kept


def test_shards_are_not_written_through_a_link_into_another_folder(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "train").symlink_to(tmp_path / "mine")
    with pytest.raises(ValueError, match="shards/train is a link to .*delete the link"):
        write(in_memory(9), tmp_path / "shards")
    assert [*(tmp_path / "mine").iterdir()] == []


def test_a_finished_folder_is_left_as_it_is_and_a_missing_shard_is_written_again(tmp_path, capsys):
    table = in_memory(9)
    index = write(table, tmp_path)
    before = contents(tmp_path)
    assert write(table, tmp_path, show_progress=True) == index
    assert "finished already" in capsys.readouterr().out
    (tmp_path / index["splits"]["train"]["shards"][1]["file"]).unlink()
    assert write(table, tmp_path) == index
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quality": 50}, r"other quality \(95, now 50\): delete the folder"),
        ({"img_size": 9}, r"img_size \(8, now 9\)"),
        ({"table": in_memory(9, b=3)}, "other label values"),
        ({"table": in_memory(8)}, "other ids and splits, images, label values"),
        ({"table": in_memory(9, image=encoded())}, "other images"),
    ],
)
def test_another_plan_is_refused(tmp_path, changes, message):
    write(in_memory(9), tmp_path)
    changes = dict(changes)
    with pytest.raises(ValueError, match=message):
        write(changes.pop("table", in_memory(9)), tmp_path, **changes)


def test_any_number_of_workers_writes_the_same_bytes(tmp_path):
    table = in_memory(20)
    for workers in (0, 1, 2):
        write(table, tmp_path / str(workers), num_workers=workers)
    assert contents(tmp_path / "0") == contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_verify_names_every_altered_file_wherever_the_byte_is(tmp_path, encoding):
    write(in_memory(8), tmp_path, encoding=encoding)
    path = tmp_path / "train/shard-00001.safetensors"
    whole = path.read_bytes()
    for place in [0, 9, *range(20, len(whole), len(whole) // 40), len(whole) - 1]:
        altered = bytearray(whole)
        altered[place] ^= 1
        path.write_bytes(altered)
        with pytest.raises(ValueError, match="shard-00001") as error:
            verify(tmp_path)
        assert "shard-00000" not in str(error.value)
    path.unlink()
    os.truncate(tmp_path / "train/shard-00000.safetensors", 2000)
    with pytest.raises(ValueError, match="shard-00000.* is torn.*shard-00001.* is missing"):
        verify(tmp_path)


def test_an_altered_index_is_told(tmp_path):
    write(in_memory(2), tmp_path)
    text = (tmp_path / "index.json").read_text()
    for place in range(len(text)):
        altered = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
        try:
            meaning = json.loads(altered)
        except ValueError:
            meaning = None
        if meaning == json.loads(text):
            continue
        (tmp_path / "index.json").write_text(altered)
        with pytest.raises(ValueError, match=r"index.json|shard-00000|has no split"):
            verify(tmp_path)


def test_a_torn_or_missing_shard_is_told_at_opening(tmp_path):
    write(in_memory(8), tmp_path)
    path = tmp_path / "train/shard-00001.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ValueError, match="shard-00001.* is torn.*rerun create_shards"):
        open_shards(tmp_path, "train")
    path.unlink()
    with pytest.raises(ValueError, match="shard-00001.* is missing"):
        open_shards(tmp_path, "train")


def safetensors_file(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("entry", [
    {"dtype": "I32", "shape": [8, 2], "data_offsets": [0, 10**9]},
    {"dtype": "I32", "shape": [8, 2], "data_offsets": [-64, 0]},
    {"dtype": "I32", "shape": [-8, -2], "data_offsets": [0, 64]},
    {"dtype": "I32", "shape": [2**62, 2**62], "data_offsets": [0, 64]},
    {"dtype": "O", "shape": [8], "data_offsets": [0, 64]},
    {"dtype": "I32", "shape": "ab", "data_offsets": [0, 64]},
    {"dtype": "I32", "shape": [8.0, 2], "data_offsets": [0.0, 64.0]},
    [], None,
])  # fmt: skip
def test_a_hostile_header_is_refused(tmp_path, entry):
    index = write(in_memory(8), tmp_path, galaxies_a_shard=8)
    described = {key: value for key, value in index.items() if key not in ("splits", "schema_hash")}
    metadata = {"zoobot": json.dumps(described)}
    files = [
        safetensors_file({"__metadata__": metadata, "labels": entry}, bytes(64)),
        (MAX_HEADER_BYTES + 1).to_bytes(8, "little") + bytes(64),
        (2**64 - 1).to_bytes(8, "little"),
        safetensors_file(b"[" * 100_000),
        safetensors_file({"__metadata__": metadata}),
        b"",
    ]
    for content in files:
        (tmp_path / "train/shard-00000.safetensors").write_bytes(content)
        index["splits"]["train"]["shards"][0]["bytes"] = max(1, len(content))
        (tmp_path / "index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match="shard-00000.* is (damaged|torn).*rerun"):
            open_shards(tmp_path, "train").id_str(0)


def test_offsets_that_leave_the_file_are_refused(tmp_path):
    write(in_memory(4), tmp_path)
    path = tmp_path / "train/shard-00000.safetensors"
    tensors = safetensors.numpy.load_file(path)
    wrong = tensors["offsets"].copy()
    wrong[1] = 10**12
    path.write_bytes(path.read_bytes().replace(tensors["offsets"].tobytes(), wrong.tobytes()))
    with pytest.raises(ValueError, match="offsets of bytes are not in order"):
        open_shards(tmp_path, "train").source(0)


def test_an_index_can_not_point_elsewhere_or_be_of_another_version(tmp_path):
    index = write(in_memory(4), tmp_path)
    (tmp_path / "index.json").write_text(json.dumps(index | {"format_version": 3}))
    with pytest.raises(ValueError, match="has format 3; this version reads 1 and 2"):
        read_index(tmp_path)
    index["splits"]["train"]["shards"][0]["file"] = "../../etc/passwd"
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="damaged"):
        read_index(tmp_path)


def test_unreadable_images_are_named_and_nothing_is_finished(tmp_path):
    table = in_memory(12)
    good = list(table["image"])
    bad = [b"", good[1][:50], b"\xff\xd8\xff" + bytes(99), encoded((8, 8), "JPEG")[:-30]]
    table["image"] = bad + good[4:]
    with pytest.raises(ValueError, match="4 of 12 images can't be read.*id_str 'g") as error:
        write(table, tmp_path)
    assert all(f"id_str 'g{i}'" in str(error.value) for i in range(4))
    assert not list(tmp_path.rglob("*.json.*"))
    assert not (tmp_path / "index.json").exists()
    with pytest.raises(ValueError, match="4 of 12 images can't be read"):
        write(table, tmp_path / "raw", encoding="raw", num_workers=1)
    assert not [name for name in contents(tmp_path) if "/." in name]
    with pytest.raises(ValueError, match="12 of 12 image files are missing"):
        write(table.assign(file_loc=str(tmp_path / "no.png")), tmp_path / "files")


class Pixels(torch.utils.data.Dataset):
    def __init__(self, shards):
        self.shards = shards

    def __len__(self):
        return len(self.shards)

    def __getitem__(self, i):
        return self.shards.id_str(i), torch.tensor(self.shards.source(i))


def test_shards_are_read_by_worker_processes(tmp_path):
    write(in_memory(10), tmp_path, encoding="raw")
    shards = open_shards(tmp_path, "train")
    expected = [(shards.id_str(i), shards.source(i).tobytes()) for i in range(10)]
    assert len(pickle.dumps(shards)) < 5000
    loader = torch.utils.data.DataLoader(Pixels(shards), batch_size=None, num_workers=2)
    with starting_workers():  # torch's handler of SIGCHLD would stay for all later tests
        batches = iter(loader)
    assert [(name, image.numpy().tobytes()) for name, image in batches] == expected
    again = pickle.loads(pickle.dumps(shards))
    assert [(again.id_str(i), again.source(i).tobytes()) for i in range(10)] == expected


def test_numbers_outside_are_an_index_error(tmp_path):
    write(in_memory(5), tmp_path)
    shards = open_shards(tmp_path, "train")
    for i in (-1, 5):
        with pytest.raises(IndexError):
            shards.source(i)
        with pytest.raises(IndexError):
            shards.labels([0, i])
    assert shards.labels([]).shape == (0, 2)


def write_tar(path, members):
    """Members: name -> bytes, or a TarInfo's type for something that is no file."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes) and len(content) > 1:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content, "/etc/passwd"
                tar.addfile(member)


def galaxy_members(*keys, **labels):
    for key in keys:
        yield f"{key}.image.jpg", encoded((8, 8), "JPEG")
        yield f"{key}.labels.json", json.dumps({"a": 1, "b": 2} | labels).encode()


def test_webdataset_tars_are_read_and_hostile_members_ignored(tmp_path):
    hostile = [
        ("/abs.image.jpg", b"12"),
        ("../up.image.jpg", b"12"),
        ("link.image.jpg", tarfile.SYMTYPE),
        ("hard.json", tarfile.LNKTYPE),
        ("device.jpg", tarfile.CHRTYPE),
        ("g0.metadata.json", b"{}"),
        ("._g0.image.jpg", b"12"),
        ("readme.txt", b"12"),
    ]
    write_tar(tmp_path / "a.tar", [*hostile, *galaxy_members("g0", "J1.5"), *hostile])
    plain = [("x/g2.png", encoded()), ("x/g2.json", b'{"a": 3, "b": 4, "file_loc": "/etc/passwd"}')]
    write_tar(tmp_path / "b.tar", [*galaxy_members("key", id_str="g3"), *plain])
    catalog = webdataset.webdataset_catalog(tmp_path)
    assert list(catalog["id_str"]) == ["g0", "J1.5", "g3", "x/g2"]
    assert list(catalog["a"]) == [1, 1, 1, 3]
    assert catalog["image"].iloc[3] == plain[0][1]
    assert "file_loc" not in catalog
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "b.tar"]
    first = next(webdataset.read_webdataset(tmp_path / "a.tar"))
    assert first["labels"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("g.jpg", b"12")], "'g' has no labels"),
        ([("g.json", b"{}"), ("h.jpg", b"12")], "'g' has no image"),
        ([("g.jpg", b"12"), ("g.json", b"[1]")], "no JSON object"),
        ([("g.jpg", b"12"), ("g.json", b"[" * 10**5)], "are no JSON"),
        ([("g.jpg", b"12"), ("g.png", b"12")], "more than one file of image"),
        ([*galaxy_members("g"), *galaxy_members("g")], "more than one"),
        ([*galaxy_members("g", "h"), *galaxy_members("g")], "appears more than once"),
        ([("readme", b"12")], "has no galaxies"),
    ],
)
def test_archives_that_are_wrong_are_told(tmp_path, members, message):
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(ValueError, match=message):
        webdataset.webdataset_catalog(tmp_path / "a.tar")


def test_a_torn_or_missing_archive_is_told(tmp_path):
    write_tar(tmp_path / "a.tar", galaxy_members("g"))
    (tmp_path / "b.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:700])
    for name, message in (("b.tar", "b.tar is no readable"), ("c.tar", "no archive .*c.tar")):
        with pytest.raises(ValueError, match=message):
            webdataset.webdataset_catalog(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no .tar files"):
        webdataset.webdataset_catalog(tmp_path / "empty")


def test_the_script_writes_and_verifies(tmp_path, tree, small_catalog, capsys):
    (tmp_path / "tree.json").write_text(json.dumps(tree.to_dict()))
    shards = tmp_path / "shards"
    where = ["--shard-dir", shards]
    what = ["--labelled-catalog", small_catalog, "--schema", tmp_path / "tree.json"]
    sizes = ["--img-size", 32, "--eval-size", 12, "--galaxies-a-shard", 16, "--num-workers", 0]
    code, out, _ = script(capsys, *where, *what, *sizes)
    assert (code, out.splitlines()[-1][:24]) == (0, "4 shards, 60 galaxies, 0"), out
    assert open_shards(shards, "test").num_galaxies == 12
    assert open_shards(shards, "train").shard_sizes == [16, 16, 16]
    assert open_shards(shards, "train").label_cols == tree.label_cols
    code, out, _ = script(capsys, *where, "--verify")
    assert (code, out[:11]) == (0, "60 galaxies")
    path = shards / "test/shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    code, _, error = script(capsys, *where, "--verify")
    assert code == 2
    assert "shard-00000.safetensors is altered" in error


@pytest.fixture
def with_bad(small_catalog):
    """60 galaxies; g3's image is no image, and that of g7 is damaged within."""
    frame = read_catalog(small_catalog)
    for row in (3, 7):
        frame.loc[row, "file_loc"] = str(small_catalog.parent / f"bad{row}.png")
    (small_catalog.parent / "bad3.png").write_bytes(b"<html>")
    whole = encoded((64, 64), "PNG")
    spoilt = whole[:100] + bytes(40) + whole[140:]
    (small_catalog.parent / "bad7.png").write_bytes(spoilt)
    path = small_catalog.parent / "bad.csv"
    frame.to_csv(path, index=False)
    return path


def test_the_script_lists_all_bad_images_and_stops_or_leaves_them_out(with_bad, tmp_path, capsys):
    shards = tmp_path / "shards"
    words = ["--labelled-catalog", with_bad, "--label-cols", "bar_no", "--eval-size", 12]
    words += ["--num-workers", 0, "--shard-dir"]

    def listed():
        return pd.read_csv(shards / "bad_images.csv")["id_str"].tolist()

    code, _, error = script(capsys, *words, shards, "--check-images", "all")
    assert (code, listed()) == (2, ["g3", "g7"])
    assert "2 of 60 images can't be read" in error
    assert not (shards / "plan.json").exists()
    words += [shards, "--galaxies-a-shard", 16, "--on-bad-image", "drop", "--check-images", "all"]
    code, out, _ = script(capsys, *words)
    assert (code, listed()) == (0, ["g3", "g7"])
    assert "4 shards, 58 galaxies" in out
    assert sorted(ids(shards) + ids(shards, "test")) == sorted(
        f"g{i}" for i in range(60) if i not in (3, 7)
    )


def test_images_that_only_the_writer_finds_bad_are_listed_too(with_bad, tmp_path, capsys):
    shards = tmp_path / "shards"
    words = ["--labelled-catalog", with_bad, "--label-cols", "bar_no", "--eval-size", 12]
    words += ["--num-workers", 0, "--shard-dir", shards, "--check-images", "none"]
    code, _, error = script(capsys, *words)
    assert code == 2
    assert "--check-images all --on-bad-image drop" in error
    listed = pd.read_csv(shards / "bad_images.csv")
    assert sorted(listed["id_str"]) == ["g3", "g7"]
    assert "HTML" in " ".join(listed["reason"])


def test_the_script_takes_archives(tmp_path, capsys):
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars/a.tar", galaxy_members("g0", "g1", "g2", split="train"))
    where = ["--shard-dir", tmp_path / "shards", "--num-workers", 0]
    code, out, _ = script(
        capsys, *where, "--labelled-catalog", tmp_path / "tars", "--label-cols", "b", "a"
    )
    assert (code, out.splitlines()[-1][:21]) == (0, "1 shards, 3 galaxies,")
    assert open_shards(tmp_path / "shards", "train").labels([0]).tolist() == [[2, 1]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--label-cols", "a"], "give --labelled-catalog"),
        (["--labelled-catalog", "CAT"], "give --schema or --label-cols"),
        (["--labelled-catalog", "CAT", "--schema", "gz2", "--label-cols", "a"], "not allowed with"),
        (["--labelled-catalog", "CAT", "--label-cols", "smooth_yess"], "no column 'smooth_yess'"),
        (["--labelled-catalog", "CAT", "--label-cols", "file_loc", "--eval-size", "1"],
         "which is no number"),
        (["--labelled-catalog", "CAT", "--label-cols", "bar_no"], "eval_size=5000: use less than"),
        (["--labelled-catalog", "no.csv", "--label-cols", "a"], "no catalog no.csv"),
        (["--labelled-catalog", "no.tar", "--label-cols", "a"], "no archive no.tar"),
        (["--labelled-catalog", "CAT", "--schema", "gz_dezi"], "no schema named 'gz_dezi'"),
        (["--labelled-catalog", "CAT", "--label-cols", "bar_no", "--quality", "0"],
         "quality=0: use 1 to 100"),
        (["--encoding", "png"], "invalid choice"),
        (["--img-size", "0"], "0 is less than 1"),
        (["--verify"], "no index.json"),
    ],
)  # fmt: skip
def test_misuse_is_one_line(tmp_path, small_catalog, capsys, words, message):
    words = [small_catalog if word == "CAT" else word for word in words]
    code, _, error = script(capsys, "--shard-dir", tmp_path / "shards", *words)
    assert code == 2
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "shards").exists()


def test_under_torchrun_shards_are_not_begun(tmp_path, small_catalog, capsys, monkeypatch):
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2"),
                        ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500")):  # fmt: skip
        monkeypatch.setenv(name, value)
    words = ["--labelled-catalog", small_catalog, "--label-cols", "bar_no"]
    code, _, error = script(capsys, "--shard-dir", tmp_path / "shards", *words)
    assert (code, "leave torchrun out" in error) == (2, True)
    assert not (tmp_path / "shards").exists()


def test_an_archive_that_claims_more_than_it_holds_is_refused_unread(tmp_path):
    for size, message in (
        (2**40, "a.tar is no readable.*'g.jpg' is cut short"),
        (2**63 + 2**60, "a.tar"),
    ):
        member = tarfile.TarInfo("g.jpg")
        member.size = size
        (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        with pytest.raises(ValueError, match=message):
            webdataset.webdataset_catalog(tmp_path / "a.tar")


def test_label_columns_of_an_index_must_be_text(tmp_path):
    write(in_memory(8), tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    index["label_cols"][1] = {"a": 1}
    index["schema_hash"] = schema_hash(index["label_cols"])
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="index.json is damaged"):
        open_shards(tmp_path, "train")
