"""Headers of tables hold plain texts for us, whatever objects they describe for astropy."""

import base64

import numpy as np
import pytest
from hostile_files import refused

from zoobot.data.catalog import read_catalog
from zoobot.data.tables import open_table
from zoobot.limits.headers import MARK, MAX_HEADER_CHARS

table = pytest.importorskip("astropy.table")
fits = pytest.importorskip("astropy.io.fits")
units = pytest.importorskip("astropy.units")

BUFFER = base64.b64encode(bytes(8)).decode()
ARRAYS = {
    "array": f"!numpy.ndarray {{shape: [1], dtype: float64, buffer: {BUFFER}}}",
    "huge": f"!numpy.ndarray {{shape: [9], strides: [0], dtype: float64, buffer: {BUFFER}}}",
    "dtype": "!numpy.dtype float64",
    "call": "!!python/object/apply:os.getpid []",
    "own": "!mine 1",
}


def ecsv(meta="", columns="", delimiter="", rows="a a.png\n"):
    lines = ["%ECSV 1.0", "---", delimiter, "datatype:", "- {name: id_str, datatype: string}"]
    lines += ["- {name: file_loc, datatype: string}", columns, meta, "schema: astropy-2.0"]
    header = "".join(f"# {line}\n" for each in lines for line in each.splitlines())
    return f"{header}id_str file_loc{' x' if columns else ''}\n{rows}"


@pytest.mark.parametrize("name", ARRAYS)
def test_a_tag_in_a_header_makes_no_object(tmp_path, name):
    (tmp_path / "c.ecsv").write_text(ecsv(f"meta: {{x: {ARRAYS[name]}}}"))
    assert "the tag" in refused(lambda: read_catalog(tmp_path / "c.ecsv"), "c.ecsv")
    comment = [MARK.format("BEGIN"), "datatype:", "- {name: id_str, datatype: string}"]
    comment += ["meta:", f"  x: {ARRAYS[name]}", MARK.format("END")]
    columns = [fits.Column(n, "9A", array=["a"]) for n in ("id_str", "file_loc")]
    hdu = fits.BinTableHDU.from_columns(columns)
    for line in comment:
        parts = [line[i : i + 60] for i in range(0, len(line), 60)]
        for part in parts:
            hdu.header["COMMENT"] = part + "\\" * (part is not parts[-1])
    hdu.writeto(tmp_path / "c.fits")
    assert "the tag" in refused(lambda: read_catalog(tmp_path / "c.fits"), "c.fits")


def test_columns_of_objects_are_read_as_the_columns_that_they_are_made_of(tmp_path):
    coordinates = pytest.importorskip("astropy.coordinates")
    made = table.QTable({"id_str": ["a", "b"], "file_loc": ["a.png", "b.png"]})
    made["mag"] = [1.5, 2.5] * units.mag
    made["mag"].info.description = "how bright"
    made["place"] = coordinates.SkyCoord([1.0, 2.0], [3.0, 4.0], unit="deg")
    made["many"] = np.ones((2, 3))
    for name in ("c.ecsv", "c.fits"):
        made.write(tmp_path / name)
        opened = open_table(tmp_path / name, ["id_str"])
        (frame,) = opened.pieces
        assert frame["mag"].tolist() == [1.5, 2.5]
        assert frame["place.dec"].tolist() == [3.0, 4.0]
        assert "many" not in frame
        assert frame.attrs["described"]["mag"] == ("how bright", "mag")


def test_a_type_of_a_header_reserves_no_memory(cheap, tmp_path):
    path = tmp_path / "c.ecsv"
    path.write_text(ecsv(columns="- {name: x, datatype: U999999999}", rows="a a.png x\n"))
    assert read_catalog(path)["x"].tolist() == ["x"]
    claim = "- {name: x, datatype: string, subtype: 'int64[999999999]'}"
    path.write_text(ecsv(columns=claim, rows='a a.png ""\n'))
    assert "x" not in read_catalog(path)


@pytest.mark.parametrize(
    "content",
    [
        "# %ECSV 1.0\n# ---\n# - 1\nid_str\n",
        "# %ECSV 1.0\n# ---\n# datatype: 3\nid_str\n",
        "# %ECSV 1.0\n# ---\n# datatype: [3]\nid_str\n",
        "# %ECSV 1.0\n# ---\n# datatype: [{datatype: string}]\nid_str\n",
        "# %ECSV 1.0\n",
        ecsv(delimiter="delimiter: ;"),
        ecsv("meta: " + "x" * MAX_HEADER_CHARS),
    ],
    ids=["list", "number", "cell", "nameless", "empty", "delimiter", "long"],
)
def test_a_header_that_is_none_is_refused_in_a_line(tmp_path, content):
    (tmp_path / "c.ecsv").write_text(content)
    refused(lambda: read_catalog(tmp_path / "c.ecsv"), "c.ecsv")


@pytest.mark.parametrize("unit", ["10**9999999 m", "10^9999999", "10+9999999 m", "m" * 2000])
def test_a_unit_that_takes_very_long_to_compute_is_refused(tmp_path, unit):
    told = f"- {{name: x, datatype: float64, unit: {unit}}}"
    (tmp_path / "c.ecsv").write_text(ecsv(columns=told, rows="a a.png 1\n"))
    made = table.Table({"id_str": ["a"], "file_loc": ["a.png"], "x": [1.0]})
    made["x"].unit = "mag"
    made.write(tmp_path / "c.vot", format="votable")
    content = (tmp_path / "c.vot").read_text()
    (tmp_path / "c.vot").write_text(content.replace('unit="mag"', f'unit="{unit}"'))
    hdu = fits.BinTableHDU(made)
    hdu.header["XUNIT3"] = unit  # astropy would write the column's own
    hdu.writeto(tmp_path / "c.fits")
    content = (tmp_path / "c.fits").read_bytes().replace(b"TUNIT3", b"TOTHER")
    (tmp_path / "c.fits").write_bytes(content.replace(b"XUNIT3", b"TUNIT3"))
    for name in ("c.ecsv", "c.vot", "c.fits"):
        assert "the unit" in refused(lambda name=name: read_catalog(tmp_path / name), name)
