"""Small files that are large once they are read, and their readers, for a process of their own."""

import gzip
import json
import multiprocessing
import os
import pickle
import resource
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from zoobot.data import loaders
from zoobot.data.catalog import read_catalog
from zoobot.data.dataset import CatalogDataset
from zoobot.data.images import read_image
from zoobot.models import encoders
from zoobot.models.tree import ZoobotTree
from zoobot.predictions.files import Predictions, read_predictions, write_predictions
from zoobot.predictions.models import load_predictor
from zoobot.runs import checkpoint
from zoobot.schemas import Schema
from zoobot.system.errors import UserError

SPARE_BYTES = 1_500_000_000
MANY = 2_500_000_000  # bytes
TREE = {"smooth": {"answers": ["_yes", "_no"], "asked_after": None}}


class _Made:
    def __reduce__(self):
        return bytearray, (MANY,)


def write_pickle(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"x": _Made()}, protocol=2))


def write_hidden(path):
    """A packed archive; behind it the start of another list of members, which Python takes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    once = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = once * (MANY // 2**24) + packer.flush()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("a/data/0", packed)
    content = bytearray(path.read_bytes())
    for magic, method, size in ((b"PK\3\4", 8, 22), (b"PK\1\2", 10, 24)):
        place = content.rindex(magic)
        struct.pack_into("<H", content, place + method, zipfile.ZIP_DEFLATED)
        struct.pack_into("<I", content, place + size, MANY // 2**24 * 2**24)
    path.write_bytes(content + b"PK\5\6")


def write_repeated(path):
    torch.save({"format_version": 1, "model": torch.zeros(1).expand(MANY)}, path)


def write_header(path):
    length = 75_000_000
    path.write_bytes(struct.pack("<Q", length) + b'{"a":[' + b"{}," * ((length - 8) // 3) + b"{}]}")


def write_tensors(path):
    entry = json.dumps({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})
    header = b"{" + ",".join(f'"{i}":{entry}' for i in range(200_000)).encode() + b"}"
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def write_dictionary(path):
    names = ["id_str", "file_loc", "text"]
    with pq.ParquetWriter(path, pa.schema([(n, pa.string()) for n in names])) as writer:
        for start in range(0, 30_000, 1000):
            ids = [str(i) for i in range(start, start + 1000)]
            writer.write_table(pa.table([ids, ids, ["x" * 100_000] * 1000], names))


def write_lists(path):
    values = pa.nulls(190_000_000, pa.int8())
    lists = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
    pq.write_table(pa.table({"id_str": ["a"], "x": lists}), path)


def write_fixed(path):
    """Texts of a fixed length, of which none is there."""
    missing = pa.nulls(1000, pa.binary(10**6))
    pq.write_table(pa.table({"id_str": [f"{i}" for i in range(1000)], "x": missing}), path)


def write_images(path):
    """Dicts of which none holds anything; each is an object of Python."""
    missing = pa.nulls(10_000_000, pa.binary())
    images = pa.StructArray.from_arrays([missing, missing], ["bytes", "path"])
    pq.write_table(pa.table({"id_str": pa.nulls(10_000_000, pa.string()), "image": images}), path)
    with open(path, "ab") as file:
        file.write(bytes(100_000))  # as if it were large enough for so many rows
        content = path.read_bytes()
        length = int.from_bytes(content[-100_008:-100_004], "little")
        file.write(content[-100_008 - length : -100_000])


def write_structs(path):
    """Two million columns of a group of rows, of a byte each."""
    pq.write_table(pa.table({"id_str": ["a"]}), path)
    groups = b"\x49\x2c" + 2 * (b"\x19\xfc\xc0\x84\x3d" + bytes(1_000_000) + b"\0")
    with open(path, "ab") as file:
        file.write(groups + b"\0" + (len(groups) + 1).to_bytes(4, "little") + b"PAR1")


def write_false_count(path):
    """The same, where the end of the file says that there are 8 values; its page knows better."""
    write_lists(path)
    content, count = path.read_bytes(), 190_000_000 * 2
    told = bytes([*(count >> shift & 127 | 128 for shift in (0, 7, 14, 21)), count >> 28])
    place = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    end = content[place:].replace(told, b"\x90\x80\x80\x80\0")
    path.write_bytes(content[:place] + end)


def write_references(path):
    """The places of all texts are one place."""
    import h5py

    values = np.zeros((20_000, 1, 1), np.float32)
    ids = np.array([f"{i}" for i in range(20_000)], dtype=object)
    ids[0] = "x" * 200_000
    write_predictions(path, Predictions(ids, values, ["y"], None, {}))
    with h5py.File(path) as file:
        dataset = file["id_str"]
        start, num_bytes = dataset.id.get_offset(), dataset.id.get_storage_size()
    content = bytearray(path.read_bytes())
    one = content[start : start + num_bytes // 20_000]
    content[start : start + num_bytes] = one * 20_000
    path.write_bytes(content)


def write_window(path):
    """A small Swin whose table of places within a window is described as huge."""
    torch.manual_seed(0)
    model = ZoobotTree(schema=Schema.from_dict(TREE), architecture_name="test_resnet")
    described = model.describe()
    kwargs = {"window_size": 300, "img_size": 1200, "embed_dim": 8, "num_heads": [1, 1, 1, 1]}
    kwargs["depths"] = [1, 1, 1, 1]
    described["encoder"] = encoders.describe("swin_tiny_patch4_window7_224", 3, kwargs)
    checkpoint.save_weights(path, model.state_dict(), described)


def write_sparse(path):
    path.write_bytes(b"id_str,file_loc\na,a.png\n")
    os.truncate(path, 2**36)


def write_sparse_table(path):
    from astropy.io import fits

    column = fits.Column("id_str", "1000A", array=["a"])
    fits.BinTableHDU.from_columns([column]).writeto(path)
    content = path.read_bytes()
    claim = content.replace(b"NAXIS2  =" + b" " * 20 + b"1", b"NAXIS2  =" + b"10000000".rjust(21))
    path.write_bytes(claim)
    os.truncate(path, 2880 * 2 + 1000 * 10_000_000 + 2880)


def write_fits_image(path):
    from astropy.io import fits

    header = fits.Header({"SIMPLE": True, "BITPIX": -64, "NAXIS": 2, "NAXIS1": 10_000})
    header["NAXIS2"] = 10_000
    with gzip.open(path, "wb", 1) as file:
        file.write(header.tostring().encode())
        for _ in range(800):
            file.write(bytes(1_000_000))
        file.write(bytes(2880 - 800_000_000 % 2880))


def write_tiff(path):
    Image.new("F", (10_000, 10_000), 1.0).save(path, "TIFF", compression="tiff_lzw")


def write_rgba(path):
    Image.new("RGBA", (10_000, 10_000), (9, 9, 9, 9)).save(path, "PNG", compress_level=1)


def _load(path):
    load_predictor(str(path))


def _train_on(path):
    """Read an image in a worker of a loader."""
    table = pd.DataFrame({"id_str": ["a"], "file_loc": [str(path)]})
    list(loaders.eval_loader(CatalogDataset(table), 1, num_workers=1))


REFUSED = {  # name of a file -> how it is written and read
    "pickle.ckpt": (write_pickle, checkpoint.load_checkpoint),
    "hidden.ckpt": (write_hidden, checkpoint.load_checkpoint),
    "repeated.ckpt": (write_repeated, checkpoint.load_checkpoint),
    "header.safetensors": (write_header, _load),
    "tensors.safetensors": (write_tensors, _load),
    "dictionary.parquet": (write_dictionary, read_catalog),
    "lists.parquet": (write_lists, read_predictions),
    "false_count.parquet": (write_false_count, read_predictions),
    "fixed.parquet": (write_fixed, read_catalog),
    "images.parquet": (write_images, read_catalog),
    "structs.parquet": (write_structs, read_predictions),
    "references.hdf5": (write_references, read_predictions),
    "window.safetensors": (write_window, _load),
    "sparse.csv": (write_sparse, read_catalog),
    "sparse.fits": (write_sparse_table, read_catalog),
    "image.fits.gz": (write_fits_image, read_image),
    "float.tif": (write_tiff, read_image),
    "alpha.png": (write_rgba, read_image),
}
IN_WORKER = {"of_worker.png": (write_rgba, _train_on)}


def read_bounded(name: str, path: str, pipe) -> None:
    """Read a file with little memory to spare; send why it is refused, ``""`` if it is read."""
    status = Path("/proc/self/status").read_text().splitlines()
    taken = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (taken + SPARE_BYTES,) * 2)
    try:
        (REFUSED | IN_WORKER)[name][1](Path(path))
        told = ""
    except UserError as error:
        causes = [error]
        while causes[-1] is not None:
            causes.append(causes[-1].__cause__ or causes[-1].__context__)
        is_late = any(isinstance(e, MemoryError) or "alloc" in str(e) for e in causes)
        told = f"too late: {error}" if is_late else str(error)
    except BaseException as error:
        told = f"too late: {error!r}"
    pipe.send(told)
    for worker in multiprocessing.active_children():  # they hear no SIGTERM
        worker.kill()
