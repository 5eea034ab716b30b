"""What files from outside can't do, however they are made; docs/security.md lists the promises."""

import argparse
import base64
import bz2
import gzip
import io
import json
import os
import pickle
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from multiprocessing.pool import ThreadPool

import numpy as np
import pandas as pd
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from conftest import draw_galaxies
from files_people_have import tiled_bytes
from hostile_files import refused
from PIL import Image

import train as script
from zoobot import create_shards, evaluate
from zoobot.data import images
from zoobot.data.catalog import read_catalog
from zoobot.data.images import read_image, read_pixels
from zoobot.data.shards import images as shard_images
from zoobot.data.shards.mapped import MAX_HEADER_BYTES
from zoobot.data.shards.reader import open_shards, verify
from zoobot.data.shards.webdataset import read_webdataset, webdataset_catalog
from zoobot.data.shards.writer import write_shards
from zoobot.data.views.config import MAX_SIDE_PX
from zoobot.data.views.cpu import get_galaxy_transform
from zoobot.limits.models import building
from zoobot.limits.text import MAX_CONFIG_BYTES, MAX_JSON_BYTES
from zoobot.models import encoders
from zoobot.models.encoders import save_encoder
from zoobot.models.finetune import FinetuneableZoobotClassifier
from zoobot.models.tree import ZoobotTree
from zoobot.predictions import predict
from zoobot.predictions.files import Predictions, open_writer, read_predictions
from zoobot.predictions.models import load_predictor
from zoobot.runs import checkpoint
from zoobot.schemas import Schema, load_schema
from zoobot.schemas.schema import MAX_ANSWERS
from zoobot.script import run_script
from zoobot.system.errors import UserError
from zoobot.system.files import write_text, write_whole

QUICK = {"batch_size": 4, "num_workers": 0, "show_progress": False}
CATALOG = pd.DataFrame({"id_str": ["a", "b"], "file_loc": ["a.png", "b.png"], "label": [0, 1]})


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "written"


def encoded(kind="PNG", size=(8, 8)):
    file = io.BytesIO()
    Image.new("RGB", size).save(file, kind)
    return file.getvalue()


def tiny_model(tree):
    torch.manual_seed(0)
    return ZoobotTree(schema=tree, architecture_name="test_resnet")


def saved_model(folder, tree, **changes):
    model = tiny_model(tree)
    path = folder / "best.safetensors"
    checkpoint.save_weights(path, model.state_dict(), model.describe() | changes)
    return path


# No pickle is executed.

BY_NAME = {
    "last.ckpt": load_predictor,
    "best.safetensors": load_predictor,
    "resumed.ckpt": checkpoint.load_checkpoint,
    "encoder.ckpt": encoders.load_pretrained_zoobot,
    "run.yaml": lambda path: script.parse(["--config", str(path)]),
    "tree.json": load_schema,
    "image.png": read_image,
    "image.fits": read_image,
    "pixels.jpg": lambda path: read_pixels(str(path)),
    "a.tar": webdataset_catalog,
    **dict.fromkeys(["c.csv", "c.parquet", "c.fits", "c.ecsv", "c.vot"], read_catalog),
    **dict.fromkeys(["p.parquet", "p.csv", "p.hdf5", "p.h5"], read_predictions),
}


@pytest.mark.parametrize("layout", ["pickle", "torch", "lightning"])
@pytest.mark.parametrize("name", BY_NAME)
def test_a_pickle_is_refused_and_not_executed_wherever_a_file_is_read(
    tmp_path, target, name, layout
):
    if layout == "pickle":
        (tmp_path / name).write_bytes(pickle.dumps(Bomb(target)))
    elif layout == "torch":
        torch.save({"format_version": 1, "model": {}, "description": Bomb(target)}, tmp_path / name)
    else:
        torch.save({"state_dict": {}, "hyper_parameters": Bomb(target)}, tmp_path / name)
    refused(lambda: BY_NAME[name](tmp_path / name), name)
    assert not target.exists()


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pth", "other.bin", "model.safetensors"]
)
def test_an_encoder_folder_of_pickled_weights_is_refused(tmp_path, target, name):
    save_encoder(timm.create_model("test_resnet", num_classes=0), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(Bomb(target), tmp_path / name)
    refused(lambda: encoders.load_encoder(f"local-dir:{tmp_path}"), tmp_path)
    assert not target.exists()


class EntryNotFoundError(Exception):
    """Stands for huggingface_hub's, which is made of an answer of its server."""


def test_a_pickle_in_a_hub_repository_is_not_unpickled(tmp_path, target, monkeypatch):
    torch.save(Bomb(target), tmp_path / "evil.bin")
    config = {"architecture": "test_resnet", "num_classes": 0, "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    asked = []

    def download(*names, **options):
        name = options.get("filename") or names[1]
        asked.append(name)
        if name.endswith(".safetensors"):
            raise EntryNotFoundError(name)
        return str(tmp_path / ("config.json" if name == "config.json" else "evil.bin"))

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    monkeypatch.setattr("timm.models._hub.EntryNotFoundError", EntryNotFoundError)
    refused(lambda: encoders.load_encoder("hf_hub:a/b"), "hf_hub:a/b")
    assert "pytorch_model.bin" in asked
    assert not target.exists()


@pytest.mark.parametrize("argument", ["checkpoint_path", "pretrained_cfg", "pretrained"])
def test_a_checkpoint_names_no_other_weights_to_load(tmp_path, tree, target, argument, monkeypatch):
    torch.save(Bomb(target), tmp_path / "evil.bin")
    value = {"checkpoint_path": str(tmp_path / "evil.bin"), "pretrained": True}
    value["pretrained_cfg"] = {"file": value["checkpoint_path"]}
    encoder = encoders.describe("test_resnet", 3, {})
    encoder["timm_kwargs"] = {argument: value[argument]}
    path = saved_model(tmp_path, tree, encoder=encoder)
    seen = []
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: seen.append(k) or create(*a, **k))
    assert isinstance(load_predictor(path), ZoobotTree)
    load_predictor(str(path), representations=True)
    assert seen
    assert all(set(kwargs) == {"in_chans", "num_classes"} for kwargs in seen)
    assert not target.exists()


def test_a_pickle_in_a_shard_an_index_a_cell_or_an_archive_is_refused(tmp_path, tree, target):
    folder = tmp_path / "shards"
    draw_galaxies(tmp_path, tree, 6)
    write_shards(read_catalog(tmp_path / "catalog.csv"), tree.label_cols, folder, num_workers=0,
                 show_progress=False)  # fmt: skip
    content = pickle.dumps(Bomb(target))
    shard = folder / "train/shard-00000.safetensors"
    shard.write_bytes(content.ljust(shard.stat().st_size, b"\0"))
    refused(lambda: open_shards(folder, "train").source(0), "shard-00000")
    refused(lambda: verify(folder), "shard-00000")
    (folder / "index.json").write_bytes(content)
    refused(lambda: open_shards(folder, "train"), "index.json")
    table = pd.DataFrame({"id_str": ["cell"], "image": [content], "label": [1]})
    refused(lambda: write_shards(table, ["label"], tmp_path / "s", num_workers=0), "cell")
    members = [("g.jpg", encoded("JPEG")), ("g.json", content)]
    write_tar(tmp_path / "labels.tar", members)
    refused(lambda: webdataset_catalog(tmp_path / "labels.tar"), "labels.tar")
    assert not target.exists()


def test_tags_of_yaml_make_no_objects(tmp_path, target):
    tag = f"!!python/object/apply:builtins.open [{target}, w]"
    (tmp_path / "run.yaml").write_text(f"seed: {tag}\n")
    refused(lambda: script.parse(["--config", str(tmp_path / "run.yaml")]), "run.yaml")
    lines = ["%ECSV 1.0", "---", "datatype:", "- {name: id_str, datatype: string}"]
    lines += ["- {name: file_loc, datatype: string}", f"meta: {tag}", "schema: astropy-2.0"]
    header = "".join(f"# {line}\n" for line in lines)
    (tmp_path / "c.ecsv").write_text(header + "id_str file_loc\na a.png\n")
    refused(lambda: read_catalog(tmp_path / "c.ecsv"), "c.ecsv")
    assert not target.exists()


def test_an_extension_type_of_arrow_is_not_unpickled(tmp_path, target):
    marks = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Bomb(target)),
    }
    fields = [pa.field("id_str", pa.string()), pa.field("file_loc", pa.string(), metadata=marks)]
    table = pa.table([["a"], ["a.png"]], pa.schema(fields))
    pq.write_table(table, tmp_path / "c.parquet")
    assert list(read_catalog(tmp_path / "c.parquet")["id_str"]) == ["a"]
    assert not target.exists()


# Claims are checked before memory is spent.


def png_of(width, height):
    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6)))
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")


def tiff_of(width, height, *more):
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1)]
    tags = sorted([*tags, (278, height), (279, 100), *more])
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(1000)


def webp_of(width, height):
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    content = b"WEBPVP8X\x0a\0\0\0\0\0\0\0" + size
    return b"RIFF" + struct.pack("<I", len(content)) + content


def jpeg_of(width, height):
    content = bytearray(encoded("JPEG"))
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def fits_of(width, height):
    cards = ["SIMPLE  = T", "BITPIX  = -64", "NAXIS   = 2", f"NAXIS1  = {width}"]
    cards += [f"NAXIS2  = {height}", "END"]
    return "".join(card.ljust(80) for card in cards).ljust(2880).encode()


HUGE = {
    "a.png": png_of(100_000, 100_000),
    "a.tif": tiff_of(100_000, 100_000),
    "a.tiff": tiff_of(64, 64, (322, 30_000), (323, 30_000), (324, 8), (325, 100)),
    "a.webp": webp_of(100_000, 40_000),
    "a.jpg": jpeg_of(65_000, 65_000),
    "a.fits": fits_of(100_000, 100_000),
    "b.fits": gzip.compress(fits_of(100_000, 100_000)),
}


@pytest.mark.parametrize("name", HUGE)
def test_an_image_of_absurd_size_is_refused_before_it_is_decoded(cheap, tmp_path, name):
    pytest.importorskip("astropy")
    (tmp_path / name).write_bytes(HUGE[name])
    for read in (read_image, read_pixels):
        told = refused(lambda read=read: read(str(tmp_path / name)), name)
        words = "its header claims" if name.endswith(".fits") else "over the limit of 100,000,000"
        if name.endswith(".webp") and PIL.__version__.startswith("12."):
            words = "could not create decoder"  # of itself
        assert words in told
        if name != "b.fits":
            refused(lambda read=read: read(HUGE[name], name="embedded"), "embedded")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_a_packed_fits_image_is_unpacked_to_a_limit_only(cheap, tmp_path, monkeypatch, compress):
    pytest.importorskip("astropy")
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 100_000)
    endless_header = b"SIMPLE  =                    T".ljust(80) + b" " * 10_000_000
    (tmp_path / "a.fits").write_bytes(compress(endless_header))
    refused(lambda: read_image(tmp_path / "a.fits"), "a.fits")
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress(endless_header))
    assert "over the limit" in refused(lambda: read_image(tmp_path / "a.fits.gz"), "a.fits.gz")


def test_tiles_whose_decoder_reads_out_of_bounds_are_told_how_to_unpack(cheap, tmp_path):
    pytest.importorskip("astropy")
    content = tiled_bytes(np.zeros((64, 64), np.int16), "PLIO_1")
    (tmp_path / "a.fits").write_bytes(content)
    assert "funpack" in refused(lambda: read_image(tmp_path / "a.fits"), "a.fits")


def with_card(content, name, value):
    """A FITS file with another value of the number ``name`` in its last header."""
    start = content.rindex(f"{name:<8}= ".encode())
    return content[: start + 10] + f"{value:>20}".encode() + content[start + 30 :]


def test_tiles_that_claim_too_much_are_refused_before_they_are_unpacked(cheap, tmp_path):
    pytest.importorskip("astropy")
    rice, packed = (tiled_bytes(np.zeros((64, 64), np.int16), c) for c in ("RICE_1", "GZIP_1"))
    bomb = gzip.compress(bytes(50_000_000))
    small = tiled_bytes(
        np.random.default_rng(0).integers(0, 9, (400, 400)).astype(np.int16),
        "GZIP_1",
        tile_shape=(400, 400),
    )
    start = small.index(b"\x1f\x8b")
    assert len(bomb) < len(small) - start
    rows = rice.rindex(b"END".ljust(80)) // 2880 * 2880 + 2880
    whole = struct.pack(">ii", 500, 0)  # bytes of each tile, and where they begin
    hostile = {
        "wide.fits": (with_card(rice, "ZNAXIS1", 10**8), "over the limit"),
        "tiles.fits": (with_card(rice, "ZTILE1", 1), "its size asks for 4,096"),
        "block.fits": (with_card(rice, "ZVAL1", 0), "BLOCKSIZE is 0"),
        "twice.fits": (packed[:rows] + whole * 64 + packed[rows + 512 :], "share"),
        "bomb.fits": (small[:start] + bomb + small[start + len(bomb) :], "unpacked over"),
        "axes.fits": (with_card(rice, "ZNAXIS", 99), "ZNAXIS is 99"),
        "negative.fits": (with_card(rice, "ZNAXIS1", -5), "ZNAXIS1 is -5"),
        "rows.fits": (with_card(rice, "NAXIS1", 4), "its columns take 8 bytes, its NAXIS1 is 4"),
        "beyond.fits": (rice[:rows] + b"\x7f" * 8 + rice[rows + 8 :], "beyond the end"),
    }
    for name, (content, reason) in hostile.items():
        (tmp_path / name).write_bytes(content)
        assert reason in refused(lambda name=name: read_image(tmp_path / name), name)


def test_a_device_a_pipe_or_a_file_without_end_is_no_image(cheap, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    os.truncate(os.open(tmp_path / "sparse", os.O_CREAT | os.O_WRONLY), 10**10)
    for i, path in enumerate(("/dev/zero", str(tmp_path / "pipe"), str(tmp_path / "sparse"))):
        refused(lambda path=path: read_image(path), path)
        refused(lambda path=path: read_pixels(path), path)
        table, folder = CATALOG.assign(file_loc=path), tmp_path / f"shards-{i}"
        refused(
            lambda table=table, folder=folder: write_shards(
                table, ["label"], folder, num_workers=0, show_progress=False
            ),
            path,
        )


@pytest.mark.parametrize("repeated", ["CONTINUE  'x&'", "COMMENT", "BANDS   = 'g'", "END"])
def test_a_flood_of_headers_is_refused_before_astropy_reads_it(cheap, repeated):
    pytest.importorskip("astropy")
    cards = ["SIMPLE  =" + "T".rjust(21), "BITPIX  =" + "8".rjust(21), "NAXIS   =" + "0".rjust(21)]
    header = "".join(card.ljust(80) for card in cards)
    if repeated == "END":
        empty = "XTENSION= 'IMAGE   '".ljust(80) + header[80:] + "PCOUNT  =".ljust(80) + "END"
        content = (header + "END").ljust(2880) + empty.ljust(2880) * 2001
    else:
        content = header + repeated.ljust(80) * 70_000
    told = refused(lambda: read_image(content.encode(), name="a.fits"), "a.fits")
    assert "over" in told


NEST = "[" * 100_000
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{after}: &{after} [*{before}, *{before}]\n"
    for before, after in zip("abcdefghijklmnop", "bcdefghijklmnopq", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LAUGHS, "alias"),
        ("a: &a {x: 1}\nb: {<<: [*a, *a]}", "alias"),
        (NEST[:1000], "nested too deeply"),
        ("#" * (MAX_CONFIG_BYTES + 1), "larger than the limit"),
    ],
)
def test_a_config_can_not_stand_for_more_than_it_holds(cheap, tmp_path, content, message):
    (tmp_path / "run.yaml").write_text(content)
    told = refused(lambda: script.parse(["--config", str(tmp_path / "run.yaml")]), "run.yaml")
    assert message in told


@pytest.mark.parametrize("content", [NEST, " " * (MAX_JSON_BYTES + 1)], ids=["nested", "large"])
def test_json_is_bounded_in_size_and_depth(cheap, tmp_path, content):
    folder = tmp_path / "json"
    folder.mkdir()
    for name in ("tree.json", "index.json", "config.json"):
        (folder / name).write_text(content)
    (folder / "model.safetensors").write_bytes(b"")
    refused(lambda: load_schema(folder / "tree.json"), "tree.json")
    refused(lambda: open_shards(folder, "train"), "index.json")
    refused(lambda: encoders.load_encoder(f"local-dir:{folder}"), "config.json")
    if content == NEST:
        header = json.dumps({"__metadata__": {"zoobot": NEST}}).encode()
        (folder / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
        refused(lambda: load_predictor(str(folder / "a.safetensors")), "a.safetensors")
        (folder / "p.csv").write_text(f"id_str,x\na,{NEST}\n")
        refused(lambda: read_predictions(folder / "p.csv"), "p.csv")


def test_a_checkpoint_can_not_unpack_to_more_than_itself(cheap, tmp_path, monkeypatch):
    torch.save({"format_version": 1, "model": torch.zeros(10**5)}, tmp_path / "plain.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "plain.ckpt") as plain,
        zipfile.ZipFile(tmp_path / "packed.ckpt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    told = refused(lambda: checkpoint.load_checkpoint(tmp_path / "packed.ckpt"), "packed.ckpt")
    assert "unpacked" in told
    laughs = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]
    monkeypatch.setattr("zoobot.limits.text.MAX_PARTS", 10_000)
    for content in ({"format_version": laughs}, {"state_dict": {}, "hyper_parameters": laughs}):
        torch.save(content, tmp_path / "laughs.ckpt")
        refused(lambda: load_predictor(str(tmp_path / "laughs.ckpt")), "laughs.ckpt")


def test_a_file_can_not_describe_a_model_larger_than_itself(cheap, tmp_path, tree):
    wide = encoders.describe("test_convnext", 3, {"dims": [8192] * 4, "depths": [9] * 4})
    path = saved_model(tmp_path, tree, encoder=wide)
    refused(lambda: load_predictor(path), "best.safetensors describes a model that can't be built")
    refused(lambda: encoders.load_pretrained_zoobot(path), "best.safetensors")
    model = FinetuneableZoobotClassifier(encoder=tiny_model(tree).encoder, num_classes=2)
    described = model.describe()
    described["arguments"] |= {"num_classes": 10**7, "class_names": None}
    checkpoint.save_weights(path, model.state_dict(), described)
    refused(lambda: load_predictor(path), "best.safetensors")
    folder = tmp_path / "encoder"
    save_encoder(timm.create_model("test_convnext", num_classes=0), folder)
    config = json.loads((folder / "config.json").read_text())
    config["model_args"] |= wide["timm_kwargs"]
    (folder / "config.json").write_text(json.dumps(config))
    refused(lambda: encoders.load_encoder(f"local-dir:{folder}"), folder)


def test_a_model_built_meanwhile_by_another_thread_is_not_counted(tmp_path):
    (tmp_path / "small").write_bytes(b"")
    with building(tmp_path / "small"), ThreadPool(1) as pool:
        assert pool.apply(timm.create_model, ("resnet50",)) is not None
    with pytest.raises(ValueError, match="small describes a model that can't be built"):
        with building(tmp_path / "small"):
            timm.create_model("resnet50")


def test_a_view_and_a_tree_have_largest_sizes(cheap, tmp_path):
    with pytest.raises(ValueError, match="output_size"):
        get_galaxy_transform({"output_size": MAX_SIDE_PX + 1})
    answers = [f"_{i}" for i in range(MAX_ANSWERS + 1)]
    (tmp_path / "tree.json").write_text(json.dumps({"q": {"answers": answers}}))
    assert f"at most {MAX_ANSWERS}" in refused(
        lambda: load_schema(tmp_path / "tree.json"), "tree.json"
    )


def test_a_shard_can_not_claim_more_galaxies_than_bytes(cheap, tmp_path, tree):
    draw_galaxies(tmp_path, tree, 6)
    catalog, folder = read_catalog(tmp_path / "catalog.csv"), tmp_path / "shards"
    index = write_shards(catalog, ["smooth_yes"], folder, num_workers=0, show_progress=False)
    split = index["splits"]["train"]
    split["num_galaxies"] = split["shards"][0]["num_galaxies"] = 10**12
    (folder / "index.json").write_text(json.dumps(index))
    refused(lambda: open_shards(folder, "train"), "shard-00000")
    content = struct.pack("<Q", MAX_HEADER_BYTES + 1)
    path = folder / "train/shard-00000.safetensors"
    path.write_bytes(content.ljust(path.stat().st_size, b"\0"))
    refused(lambda: verify(folder), "shard-00000")


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_a_tar_with_huge_or_negative_members_is_refused(cheap, tmp_path):
    member = tarfile.TarInfo("g.jpg")
    member.size = 10**12
    (tmp_path / "huge.tar").write_bytes(member.tobuf() + bytes(1024))
    refused(lambda: webdataset_catalog(tmp_path / "huge.tar"), "huge.tar")
    write_tar(tmp_path / "labels.tar", [("g.jpg", encoded("JPEG")), ("g.json", b" " * 2**21)])
    refused(lambda: webdataset_catalog(tmp_path / "labels.tar"), "labels.tar")
    header = bytearray(tarfile.TarInfo("g.txt").tobuf())
    header[124:136] = b"\xff" + (256**11 - 1024).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (8 * 32 + sum(header[:148]) + sum(header[156:512]))
    (tmp_path / "negative.tar").write_bytes(bytes(header) + bytes(1024))
    refused(lambda: list(read_webdataset(tmp_path / "negative.tar")), "negative.tar")


@pytest.mark.parametrize("odd", ["name", "id_str", "label"])
def test_a_tar_with_text_that_no_file_can_hold_is_refused_in_a_line(tmp_path, odd):
    name = "g\udcff" if odd == "name" else "g"
    labels = {"label": 1} | ({odd: "a\ud800"} if odd != "name" else {})
    members = [(f"{name}.jpg", encoded("JPEG")), (f"{name}.json", json.dumps(labels).encode())]
    write_tar(tmp_path / "odd.tar", members)
    told = refused(lambda: webdataset_catalog(tmp_path / "odd.tar"), "odd.tar")
    assert "no UTF-8" in told
    told.encode()


METADATA = ["[]", "1", '"x"', "null", '{"carried": [[]]}']


@pytest.mark.parametrize("metadata", METADATA)
def test_metadata_of_predictions_that_are_no_dict_are_refused_in_a_line(tmp_path, metadata):
    table = pa.table({"id_str": ["a"], "x": [0.5]})
    pq.write_table(table.replace_schema_metadata({"zoobot": metadata}), tmp_path / "p.parquet")
    refused(lambda: read_predictions(tmp_path / "p.parquet"), "p.parquet")
    h5py = pytest.importorskip("h5py")
    prediction_file(tmp_path / "p.hdf5")
    with h5py.File(tmp_path / "p.hdf5", "a") as file:
        file.attrs["zoobot"] = metadata
    refused(lambda: read_predictions(tmp_path / "p.hdf5"), "p.hdf5")


ERRORS = [
    RecursionError("maximum recursion depth exceeded"),
    MemoryError(),
    RuntimeError("Weights only load failed. Load it with weights_only=False\nx"),
    pickle.UnpicklingError("odd. Use weights_only=False only if you trust the source"),
    AssertionError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_torch_raises_is_a_line_without_its_advice(tmp_path, error, monkeypatch):
    def fail(*args, **options):
        raise error

    torch.save({"format_version": 1}, tmp_path / "a.ckpt")
    monkeypatch.setattr(torch, "load", fail)
    assert "weights_only" not in refused(lambda: load_predictor(tmp_path / "a.ckpt"), "a.ckpt")


def votable(data="<TABLEDATA><TR><TD>a</TD><TD>a.png</TD></TR></TABLEDATA>", **changes):
    table = {"nrows": "1", "arraysize": "*", "doctype": ""} | changes
    return (
        f'<?xml version="1.0"?>{table["doctype"]}<VOTABLE version="1.3"><RESOURCE>'
        f'<TABLE nrows="{table["nrows"]}"><FIELD name="id_str" datatype="char" '
        f'arraysize="{table["arraysize"]}"><LINK href="http://a.doc"/></FIELD>'
        f'<FIELD name="file_loc" datatype="char" arraysize="*"/><DATA>{data}</DATA></TABLE>'
        "</RESOURCE></VOTABLE>"
    )


def test_a_votable_fetches_nothing_and_claims_no_more_than_it_holds(cheap, tmp_path, monkeypatch):
    pytest.importorskip("astropy")
    path = tmp_path / "c.vot"
    path.write_text(votable())
    assert list(read_catalog(path)["id_str"]) == ["a"]
    laughs = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
    outside = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    for content in (
        votable(f'<BINARY><STREAM href="{path.as_uri()}"/></BINARY>'),
        votable('<BINARY2><STREAM href="http://127.0.0.1:9/x" encoding="gzip"/></BINARY2>'),
        votable(nrows=10**10),
        votable(arraysize=10**9),
        votable(doctype=laughs),
        votable(doctype=outside),
        votable()[:-30],
    ):
        path.write_text(content)
        refused(lambda: read_catalog(path), "c.vot")


def test_a_catalog_that_is_packed_or_claims_too_much_is_refused(cheap, tmp_path):
    table = pytest.importorskip("astropy.table").Table.from_pandas(CATALOG)
    for name in ("c.fits", "c.ecsv", "c.vot"):
        table.write(tmp_path / name, **({"format": "votable"} if name == "c.vot" else {}))
        assert len(read_catalog(tmp_path / name)) == 2
        content = (tmp_path / name).read_bytes()
        for packed in (gzip.compress(gzip.compress(content)), bz2.compress(content)):
            (tmp_path / name).write_bytes(packed)
            assert "unpack it" in refused(lambda name=name: read_catalog(tmp_path / name), name)
        (tmp_path / name).write_bytes(content)
    two, many = b"NAXIS2  =" + b" " * 20 + b"2", b"NAXIS2  =" + b"9".rjust(21, b" ")
    many = many.replace(b" " * 12 + b"9", b" 999999999999")
    content = (tmp_path / "c.fits").read_bytes()
    (tmp_path / "c.fits").write_bytes(content.replace(two, many))
    refused(lambda: read_catalog(tmp_path / "c.fits"), "c.fits")
    ecsv = (tmp_path / "c.ecsv").read_text()
    meta = "# meta:\n" + "".join(f"#   {line}\n" for line in LAUGHS.splitlines())
    (tmp_path / "c.ecsv").write_text(ecsv.replace("# schema", meta + "# schema"))
    assert len(read_catalog(tmp_path / "c.ecsv")) == 2  # of the metadata nothing is made
    many = pa.table({"id_str": ["a" * 10**6] * 100, "file_loc": ["a"] * 100})
    for name, read in (("c.parquet", read_catalog), ("p.parquet", read_predictions)):
        pq.write_table(many, tmp_path / name, compression="zstd")
        assert "the limits are" in refused(lambda n=name, r=read: r(tmp_path / n), name)


def prediction_file(path, ids=("a", "b"), columns=("x", "y"), values=None, metadata=None):
    values = np.full((len(ids), len(columns), 1), 0.5, np.float32) if values is None else values
    made = Predictions(np.array(ids, dtype=object), values, list(columns), None, metadata or {})
    with open_writer(path, path.suffix, made, len(ids)) as writer:
        writer.write(made)
    return path


def test_hdf5_predictions_are_of_their_own_file_and_no_larger(cheap, tmp_path):
    h5py = pytest.importorskip("h5py")
    path, secret = tmp_path / "p.hdf5", tmp_path / "secret"
    secret.write_bytes(b"not yours" * 10)
    outside = h5py.File(tmp_path / "outside.hdf5", "w")
    outside["id_str"] = np.array(["secret"], dtype=object)
    outside.close()

    def without(name):
        prediction_file(path)
        file = h5py.File(path, "a")
        del file[name]
        return file

    with without("predictions") as file:
        file.create_dataset("predictions", (10**12, 2, 1), "float32", chunks=(1, 2, 1))
    refused(lambda: read_predictions(path), "p.hdf5")
    with without("id_str") as file:
        file.create_dataset("id_str", (2,), "S9", external=[(str(secret), 0, 18)])
    refused(lambda: read_predictions(path), "p.hdf5")
    with without("id_str") as file:
        file["id_str"] = h5py.ExternalLink(str(tmp_path / "outside.hdf5"), "id_str")
    refused(lambda: read_predictions(path), "p.hdf5")
    with without("predictions") as file:
        layout = h5py.VirtualLayout((2, 2, 1), "float32")
        layout[:] = h5py.VirtualSource(str(tmp_path / "o.hdf5"), "x", (2, 2, 1))
        file.create_virtual_dataset("predictions", layout)
    refused(lambda: read_predictions(path), "p.hdf5")


# Files are read and written where they belong.


def files_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


HOSTILE_IDS = ["../../up", "/abs/olute", "a\0b", "\x1b[31mred", "=1+1", "..", "a\nb", "</script>"]
if sys.version_info < (3, 11):
    HOSTILE_IDS.remove("a\0b")  # its csv can't write it


def test_ids_are_never_names_of_files(tmp_path, tree):
    table = read_catalog(draw_galaxies(tmp_path, tree, len(HOSTILE_IDS)))
    table["id_str"] = HOSTILE_IDS
    inner = tmp_path / "in" / "ner"
    write_shards(table, tree.label_cols, inner / "shards", num_workers=0, show_progress=False)
    assert files_below(inner) == [
        "shards/index.json", "shards/plan.json", "shards/train/shard-00000.safetensors",
    ]  # fmt: skip
    path = predict.predict_to_file(table, tiny_model(tree), inner / "p.csv", **QUICK)
    assert list(read_predictions(path).ids) == HOSTILE_IDS  # a spreadsheet is not our reader
    outside = {*files_below(tmp_path)} - {f"in/ner/{name}" for name in files_below(inner)}
    assert outside == {"catalog.csv", *(f"images/g{i}.png" for i in range(len(HOSTILE_IDS)))}


@pytest.mark.parametrize("file", ["../../x", "/etc/passwd", "train/../../x.safetensors"])
def test_shards_are_below_their_folder(tmp_path, tree, file):
    draw_galaxies(tmp_path, tree, 6)
    catalog, folder = read_catalog(tmp_path / "catalog.csv"), tmp_path / "shards"
    index = write_shards(catalog, ["smooth_yes"], folder, num_workers=0, show_progress=False)
    index["splits"]["train"]["shards"][0]["file"] = file
    (folder / "index.json").write_text(json.dumps(index))
    refused(lambda: open_shards(folder, "train"), "index.json")


def test_members_of_archives_are_not_extracted_and_leave_the_folder_neither(tmp_path):
    hostile = [("../../up.jpg", b"12"), ("/abs.jpg", b"12"), ("a/../../b.json", b"{}")]
    folder = tmp_path / "in" / "ner"
    folder.mkdir(parents=True)
    write_tar(folder / "a.tar", [*hostile, ("g.jpg", encoded("JPEG")), ("g.json", b'{"a": 1}')])
    before = files_below(tmp_path)
    assert list(webdataset_catalog(folder)["id_str"]) == ["g"]
    assert files_below(tmp_path) == before


def test_temporary_files_are_new_and_the_umask_is_left_alone(tmp_path, monkeypatch):
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patched:
            # Set and restored by two threads at once it would stay at what one of them set.
            patched.delattr(os, "umask")
            names = []
            for _ in range(2):
                write_whole(
                    tmp_path / "a", lambda aside: names.append(aside.name) or aside.write_text("x")
                )
        assert len(set(names)) == 2
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
        secret = tmp_path / "secret"
        secret.write_text("kept")
        monkeypatch.setattr("secrets.token_hex", lambda _: "guessed")
        (tmp_path / ".a.guessed.partial").symlink_to(secret)
        with pytest.raises(FileExistsError):
            write_text(tmp_path / "a", "y")
        assert secret.read_text() == "kept"
    finally:
        os.umask(before)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("name", ["last.ckpt", "a.tar", "best.safetensors"])
def test_a_pipe_that_came_with_the_files_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert "a device or a pipe" in refused(lambda: BY_NAME[name](tmp_path / name), name)


@pytest.mark.usefixtures("at_once")
def test_a_pipe_put_in_the_place_of_an_image_after_it_was_looked_at_is_not_read(
    tmp_path, monkeypatch
):
    path, look = tmp_path / "g.jpg", images.check_file

    def swapped(*arguments):
        look(*arguments)
        path.unlink()
        os.mkfifo(path)

    for module in (images, shard_images):
        monkeypatch.setattr(module, "check_file", swapped)
    described = {"img_size": 10, "channels": 3, "fits_scaling": "asinh"}
    for read in (
        read_image,
        lambda path: read_pixels(str(path)),
        lambda path: shard_images.encode_jpeg(str(path), described, 95, str(path)),
    ):
        path.unlink(missing_ok=True)
        path.write_bytes(encoded("JPEG"))
        with monkeypatch.context() as patched:
            # The first look swaps; later ones, of the pipe, would refuse it in any case.
            patched.setattr(stat, "S_ISDIR", lambda _: True)
            assert "a device or a pipe" in refused(lambda read=read: read(path), "g.jpg")


# Text stays text.


def test_an_error_is_one_line_without_control_characters(capsys, tmp_path):
    def main(_):
        raise UserError("id \x1b[2J\x1b]0;title\x07 \u202e\n\r\x9b31m \ud800 caf\u00e9")

    with pytest.raises(SystemExit):
        run_script(main, lambda: argparse.Namespace(debug=False))
    line = capsys.readouterr().err
    assert line == ("error: id \\x1b[2J\\x1b]0;title\\x07 \\u202e \\x9b31m \\ud800 caf\u00e9\n")


def test_names_that_are_printed_have_no_control_characters(tmp_path):
    with pytest.raises(ValueError, match=r"\\x1b\[31m"):
        Schema({"q\x1b[31m": ["_a", "_b"]}, {"q\x1b[31m": None})
    CATALOG.assign(label=["a", "b\x1b[31m"]).to_csv(tmp_path / "c.csv", index=False)
    path = prediction_file(tmp_path / "p.parquet", metadata={"class_names": ["a", "\x1b[31m"]})
    for use in (
        lambda: evaluate.evaluate(path, CATALOG, tmp_path / "report", label_col="label"),
        lambda: create_shards.parse(["--shard-dir", "x", "--\x1b[31m"]),
    ):
        with pytest.raises(ValueError, match=r"x1b\[31m"):
            use()


def test_an_error_tells_that_a_file_exists_and_nothing_of_its_contents(tmp_path, tree):
    (tmp_path / "secret").write_bytes(b"a-secret key: 4711")
    table = pd.DataFrame({"id_str": ["a", "b", "c"]})
    table["file_loc"] = [str(tmp_path / name) for name in ("secret", "absent", "")]
    path = predict.predict_to_file(
        table, tiny_model(tree), tmp_path / "p.csv", on_bad_image="record", **QUICK
    )
    errors = [*read_predictions(path).errors]
    assert len({*errors}) == 3  # docs/security.md says so
    assert "4711" not in path.read_text()


HOSTILE = "</script><!--<img src=x onerror=a()>\"'&\u2028$\\x{$"


def test_a_report_escapes_names_and_shows_images_but_no_other_file(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded())
    secret = tmp_path / "passwd"
    secret.write_text("root:x:0:0:a-secret")
    table = CATALOG.assign(id_str=[HOSTILE, "../b"], file_loc=[tmp_path / "a.png", secret])
    table = table.rename(columns={"label": "<b>$\\x$"})
    names = [HOSTILE.replace("\u2028", ""), "$\\frac$"]
    told = {"task": "classification", "label_col": "<b>$\\x$", "class_names": names}
    path = prediction_file(tmp_path / "<p>.parquet", table["id_str"], metadata=told)
    page = evaluate.evaluate(path, table, tmp_path / "report", title=HOSTILE).read_text("ascii")
    for form in ("<img src=x", "<b>", "<p>.", "<!--", "a-secret"):
        assert form not in page
    assert base64.b64encode(secret.read_bytes())[:12].decode() not in page
    assert page.count("data:image/jpeg") == 1
    assert page.count("</script>") == 2
    data = json.loads(page.partition('type="application/json">')[2].partition("</script>")[0])
    assert data["galaxies"][0]["id"] == HOSTILE
    assert data["questions"][0]["answers"] == names
    assert {"passwd", "a.png", "<p>.parquet", "report"} == set(os.listdir(tmp_path))
