"""Hostile headers of tables, Parquet and HDF5: few bytes that describe much."""

import io
import random
from functools import partial
from pathlib import Path

import h5py
import mutations
import numpy as np
import of_galaxies
import pyarrow as pa
import pyarrow.parquet as pq
import sound
from astropy.io import fits
from mutations import Files, Steps

from zoobot.predictions.files import read_predictions

# Headers of ECSV, FITS and VOTable

TAGS = (
    "!numpy.ndarray {shape: [1], dtype: O, buffer: AAAAAAAAAAA=}",
    "!numpy.ndarray {shape: [800000000], strides: [0], dtype: f8, buffer: AAAAAAAAAAA=}",
    "!<tag:yaml.org,2002:python/object/apply:os.system> ['touch executed']",
    "!astropy.units.Quantity {unit: mag, value: !astropy.table.SerializedColumn {name: x}}",
    "!!python/object/apply:os.system ['touch executed']",
    "!!omap [{a: 1}]",
    "&a [*a]",
    "[" * 60,
)
TYPES = ("U999999999", "object", "string, subtype: 'int8[999999999]'", "float64, subtype: json")
UNITS = (
    "m" * 10**4,
    "10**9999999 m",
    "10+9999999",
    "((((" * 500,
    "10**999999999 m",
    "!astropy.units.Unit {unit: m}",
    "{a: [b]}",
)
CARDS = ("(9,9)", "((((", "x" * 60, 1e300, 1e-320, True)
SIZES = ("999999999", "*", "9x9x999999999", "-1", "99999999999999999999*", "1e9")


def make_header(rng: random.Random) -> Files:
    """A table whose header describes objects, or types of any size."""
    name = rng.choice(("plain.ecsv", "plain.fits", "plain.vot"))
    change = {"ecsv": _ecsv_header, "fits": _fits_header, "vot": _votable_header}
    content = change[name.rpartition(".")[2]](rng, sound.catalogs()[name])
    return {name: content if rng.random() < 0.7 else mutations.damaged_bytes(rng, content)}


def _told(rng: random.Random) -> str:
    """A line of YAML that describes an object."""
    where = rng.choice(("meta: {x: ", "meta: {__serialized_columns__: {id_str: "))
    return where + rng.choice(TAGS) + "}" * where.count("{")


def _ecsv_header(rng: random.Random, content: bytes) -> bytes:
    told = rng.choice((f"datatype: {rng.choice(TYPES)}", f"unit: {rng.choice(UNITS)}"))
    told = told if told.startswith("datatype") else f"datatype: string, {told}"
    content = content.replace(b"datatype: string", told.encode(), 1)
    return content.replace(b"# datatype:", f"# {_told(rng)}\n# datatype:".encode(), 1)


def _fits_header(rng: random.Random, content: bytes) -> bytes:
    marks = [f"--{word}-ASTROPY-SERIALIZED-COLUMNS--" for word in ("BEGIN", "END")]
    lines = [marks[0], "datatype:", "- {name: id_str, datatype: string}", _told(rng), marks[1]]
    cards = []
    for line in lines:
        parts = [line[i : i + 60] for i in range(0, len(line), 60)]
        cards += [f"{part}\\" for part in parts[:-1]] + parts[-1:]
    hdus = fits.HDUList.fromstring(content)
    for card in cards:
        hdus[1].header["COMMENT"] = card
    for key in rng.sample(("UNIT1", "NULL2", "DISP1", "SCAL2", "ZERO2", "DIM1"), 2):
        hdus[1].header[f"X{key}"] = rng.choice((*mutations.INTEGERS, *CARDS, *UNITS))
    file = io.BytesIO()
    hdus.writeto(file, output_verify="ignore")
    content = file.getvalue()
    for key in (b"UNIT1", b"NULL2", b"DISP1", b"SCAL2", b"ZERO2", b"DIM1"):
        content = content.replace(b"X" + key, b"T" + key)  # astropy writes none of these
    return content


def _votable_header(rng: random.Random, content: bytes) -> bytes:
    described = [
        f'arraysize="{rng.choice(SIZES)}"',
        f'unit="{rng.choice(UNITS)[:2000]}"',
        f'datatype="{rng.choice(("double", "unicodeChar", "bit", "floatComplex", "object"))}"',
    ]
    more = rng.choice(("<PARAM name='x' value='1' ", "<FIELD name='x' ")) + rng.choice(described)
    content = content.replace(b"<FIELD ", f"{more}/>\n<FIELD ".encode(), 1)
    if rng.random() < 0.3:
        content = content.replace(b"<TABLE", b'<TABLE nrows="999999999"', 1)
    if rng.random() < 0.2:
        content = content.replace(b"<TABLE", b"<GROUP>" * 5000 + b"<TABLE", 1)
    return content


# Parquet


def make_parquet(rng: random.Random) -> Files:
    """Few bytes for many values, some of them with false numbers in their metadata."""
    content = _nested(rng)
    if rng.random() < 0.5:
        length = int.from_bytes(content[-8:-4], "little")
        pages, footer = content[: -8 - length], content[-8 - length : -8]
        if rng.random() < 0.5:
            footer = mutations.damaged_bytes(rng, footer)
        else:
            pages = mutations.damaged_bytes(rng, pages)
        content = pages + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    return {rng.choice(("table.parquet", "predictions.parquet")): content}


def _nested(rng: random.Random) -> bytes:
    """Texts that repeat, and lists within lists.

    A text that repeats is a number in a dictionary here too: a gigabyte of texts is not made.
    """
    known = rng.choice((None, "plain.parquet", "embedded.parquet", "struct.parquet"))
    sound_table = pq.read_table(io.BytesIO(sound.catalogs()[known])) if known else None
    num_rows = len(sound_table) if known else rng.choice((1, 6, 1000))
    ids = [str(i) for i in range(num_rows)]
    texts = ["x" * rng.choice((1, 10**3, 10**6))]
    text = pa.DictionaryArray.from_arrays(pa.array([0] * num_rows, pa.int32()), texts)
    odd = (pa.binary(1000), pa.decimal128(30), pa.null(), pa.date32(), pa.time64("us"))
    wide = rng.choice((pa.int8(), pa.int8(), *odd))
    most = 10**7 if num_rows == 1 and wide == pa.int8() else 10**5
    values = pa.nulls(rng.choice((0, 10, most)), wide)
    for _ in range(rng.randrange(5)):
        values = rng.choice((_list_of, _list_of, _struct_of))(values)
    nested = pa.concat_arrays([values] * (num_rows if num_rows < 10 else 1))[:num_rows]
    nested = pa.concat_arrays([nested, pa.nulls(num_rows - len(nested), nested.type)])
    columns = {"id_str": ids, rng.choice(("file_loc", "image", "kind", "error")): text}
    if known:
        columns = {name: sound_table[name] for name in sound_table.column_names}
    columns[rng.choice(("y", "y", "y", "image", "smooth_yes", "kind", "split"))] = nested
    options = {"compression": rng.choice(("none", "zstd")), "store_schema": rng.random() < 0.3}
    options["data_page_version"] = rng.choice(("1.0", "2.0"))
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def _list_of(values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)


def _struct_of(values: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays([values[:100_000], values[:100_000]], ["bytes", "path"])


# HDF5

NAMES = ("predictions", "id_str", "label_cols", "error", "images", "bands", "g", "r", "x")


def make_hdf5(rng: random.Random) -> Files:
    """Groups, links, types and filters of every sort, in a file of predictions or of bands."""
    is_predicted = rng.random() < 0.5
    name = "predictions.hdf5" if is_predicted else "a.h5"
    known = sound.predictions()[name] if is_predicted else sound.band_files()["cube.h5"]
    buffer = io.BytesIO(known)
    with h5py.File(buffer, "r+") as file:
        for _ in range(rng.randrange(1, 5)):
            place = file
            for depth in range(rng.choice((0, 0, 1, 40))):
                place = place.require_group(f"group{depth}")
            key = rng.choice(NAMES)
            if key in place:
                del place[key]
            rng.choice(HDF5_PARTS)(rng, place, key)
    content = buffer.getvalue()
    return {name: content if rng.random() < 0.8 else mutations.damaged_bytes(rng, content)}


def _huge(rng: random.Random, place: h5py.Group, key: str) -> None:
    """Numbers that are claimed and not stored."""
    shape = rng.choice(((10**12,), (2, 2, 10**9), (10**5, 10**5), (1, 1), (2**31, 2, 1)))
    chunks = tuple(min(side, rng.choice((1, 64, 10**4))) for side in shape)
    kind = rng.choice(("f4", "i8", "f2", "S1000", "?", "c8", h5py.string_dtype()))
    packed = rng.choice((None, "gzip", "lzf"))
    place.create_dataset(key, shape, kind, chunks=chunks, compression=packed)


def _odd(rng: random.Random, place: h5py.Group, key: str) -> None:
    """A type or layout that no array of ours has."""
    kinds = [[("a", "f4"), ("b", "S9")], "V8", h5py.enum_dtype({"A": 1}), h5py.ref_dtype]
    kinds += [h5py.vlen_dtype(np.float32), ("f4", (300, 300)), h5py.string_dtype("ascii", 5)]
    place.create_dataset(key, rng.choice(((), (2,), (2, 2, 1), (1000,))), rng.choice(kinds))


def _empty(rng: random.Random, place: h5py.Group, key: str) -> None:
    place[key] = h5py.Empty("f4")


def _link(rng: random.Random, place: h5py.Group, key: str) -> None:
    links = [h5py.SoftLink("/"), h5py.SoftLink(f"/{key}"), h5py.ExternalLink("/etc/passwd", "/")]
    place[key] = rng.choice([*links, place.file["/"], h5py.ExternalLink("predictions.hdf5", "/x")])


def _elsewhere(rng: random.Random, place: h5py.Group, key: str) -> None:
    """An array whose numbers are in another file, or in many of them."""
    if rng.random() < 0.5:
        outside = [("/etc/passwd", 0, 16)]
        place.create_dataset(key, (2, 2, 1), "f4", external=outside)
        return
    layout = h5py.VirtualLayout((2, 2, 1), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (2, 2, 1))
    place.create_virtual_dataset(key, layout)


def _zeros(rng: random.Random, place: h5py.Group, key: str) -> None:
    """Chunks that are much smaller than what they unpack to."""
    filters = rng.choice(({"compression": "gzip", "shuffle": True}, {"scaleoffset": 2}))
    filters |= {"fletcher32": True} if "shuffle" in filters else {}
    values = np.zeros((2, rng.choice((2, 10**5)), 1), "i4")
    place.create_dataset(key, data=values, chunks=values.shape, **filters)


def _many(rng: random.Random, place: h5py.Group, key: str) -> None:
    for i in range(rng.choice((10, 1500))):
        if f"{key}{i}" not in place:
            place[f"{key}{i}"] = np.zeros(2, "f4")


def _texts(rng: random.Random, place: h5py.Group, key: str) -> None:
    texts = ["x" * rng.choice((1, 10**6)), "é", b"\xff\xfe", ""] * rng.choice((1, 50))
    place.create_dataset(key, data=texts, dtype=h5py.string_dtype())


def _attributes(rng: random.Random, place: h5py.Group, key: str) -> None:
    for name in ("zoobot", *mutations.HOSTILE[-20:]):
        told = mutations.damaged_json(rng, {"carried": [key], "description": {}})
        place.file.attrs[str(name)[:50].replace("\0", "") or "x"] = np.void(told[:60_000] or b"x")


HDF5_PARTS = (_huge, _huge, _odd, _empty, _link, _elsewhere, _zeros, _many, _texts, _attributes)


def hdf5_steps(folder: Path) -> Steps:
    path = folder / "predictions.hdf5"
    if not path.exists():
        return of_galaxies.bands_steps(folder)
    return iter([partial(read_predictions, path)])
