"""Sound inputs of every kind, small, the same in every process: what the fuzzer damages."""

import bz2
import functools
import gzip
import io
import json
import tarfile
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import timm
import torch
from astropy.io import fits
from astropy.table import Table
from PIL import Image

from zoobot.data.shards.writer import write_shards
from zoobot.models import encoders
from zoobot.models.finetune import FinetuneableZoobotClassifier
from zoobot.models.tree import ZoobotTree
from zoobot.predictions.files import Predictions, write_predictions
from zoobot.runs import checkpoint
from zoobot.schemas import Schema

ENCODER = "test_efficientnet_ln"
SIDE_PX = 24
NUM_GALAXIES = 6
TREE = {
    "smooth": {"answers": ["_yes", "_no"], "asked_after": None},
    "bar": {"answers": ["_strong", "_weak", "_no"], "asked_after": "smooth_no"},
    "arms": {"answers": ["_1", "_2"], "asked_after": ["bar_strong", "bar_weak"]},
}
LABEL_COLS = Schema.from_dict(TREE).label_cols
CONFIG = {
    "catalog": "demo",
    "schema": "gz2_schema",
    "encoder": "resnet18",
    "image_size": 64,
    "channels": 3,
    "fits_scaling": "asinh",
    "shear": 10.0,
    "batch_size": 64,
    "epochs": 3,
    "lr": 0.001,
    "betas": [0.9, 0.999],
    "dropout": 0.1,
    "scheduler": "cosine",
    "warmup_epochs": 1.0,
    "seed": 42,
    "num_workers": 2,
    "save_dir": "runs/a",
    "resume": "auto",
    "compile": "off",
    "device": "cpu",
}


def pixels(channels: int = 3, dtype=np.uint8) -> np.ndarray:
    rng = np.random.default_rng(0)
    values = rng.gamma(1.0, 60.0, (SIDE_PX, SIDE_PX, channels)).clip(0, 255).astype(dtype)
    return values[..., 0] if channels == 1 else values


def encode(image, form: str, **options) -> bytes:
    """A Pillow image or an array as a file."""
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, form, **options)
    return buffer.getvalue()


def encode_fits(*hdus) -> bytes:
    """A FITS file."""
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(buffer)
    return buffer.getvalue()


@functools.cache
def images() -> dict[str, bytes]:
    """Name -> file: every format and mode that is read."""
    rgb, grey = Image.fromarray(pixels()), Image.fromarray(pixels(1))
    alpha = rgb.convert("RGBA")
    alpha.putalpha(grey)
    sky = pixels(1, np.float32)
    found = {
        "rgb.png": encode(rgb, "PNG"),
        "palette.png": encode(rgb.convert("P"), "PNG", transparency=3),
        "alpha.png": encode(alpha, "PNG"),
        "deep.png": encode(pixels(1, np.uint16), "PNG"),
        "bits.png": encode(grey.convert("1"), "PNG"),
        "rgb.jpg": encode(rgb, "JPEG"),
        "progressive.jpg": encode(rgb, "JPEG", progressive=True, exif=b"Exif\0\0II*\0" + bytes(20)),
        "grey.jpg": encode(grey, "JPEG"),
        "cmyk.jpg": encode(rgb.convert("CMYK"), "JPEG"),
        "lossy.webp": encode(alpha, "WEBP"),
        "lossless.webp": encode(rgb, "WEBP", lossless=True),
        "moving.webp": encode(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90)]),
        "float.tif": encode(sky, "TIFF"),
        "int.tif": encode(sky.astype(np.int32), "TIFF"),
        "fixed.fits": encode_fits(fits.ImageHDU(sky)),
        "cube.fits": encode_fits(fits.ImageHDU(np.stack([sky] * 3))),
        "scaled.fits": encode_fits(fits.ImageHDU(sky.astype(np.uint16))),
        "packed.fits": encode_fits(
            fits.CompImageHDU(sky.astype(np.int32), compression_type="RICE_1")
        ),
        "tiles.fits": encode_fits(
            fits.CompImageHDU(sky, compression_type="GZIP_2", tile_shape=(8, 8))
        ),
    }
    for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4"):
        image = rgb if name != "group4" else grey.convert("1")
        found[f"{name}.tif"] = encode(image, "TIFF", compression=name)
    found["small.fits.bz2"] = bz2.compress(found["fixed.fits"])
    found["small.fits.gz"] = gzip.compress(found["fixed.fits"], mtime=0)
    return found


@functools.cache
def band_files() -> dict[str, bytes]:
    """Name -> file: images of the bands g, r and z in every container that is read."""
    sky = pixels(3, np.float32)
    cube, whole = np.moveaxis(sky, -1, 0), sky.astype(np.int32)
    primary = fits.PrimaryHDU(cube)
    primary.header["BANDS"] = "grz"
    file = io.BytesIO()
    fits.HDUList([primary]).writeto(file)
    pages = [Image.fromarray(plane) for plane in cube]
    found = {
        "cube.fits": file.getvalue(),
        "last.fits": encode_fits(fits.ImageHDU(whole, name="SCI"), fits.ImageHDU(sky[..., 0])),
        "named.fits": encode_fits(
            *(fits.ImageHDU(p, name=n) for p, n in zip(cube, "GRZ", strict=True))
        ),
        "pages.tif": encode(pages[0], "TIFF", save_all=True, append_images=pages[1:]),
        "cube.npy": _saved(np.save, cube),
        "fortran.npy": _saved(np.save, np.asfortranarray(cube.astype(">f8"))),
        "many.npy": _saved(np.save, np.stack([cube] * 3)),
        "cube.npz": _saved(np.savez, images=cube, filters=np.array([*"grz"]), psfs=cube[:, :3, :3]),
        "packed.npz": _saved(np.savez_compressed, **dict(zip("grz", cube, strict=True))),
        "cube.h5": _hdf5(images=cube, bands=[*"grz"]),
        "many.h5": _hdf5(images=np.stack([cube] * 3), filters=[*"grz"]),
        "packed.h5": _hdf5({"compression": "gzip", "shuffle": True}, g=sky[..., 0], r=sky[..., 1]),
    }
    tiles = {"HCOMPRESS_1": {}, "RICE_1": {"tile_shape": (1, 8, 8)}, "GZIP_2": {}}
    for codec, options in tiles.items():
        image = whole[..., 0] if codec == "HCOMPRESS_1" else np.moveaxis(whole, -1, 0)
        packed = fits.CompImageHDU(image, compression_type=codec, name="g", **options)
        found[f"{codec}.fits"] = encode_fits(packed)
    return found


def _saved(save, *arrays, **named) -> bytes:
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


def _hdf5(options: dict | None = None, **arrays) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as target:
        for name, array in arrays.items():
            target.create_dataset(name, data=array, **(options or {}))
    return file.getvalue()


def catalog(embedded: bool = False) -> pd.DataFrame:
    """Galaxies with votes, a class, a number, and images that are there."""
    ids = [f"g{i}" for i in range(NUM_GALAXIES)]
    rng = np.random.default_rng(1)
    labels = {column: rng.integers(0, 20, NUM_GALAXIES) for column in LABEL_COLS}
    classes = {"kind": ["ring", "none"] * (NUM_GALAXIES // 2), "size": rng.random(NUM_GALAXIES)}
    names = ["rgb.png", "rgb.jpg", "grey.jpg"] * (NUM_GALAXIES // 3)
    if embedded:
        image = {"image": [images()[name] for name in names]}
    else:
        image = {"file_loc": names}
    splits = {"split": ["train", "train", "val", "test", "train", "val"]}
    return pd.DataFrame({"id_str": ids, **image, **labels, **classes, **splits})


@functools.cache
def catalogs() -> dict[str, bytes]:
    """Name -> file: every format of catalog."""
    plain, embedded, struct = catalog(), catalog(embedded=True), catalog(embedded=True)
    struct["image"] = [{"bytes": image, "path": "a.png"} for image in struct["image"]]
    found = {"plain.csv": plain.to_csv(index=False).encode()}
    for name, table in (("plain", plain), ("embedded", embedded), ("struct", struct)):
        found[f"{name}.parquet"] = _written(lambda path, table=table: table.to_parquet(path))
    for suffix, form in (("fits", "fits"), ("ecsv", "ascii.ecsv"), ("vot", "votable")):
        table = Table.from_pandas(plain)
        found[f"plain.{suffix}"] = _written(lambda path: table.write(path, format=form))  # noqa: B023
    return found


def _written(write) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        write(path)
        return path.read_bytes()


@functools.cache
def predictions() -> dict[str, bytes]:
    """Name -> file: predictions, which an evaluation reads."""
    table = pd.DataFrame({"id_str": ["a", "b"], "x": [0.5, 1.5], "y": [[0.1, 0.2], [0.3, 0.4]]})
    return {
        "predictions.csv": table[["id_str", "x"]].to_csv(index=False).encode(),
        "predictions.parquet": _written(lambda path: pq.write_table(_arrow(table), path)),
        "predictions.hdf5": _hdf5_predictions(),
    }


def _hdf5_predictions() -> bytes:
    values = np.full((2, 2, 1), 0.5, np.float32)
    made = Predictions(np.array(["a", "b"], dtype=object), values, ["x", "y"], None, {})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.hdf5"
        write_predictions(path, made)
        return path.read_bytes()


def _arrow(table: pd.DataFrame):
    import pyarrow as pa

    return pa.Table.from_pandas(table[["id_str", "y"]], preserve_index=False)


@functools.cache
def shards(encoding: str) -> dict[str, bytes]:
    """Name -> file of a folder of shards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(
            catalog(embedded=True),
            LABEL_COLS,
            folder,
            encoding=encoding,
            img_size=16,
            num_workers=0,
            show_progress=False,
        )
        paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@functools.cache
def webdataset() -> bytes:
    """A tar of galaxies."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i in range(NUM_GALAXIES):
            labels = {column: i for column in LABEL_COLS} | {"id_str": f"g{i}"}
            parts = {"image.jpg": images()["rgb.jpg"], "labels.json": json.dumps(labels).encode()}
            for suffix, content in parts.items():
                member = tarfile.TarInfo(f"g{i}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@functools.cache
def models() -> dict[str, tuple[dict, dict]]:
    """Class -> weights and description of a small model."""
    torch.manual_seed(0)
    tree = ZoobotTree(schema=Schema.from_dict(TREE), architecture_name=ENCODER)
    encoder = timm.create_model(ENCODER, num_classes=0)
    classifier = FinetuneableZoobotClassifier(2, "kind", encoder=encoder)
    return {
        type(model).__name__: (model.state_dict(), model.describe() | {"image_size": 32})
        for model in (tree, classifier)
    }


def lightning(weights: dict, arguments: dict) -> dict:
    """A state as Lightning lays it out."""
    names = {f"encoder.{k.removeprefix('encoder.')}": v for k, v in weights.items()}
    return {
        "state_dict": names,
        "hyper_parameters": {"architecture_name": ENCODER, "channels": 3, **arguments},
        "epoch": 3,
        "pytorch-lightning_version": "2.2.0",
    }


@functools.cache
def encoder_folder() -> dict[str, bytes]:
    """``config.json`` and ``model.safetensors`` of an encoder."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        encoders.save_encoder(timm.create_model(ENCODER, num_classes=0), folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def saved_state(state, **options) -> bytes:
    """A ``.ckpt``, with all that ``torch.save`` takes."""
    buffer = io.BytesIO()
    torch.save(state, buffer, **options)
    return buffer.getvalue()


@functools.cache
def weights_file(name: str) -> bytes:
    """A model's ``.safetensors``."""
    return _written(lambda path: checkpoint.save_weights(path, *models()[name]))
