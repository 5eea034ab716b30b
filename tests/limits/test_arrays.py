"""What .npy, .npz and HDF5 files claim is checked before memory is spent."""

import io
import json
import struct
import types
import zipfile
import zlib

import numpy as np
import pytest

from zoobot.data.bands import read
from zoobot.data.bands.read import read_bands
from zoobot.data.bands.spec import parse_bands
from zoobot.data.images import ImageError
from zoobot.limits import arrays
from zoobot.predictions.files import read_predictions

HUGE = {"descr": "<f4", "fortran_order": False, "shape": (3, 10**6, 10**6)}


def refused(source, bands: str = "g r z") -> str:
    with pytest.raises(ImageError) as caught:
        read_bands(source, parse_bands(bands.split()))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return str(caught.value)


def npy(header, content: bytes = b"", claimed: int | None = None) -> bytes:
    text = str(header).encode() + b"\n"
    length = len(text) if claimed is None else claimed
    return b"\x93NUMPY\2\0" + struct.pack("<I", length) + text + content


def npz(method=zipfile.ZIP_STORED, **members) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


HOSTILE = {
    "pixels": (npy(HUGE), "over the limit of 100,000,000 pixels"),
    "negative": (npy(HUGE | {"shape": (3, -8, 8)}), "shape (3, -8, 8)"),
    "no pixels": (npy(HUGE | {"shape": (3, 0, 8)}), "no image for it"),
    "99 axes": (npy(HUGE | {"shape": (1,) * 99}), "there can be 32 sides"),
    "header": (npy(HUGE, claimed=2**32 - 1), "header claims 4,294,967,295 bytes"),
    "nested": (npy("(" * 5000), "nested too deeply"),
    "long numbers": (npy(HUGE | {"shape": (3, 10**3000, 8)}), "over the limit"),
    "no header": (npy("__import__('os').getcwd()"), "damaged"),
    "pickles": (npy(HUGE | {"descr": "|O", "shape": (3, 8, 8)}), "not of numbers"),
    "records": (npy(HUGE | {"descr": [("a", "<f4"), ("b", "|O")]}), "not of numbers"),
    "cut short": (npy(HUGE | {"shape": (3, 8, 8)}, bytes(700)), "cut short at 700"),
    "npz pixels": (npz(images=npy(HUGE)), "over the limit of 100,000,000 pixels"),
    "npz pickles": (npz(images=npy(HUGE | {"descr": "|O"})), "no image for it"),
    "npz texts": (
        npz(images=npy(HUGE), filters=npy(HUGE | {"descr": "<U0", "shape": (10**9,)})),
        "over the limit of 100,000,000 pixels",
    ),
    "npz, lzma": (npz(zipfile.ZIP_LZMA, images=npy(HUGE)), "packed as NumPy does not"),
    "npz without end": (npz(images=npy(HUGE))[:-30], "without its end"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_array_that_claims_too_much_is_refused(cheap, name):
    content, reason = HOSTILE[name]
    assert reason in refused(content)


def test_an_npz_is_unpacked_as_far_as_its_arrays_go(cheap, tmp_path):
    header = npy(HUGE | {"shape": (3, 4, 5)})
    bomb = npz(zipfile.ZIP_DEFLATED, images=header + bytes(40_000_000))
    assert len(bomb) < 60_000
    assert not np.any(read_bands(bomb, parse_bands([*"grz"])))
    claimed = bomb.replace(struct.pack("<I", 40_000_000 + len(header)), struct.pack("<I", 2**31))
    assert "images.npy claims 2,147,483,648 bytes" in refused(claimed)
    many = npz(**{f"a{i}": b"" for i in range(20_000)})
    assert "its list of arrays has" in refused(many)
    sound = npz(images=npy(HUGE | {"shape": (3, 4, 5)}, bytes(240)))
    read_bands(sound, parse_bands([*"grz"]))
    end = sound.rindex(b"PK\5\6")
    huge = sound[:end] + b"PK\6\7" + bytes(16) + sound[end:]
    assert "for over 4 GB" in refused(huge)


def test_all_bands_of_a_galaxy_together_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "MAX_PIXELS", 250)
    for band in "grz":
        np.save(tmp_path / f"a_{band}.npy", np.ones((10, 10)))
    np.savez(tmp_path / "a.npz", **{band: np.ones((10, 10)) for band in "grz"})
    paths = {band: str(tmp_path / f"a_{band}.npy") for band in "grz"}
    for source in (tmp_path / "a_{band}.npy", json.dumps(paths), tmp_path / "a.npz"):
        assert len(read_bands(source, parse_bands(["g", "r"]))) == 2
        assert "over the limit of 250 pixels" in refused(source)


def test_an_hdf5_file_takes_nothing_from_elsewhere(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(bytes(range(200)) * 8)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["g"] = np.ones((4, 5))
    layout = h5py.VirtualLayout((4, 5), "f8")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "g", (4, 5))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = np.full((4, 5), 7.0)
        file["linked"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "g")
        file["soft"] = h5py.SoftLink("/linked")
        file.create_dataset("raw", (4, 5), "f8", external=[(str(tmp_path / "secret"), 0, 160)])
        file.create_virtual_dataset("virtual", layout)
    for band in ("linked", "soft"):
        assert f"band g at {band}: the file has no image" in refused(tmp_path / "a.h5", f"g={band}")
    for band in ("raw", "virtual"):
        assert "takes its numbers from other files" in refused(tmp_path / "a.h5", f"g={band}")
    assert read_bands(tmp_path / "a.h5", parse_bands(["g=image"]))[0].mean() == 7


def test_the_chunks_of_an_hdf5_file_are_limited(cheap, tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr(arrays, "MAX_CHUNK_BYTES", 10_000)
    monkeypatch.setattr(arrays, "CHUNK_UNPACKED_UNSEEN", 10)
    options = {"compression": "gzip", "chunks": (1, 20, 20)}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        sound = file.create_dataset("sound", (3, 20, 20), "f4", **options)
        sound[:2] = np.random.default_rng(0).normal(size=(2, 20, 20))
        bomb = file.create_dataset("bomb", (3, 20, 20), "f4", **options)
        bomb.id.write_direct_chunk((1, 0, 0), zlib.compress(bytes(1_000_000)))
        file.create_dataset("wide", (3, 99, 99), "f4", compression="gzip", chunks=(3, 99, 99))
        file["nothing"] = h5py.Empty("f4")
        file["words"] = ["x" * 90_000] * 9
        wanted = sound[()]
    for row in range(3):  # of row 2 nothing is stored
        found = read_bands(f"{tmp_path}/a.h5#{row}", parse_bands(["g=sound"]))[0]
        np.testing.assert_array_equal(found, wanted[row])
    assert "unpacked over the limit of 10,000" in refused(f"{tmp_path}/a.h5#1", "g=bomb")
    assert "unpacked over" in refused(tmp_path / "a.h5", "g=bomb[1]")
    assert "chunks of 117,612 bytes" in refused(tmp_path / "a.h5", "g=wide[1]")


PACKED = {  # how chunks are packed -> what is told
    "two": ([(1, (6,)), (1, (6,))], "unusual"),
    "other": ([(2, (4,)), (1, (6,)), (2, (4,))], "unusual"),
    "lzf": ([(32000, (4, 261, 2**30))], "claims"),
    "scaled": ([(6, (2, 0, 2**30, 0, 4))], "claims"),
}


@pytest.mark.parametrize("name", PACKED)
def test_chunks_that_are_packed_in_unusual_ways_are_refused(name):
    filters, message = PACKED[name]
    made = types.SimpleNamespace(
        get_nfilters=lambda: len(filters),
        get_filter=lambda i: (filters[i][0], 0, filters[i][1], b""),
    )
    array = types.SimpleNamespace(
        external=None,
        is_virtual=False,
        chunks=None,
        name="a",
        id=types.SimpleNamespace(get_create_plist=lambda: made),
    )
    with pytest.raises(ValueError, match=message):
        arrays.check_hdf5_array(array)


@pytest.mark.parametrize("options", [{"compression": "lzf"}, {"compression": "gzip"}, {}])
def test_arrays_that_are_packed_in_the_usual_ways_are_read(tmp_path, options):
    h5py = pytest.importorskip("h5py")
    values = np.arange(400.0, dtype="f4").reshape(20, 20)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("g", data=values, shuffle=True, fletcher32=True, **options)
        file.create_dataset("r", data=values.astype(int), scaleoffset=0)
    found = read_bands(tmp_path / "a.h5", parse_bands(["g", "r"]))
    for band in found:
        np.testing.assert_array_equal(band, values)


def test_a_chunk_of_predictions_is_limited(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr(arrays, "MAX_CHUNK_BYTES", 10_000)
    monkeypatch.setattr(arrays, "CHUNK_UNPACKED_UNSEEN", 10)
    with h5py.File(tmp_path / "p.hdf5", "w") as file:
        file["id_str"], file["label_cols"] = ["a"], ["x"]
        bomb = file.create_dataset("predictions", (1, 1, 1), "f4", chunks=True, compression="gzip")
        bomb.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(1_000_000)))
    with pytest.raises(ValueError, match="p.hdf5 .*unpacked over the limit"):
        read_predictions(tmp_path / "p.hdf5")


def test_a_file_of_many_galaxies_may_be_larger_than_one_of_a_galaxy(tmp_path, monkeypatch):
    monkeypatch.setattr("zoobot.data.images.MAX_FILE_BYTES", 5000)
    many = np.arange(9600.0).reshape(6, 4, 20, 20)
    np.save(tmp_path / "a.npy", many)
    found = read_bands(f"{tmp_path}/a.npy#5", parse_bands([*"griz"]))
    np.testing.assert_array_equal(found, many[5])
    assert "over the limit 5,000" in refused(tmp_path / "a.npy")
