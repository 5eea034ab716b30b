import numpy as np
import pyarrow as pa
import pytest

from zoobot.data.carried import described_field
from zoobot.predictions import astropy_files
from zoobot.predictions.files import (
    Predictions,
    as_kept,
    open_writer,
    read_predictions,
    write_predictions,
)
from zoobot.schemas import Schema

Table = pytest.importorskip("astropy.table").Table
fits = pytest.importorskip("astropy.io.fits")

BIG = 1237648720693755918
CARRIED = {
    "ra": pa.array([150.1, np.nan, 3.0]),
    "mag": pa.array(np.float32([18.5, 19.25, np.nan])),
    "objid": pa.array([BIG, None, 3]),
    "plate": pa.array([1, 2, 3], pa.uint8()),
    "star": pa.array([True, False, True]),
    "name": pa.array(["NGC 1", None, "M <31> & 'co'"]),
}
OF_RA = described_field("ra", pa.float64(), "right ascension", "deg")


def carried(**columns):
    table = pa.table(columns or CARRIED)
    return table.set_column(0, OF_RA, table["ra"]) if "ra" in table.column_names else table


def galaxies(columns, num_samples=1, metadata=None, **others):
    values = np.random.default_rng(0).random((3, len(columns), num_samples), dtype=np.float32)
    values[1] = np.nan
    ids = np.array([str(BIG), str(BIG + 1), "7"], dtype=object)
    errors = np.array([None, "no such file: g\u00e4.png", None], dtype=object)
    return Predictions(ids, values, columns, errors, metadata or {"task": "custom"}, **others)


def opened(path):
    return Table.read(path, format={".fits": "fits", ".vot": "votable"}[path.suffix])


@pytest.mark.parametrize("suffix", [".fits", ".vot", ".parquet", ".hdf5"])
def test_carried_columns_come_back_with_their_types_and_what_is_missing(tmp_path, suffix):
    whole = galaxies(["a"], carried=carried().drop_columns(["objid"]))
    whole = as_kept(suffix, whole, [])
    write_predictions(tmp_path / f"p{suffix}", whole)
    again = read_predictions(tmp_path / f"p{suffix}")
    assert again.columns == ["a"]
    assert again.ids.tolist() == [str(BIG), str(BIG + 1), "7"]
    np.testing.assert_array_equal(again.values, whole.values)
    assert set(again.carried.column_names) == {*CARRIED} - {"objid"}
    frame, expected = again.carried.to_pandas(), whole.carried.to_pandas()
    for name in ("ra", "mag", "star", "plate"):
        np.testing.assert_array_equal(frame[name], expected[name])
    assert again.carried["name"].to_pylist() == CARRIED["name"].to_pylist()
    assert str(again.carried["ra"].type) == "double"
    assert str(again.carried["mag"].type) == "float"


@pytest.mark.parametrize("suffix", [".fits", ".vot"])
def test_whole_numbers_stay_whole_beside_missing_ones(tmp_path, suffix):
    write_predictions(tmp_path / f"p{suffix}", galaxies(["a"], carried=carried()))
    assert read_predictions(tmp_path / f"p{suffix}").carried["objid"].to_pylist() == [BIG, None, 3]
    column = opened(tmp_path / f"p{suffix}")["objid"]
    assert column.tolist() == [BIG, None, 3]


def test_numbers_that_hdf5_would_round_are_refused_before_any_work():
    with pytest.raises(ValueError, match="--carry objid: HDF5 has no missing whole numbers"):
        as_kept(".hdf5", galaxies(["a"], carried=carried(objid=pa.array([BIG, None, 3]))), [])
    for column in ([1, None, 0], [True, None, False]):
        kept = as_kept(".h5", galaxies(["a"], carried=carried(n=pa.array(column))), [])
        np.testing.assert_array_equal(kept.carried["n"].to_numpy(), [1, np.nan, 0])


@pytest.mark.parametrize("suffix", [".fits", ".vot"])
def test_columns_say_what_they_are_and_their_unit(tmp_path, tree, suffix):
    answers = galaxies(tree.label_cols, 2, {"task": "tree", "schema": tree.to_dict()})
    answers.carried = carried()
    write_predictions(tmp_path / f"p{suffix}", answers)
    table = opened(tmp_path / f"p{suffix}")
    assert table["ra"].unit == "deg"
    assert table["smooth_yes"].shape == (3, 2)
    if suffix == ".fits":
        header = fits.getheader(tmp_path / "p.fits", 1)
        places = {header[f"TTYPE{i}"]: i for i in range(1, header["TFIELDS"] + 1)}
        told = {name: header.get(f"TCOMM{i}") for name, i in places.items()}
    else:
        told = {name: table[name].description for name in table.colnames}
    assert told["ra"] == "right ascension"
    assert told["smooth_yes"] == ("Dirichlet concentration of answer 'yes' to 'smooth'; 2 samples")
    assert told["id_str"] == "id of the galaxy in the catalog"
    assert told["error"].startswith("why the image could not be read")


def test_what_is_not_ascii_is_kept_by_votable_and_refused_by_fits(tmp_path):
    whole = galaxies(["a"], carried=carried(name=pa.array(["\u03b1 Cen", "b", "\U0001f30c"])))
    write_predictions(tmp_path / "p.vot", whole)
    again = read_predictions(tmp_path / "p.vot")
    assert again.carried["name"].to_pylist() == ["\u03b1 Cen", "b", "\U0001f30c"]
    assert again.errors[1] == "no such file: g\u00e4.png"
    with pytest.raises(ValueError, match=r"FITS keeps ASCII texts only.*\(--carry name\): save"):
        as_kept(".fits", whole, [])
    with pytest.raises(ValueError, match=r"not 'g\u00e4' \(id_str\)"):
        as_kept(".fits", galaxies(["a"]), [pa.chunked_array([["ga", "g\u00e4"]])])
    write_predictions(tmp_path / "p.fits", galaxies(["a"]))
    assert read_predictions(tmp_path / "p.fits").errors[1] == "no such file: g\\xe4.png"


def test_more_columns_than_fits_has_are_refused():
    columns = [f"feat_{i}" for i in range(1000)]
    with pytest.raises(ValueError, match="at most 999 columns, these are 1001"):
        as_kept(".fits", galaxies(columns), [])
    with pytest.raises(ValueError, match="capital letters in names of columns: a, A"):
        as_kept(".fits", galaxies(["a", "A"]), [])


def test_truth_values_that_are_missing_become_numbers_in_fits_and_stay_missing(tmp_path):
    whole = galaxies(["a"], carried=carried(star=pa.array([True, None, False])))
    for suffix, expected in ((".fits", [1, None, 0]), (".vot", [True, None, False])):
        write_predictions(tmp_path / f"p{suffix}", as_kept(suffix, whole, []))
        assert read_predictions(tmp_path / f"p{suffix}").carried["star"].to_pylist() == expected


def test_a_table_saved_again_by_astropy_is_read(tmp_path):
    whole = galaxies(["a", "b"])
    write_predictions(tmp_path / "p.fits", whole)
    table = opened(tmp_path / "p.fits")
    table["a"] = table["a"].astype("f8")
    table.write(tmp_path / "again.fits")
    again = read_predictions(tmp_path / "again.fits")
    assert again.ids.tolist() == whole.ids.tolist()
    np.testing.assert_array_equal(again.values, whole.values)


def test_rows_that_wait_in_pieces_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(astropy_files, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(astropy_files, "BASE64_BYTES", 57)
    for suffix in (".fits", ".vot"):
        whole = galaxies(["a"], 5, carried=carried())
        write_predictions(tmp_path / f"p{suffix}", whole)
        np.testing.assert_array_equal(
            read_predictions(tmp_path / f"p{suffix}").values, whole.values
        )
        with pytest.raises(RuntimeError), open_writer(tmp_path / "bad", suffix, whole, 3):
            raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.fits", "p.vot"]


def test_without_astropy_the_package_to_install_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "astropy.table", None)
    with pytest.raises(ValueError, match=r"\.fits needs astropy: pip install"):
        write_predictions(tmp_path / "p.fits", galaxies(["a"]))


def test_a_summary_says_which_question_and_answer(tree):
    columns = ["smooth_yes_fraction", "smooth_yes_90pc-upper", "smooth_proportion-asked"]
    metadata = {"task": "summary", "schema": Schema.to_dict(tree)}
    fields = galaxies(columns, metadata=metadata).arrow_schema()
    told = [fields.field(name).metadata[b"description"].decode() for name in columns]
    assert told == [
        "predicted fraction of volunteers who answer 'yes' to 'smooth'",
        "95% quantile of the fraction who answer 'yes' to 'smooth'",
        "predicted share of volunteers who are asked 'smooth'",
    ]
