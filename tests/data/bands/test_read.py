"""Each band is read from where it is, number for number, in the order asked for."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from zoobot.data import images
from zoobot.data.bands.read import read_bands
from zoobot.data.bands.spec import parse_bands
from zoobot.data.catalog import find_missing_files, read_galaxies
from zoobot.data.images import ImageError
from zoobot.data.sources import TableGalaxies

fits = pytest.importorskip("astropy.io.fits")

RNG = np.random.default_rng(0)
CUBE = RNG.normal(size=(4, 30, 20)).astype(np.float32)  # g r i z


def fits_of(*hdus) -> bytes:
    file = io.BytesIO()
    fits.HDUList([*hdus]).writeto(file)
    return file.getvalue()


def cube_with(**cards) -> bytes:
    primary = fits.PrimaryHDU(CUBE)
    for name, value in cards.items():
        primary.header[name] = value
    return fits_of(primary)


def npz_of(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def npy_of(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def read(source, bands: str) -> list[np.ndarray]:
    return read_bands(source, parse_bands(bands.split()))


def question(source, bands: str) -> str:
    with pytest.raises(ImageError) as caught:
        read(source, bands)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same(found, wanted) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype.isnative


SAME_CUBE = {
    "first axis": fits_of(fits.PrimaryHDU(CUBE)),
    "last axis": fits_of(fits.PrimaryHDU(np.moveaxis(CUBE, 0, -1))),
    "axes of length 1": fits_of(fits.PrimaryHDU(CUBE[None, None])),
    "an extension": fits_of(fits.PrimaryHDU(), fits.ImageHDU(CUBE, name="SCI")),
    "in tiles": fits_of(fits.PrimaryHDU(), fits.CompImageHDU(CUBE, compression_type="GZIP_1",
                                                             quantize_level=0)),
    "npy": npy_of(CUBE),
    "npy in Fortran order": npy_of(np.asfortranarray(CUBE)),
    "npy, big-endian": npy_of(CUBE.astype(">f4")),
    "npz": npz_of(images=CUBE, psfs=np.ones((4, 5, 5)), mask=np.ones((4, 30, 20))),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAME_CUBE)
def test_the_planes_of_a_cube_are_its_bands(kind):
    assert_same(read(SAME_CUBE[kind], "g r i z"), CUBE)
    assert_same(read(SAME_CUBE[kind], "z=[3] g=[0]"), CUBE[[3, 0]])
    assert "say its planes: g=[0] ..." in question(SAME_CUBE[kind], "g r i")
    assert "has no plane 4" in question(SAME_CUBE[kind], "g=[4]")


@pytest.mark.parametrize("form", ["BANDS griz", "BANDS g,r,i,z", "BAND0", "npz"])
def test_names_that_the_file_gives_its_planes_are_kept(form):
    source = {
        "BANDS griz": cube_with(BANDS="griz"),
        "BANDS g,r,i,z": cube_with(BANDS="g,r,i,z"),
        "BAND0": cube_with(BAND0="g", BAND1="r", BAND2="i", BAND3="z"),
        "npz": npz_of(images=CUBE, filters=np.array([*"griz"])),
    }[form]
    assert_same(read(source, "z g"), CUBE[[3, 0]])
    assert_same(read(source, "g r i z"), CUBE)
    assert "calls its planes g r i z" in question(source, "g r i y")


def test_a_band_is_an_hdu_by_name_or_number_and_maps_beside_it_are_left_alone():
    source = fits_of(
        fits.PrimaryHDU(),
        *(
            fits.ImageHDU(plane * factor, name=f"{band}{kind}")
            for band, plane in zip("GRIZ", CUBE, strict=True)
            for kind, factor in (("_FLUX", 1), ("_PSF", 2), ("_RMS", 3))
        ),
    )
    assert_same(read(source, "g_flux Z_FLUX"), CUBE[[0, 3]])
    assert_same(read(source, "z=Z_FLUX g=1"), CUBE[[3, 0]])
    asked = question(source, "g r")
    assert "band g: the file has 4 images for it; it holds 1 G_FLUX (30, 20), 2 G_PSF" in asked
    assert "Say where it is: --bands g=NAME, =NUMBER, =[PLANE] or =NAME[PLANE]" in asked
    assert "band g at NOTHING: the file has no image" in question(source, "g=NOTHING")
    one = fits_of(fits.PrimaryHDU(CUBE[0]), fits.ImageHDU(CUBE[1], name="WGT"))
    assert_same(read(one, "g"), CUBE[:1])
    assert "holds one image, 0 PRIMARY (30, 20), for 2 bands" in question(one, "g r")


def test_a_file_a_band(tmp_path):
    for band, plane in zip("griz", CUBE, strict=True):
        fits.writeto(tmp_path / f"a_{band}.fits", plane)
    assert_same(read(tmp_path / "a_{band}.fits", "i g"), CUBE[[2, 0]])
    paths = {band: str(tmp_path / f"a_{band}.fits") for band in "rzg"}
    assert_same(read(json.dumps(paths), "z g"), CUBE[[3, 0]])
    assert "a_y.fits: no such file" in question(tmp_path / "a_{band}.fits", "g y")
    assert "no file of band i; there are r z g" in question(json.dumps(paths), "z i r")


def test_a_catalog_names_a_file_a_band(tmp_path):
    rows = {"id_str": ["a", "b"], "ra": [1.0, 2.0]}
    for band, plane in zip("gr", CUBE, strict=False):
        rows[f"file_loc_{band}"] = [f"{galaxy}_{band}.fits" for galaxy in "ab"]
        for galaxy in "ab":
            fits.writeto(tmp_path / f"{galaxy}_{band}.fits", plane)
    for name, write in (("c.csv", pd.DataFrame.to_csv), ("c.parquet", pd.DataFrame.to_parquet)):
        write(pd.DataFrame(rows), tmp_path / name)
        for num_rows in (None, 1):
            table = pd.concat([*read_galaxies(tmp_path / name, [], num_rows)])
            assert find_missing_files(table["file_loc"]) == []
            for source in table["file_loc"]:
                assert_same(read(source, "r g"), CUBE[[1, 0]])
    (tmp_path / "b_r.fits").unlink()
    assert find_missing_files(table["file_loc"]) == [1]
    absolute = {k: [str(tmp_path / x) for x in v] for k, v in rows.items() if "file" in k}
    source = TableGalaxies(pd.DataFrame({"id_str": ["a", "b"], **absolute})).source(0)
    assert_same(read(source, "g r"), CUBE[:2])


def test_rows_of_large_arrays(tmp_path, monkeypatch):
    many = RNG.normal(size=(5, *CUBE.shape)).astype(np.float32)
    np.save(tmp_path / "a.npy", many)
    np.savez(tmp_path / "a.npz", images=many, labels=np.arange(5))
    paths = [tmp_path / "a.npy", tmp_path / "a.npz"]
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["cutouts/images"] = many
        file["bands"] = [*"griz"]
    paths.append(tmp_path / "a.h5")
    for path in paths:
        assert_same(read(f"{path}#3", "g r i z"), many[3])
        with monkeypatch.context() as small:  # a survey's file, of which a row is read
            small.setattr(images, "MAX_FILE_BYTES", 1000)
            assert_same(read(f"{path}#3", "g r i z"), many[3])
        assert "no row 5 in an array" in question(f"{path}#5", "g r i z")
    assert_same(read(f"{paths[-1]}#2", "z g"), many[2][[3, 0]])
    assert_same(read(f"{paths[-1]}#2", "z=cutouts/images[3]"), many[2][[3]])
    assert "rows (#1) are for" in question(_saved(tmp_path / "a.fits") + "#1", "g r i z")


def _saved(path) -> str:
    path.write_bytes(SAME_CUBE["first axis"])
    return str(path)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_numbers_of_every_type_are_those_of_astropy(dtype):
    plane = (RNG.random((9, 8)) * 200).astype(dtype)
    source = fits_of(fits.PrimaryHDU(plane))
    np.testing.assert_array_equal(read(source, "r")[0], plane)
    scaled = fits.PrimaryHDU(plane.astype("int16"))
    scaled.header["BSCALE"], scaled.header["BZERO"], scaled.header["BLANK"] = 0.5, 10.0, 7
    found, wanted = read(fits_of(scaled), "r")[0], plane.astype("int16") * 0.5 + 10
    blank = plane.astype("int16") == 7
    np.testing.assert_array_equal(np.isnan(found), blank)
    np.testing.assert_allclose(found[~blank], wanted[~blank])


def test_pages_of_a_tif_and_colours_of_a_picture():
    file = io.BytesIO()
    pages = [Image.fromarray(plane) for plane in CUBE]
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    assert_same(read(file.getvalue(), "g=0 z=3"), CUBE[[0, 3]])
    rgb = RNG.integers(0, 255, (6, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "PNG")
    assert_same(read(file.getvalue(), "B R"), [rgb[..., 2], rgb[..., 0]])


def test_nothing_is_unpickled():
    objects = npz_of(images=np.array([[{}]], dtype=object))
    assert "no image" in question(objects, "g")
    assert "not of numbers" in question(npy_of(np.array([[{}]], dtype=object)), "g")


def test_the_axis_of_bands_is_not_guessed():
    even = npy_of(np.zeros((4, 30, 4), np.float32))
    assert "does not tell which axis is that of its 4 bands" in question(even, "g r i z")


SURVEYS = {
    "decals_grz_cubes/example_a.fits": "g r z",
    "decals_grz_cubes/example_b.fits": "g r z",
    "euclid_q1/EUCLJ174752.17+660743.0.fits": "VIS_FLUX NIR_Y_FLUX NIR_J_FLUX NIR_H_FLUX",
    "euclid_q1/102018665_NEG570040238507752998.fits": "g=DES_G_BGSUB VIS=VIS_BGSUB H=22",
    "euclid_q1/EUCLJ174907.29+645946.3_{band}.fits": "vis nir_y nir_j nir_h",
    "hsc_grizy/hsc_cosmos.npz": "g r i z y",
    "hsc_grizy/hsc_cosmos_35.npz": "g r i z y",
    "hsc_grizy/hsc_ra=150.24071_dec=2.06514.fits": "g r i z y",
    "hsc_grizy/Cut_HSC1.fits": "g r i",
    "jwst_two_band/task_2a_colours_0_{band}.fits": "F115W F444W",
    "multi_hdu/cutout_59.1067_-30.4848.fits": "g=1 r=3 z=5",
    "ps1_des_sdss_griz/PS1_{band}.fits": "g r i z",
    "ps1_des_sdss_griz/DES_{band}.fits": "g r i z",
    "ps1_des_sdss_griz/SDSS_{band}.fits": "g r i z",
    "rice_compressed/c4d_130105_065255_ooi_r_a1-N15.fits.fz": "r",
    "rice_compressed/c4d_140818_232043_ooi_z_v2.fits.fz": "z",
}


@pytest.mark.parametrize("name", SURVEYS)
def test_files_of_surveys_are_read_as_astropy_and_numpy_read_them(real_data, name):
    path, spec = real_data / "survey_images" / name, parse_bands(SURVEYS[name].split())
    if not path.parent.is_dir():
        pytest.skip(f"no {path.parent}")
    for i, (band, found) in enumerate(zip(spec.bands, read_bands(path, spec), strict=True)):
        place = spec.places.get(band)
        own = str(path).replace("{band}", band)
        if own.endswith("npz"):
            wanted = np.load(own)["images"][i]
        else:
            with fits.open(own) as hdus:
                images = [h for h in hdus if h.is_image and len(h.shape) > 1]
                named = [h for h in hdus if h.name in (band, place and place.key)]
                wanted = (named or [hdus[place.key] if place else images[0]])[0].data
                wanted = wanted[i] if wanted.ndim == 3 else wanted
        np.testing.assert_array_equal(found, wanted)
