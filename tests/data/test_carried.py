import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zoobot.data import listing
from zoobot.data.carried import carried_labels, check_carry, description_of
from zoobot.data.sources import TableGalaxies

BIG = 1237648720693755918  # float64 would round it


def galaxies(num_galaxies=10, **columns):
    ids = [f"g{i}" for i in range(num_galaxies)]
    return pa.table({"id_str": ids, "file_loc": [f"{name}.png" for name in ids], **columns})


def carried(folder, table, carry, monkeypatch=None, **options):
    """The columns as listed, of a catalog that is read four rows at a time."""
    if isinstance(table, pa.Table):
        pq.write_table(table, folder / "catalog.parquet")
        table = folder / "catalog.parquet"
    listing.write_listing(table, folder / "l.arrow", carry=carry, id_from=None, **options)
    return listing.open_carried(folder / "l.arrow")


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch):
    monkeypatch.setattr(listing, "ROWS_AT_ONCE", 4)


def test_the_types_of_a_parquet_catalog_stay(tmp_path):
    columns = {
        "ra": pa.array(np.linspace(0, 360, 10)),
        "mag": pa.array(np.float32([18.5, np.nan] * 5)),
        "objid": pa.array([BIG, None] * 5, pa.int64()),
        "plate": pa.array(range(10), pa.int16()),
        "code": pa.array(["007", None] * 5),
        "star": pa.array([True, False] * 5),
        "name": pa.array(["NGC 1", None] * 5).dictionary_encode(),
    }
    listed = carried(tmp_path, galaxies(**columns), [*columns])
    assert [str(field.type) for field in listed.schema] == [
        "double", "float", "int64", "int16", "string", "bool", "string",
    ]  # fmt: skip
    for name, column in columns.items():
        expected = column.to_pylist()
        told = [None if x != x else x for x in expected]  # NaN counts as missing
        assert [None if x != x else x for x in listed[name].to_pylist()] == told


def test_a_column_that_changes_its_type_far_below_gets_one_that_holds_all(tmp_path):
    rows = [f"g{i},g{i}.png,{i if i != 6 else ''},{i if i < 8 else 'x1'}" for i in range(10)]
    path = tmp_path / "catalog.csv"
    path.write_text("\n".join(["id_str,file_loc,plate,name", *rows]))
    listed = carried(tmp_path, path, ["plate", "name"])
    assert [str(field.type) for field in listed.schema] == ["double", "string"]
    assert listed["plate"].to_pylist()[5:8] == [5.0, None, 7.0]
    assert listed["name"].to_pylist()[6:] == ["6", "7", "x1", "x1"]


def test_only_the_rows_of_a_split_are_carried(tmp_path):
    table = galaxies(split=["train", "test"] * 5, ra=np.arange(10.0)).to_pandas()
    assert carried(tmp_path, table, ["ra"], split="test")["ra"].to_pylist() == [1, 3, 5, 7, 9]


@pytest.mark.parametrize("suffix", [".fits", ".vot", ".ecsv"])
def test_units_of_the_catalog_are_carried(tmp_path, suffix):
    table = pytest.importorskip("astropy.table").Table(galaxies(ra=np.arange(10.0)).to_pydict())
    table["ra"].unit = "deg"
    path = tmp_path / f"catalog{suffix}"
    kind = {".vot": "votable", ".ecsv": "ascii.ecsv"}.get(suffix, "fits")
    table.write(path, format=kind)
    assert description_of(carried(tmp_path, path, ["ra"]).schema.field("ra"))[1] == "deg"


def test_what_can_not_be_carried_is_told(tmp_path):
    with pytest.raises(ValueError, match="no column 'rra'; did you mean 'ra'"):
        carried(tmp_path, galaxies(ra=np.arange(10.0)), ["rra"])
    with pytest.raises(ValueError, match="only numbers and text, but it holds list"):
        carried(tmp_path, galaxies(cell=[[1, 2]] * 10), ["cell"])
    frame = galaxies().to_pandas().assign(mixed=[1, "a"] * 5)
    with pytest.raises(ValueError, match="--carry mixed: the column mixes"):
        carried(tmp_path, frame, ["mixed"])
    path = tmp_path / "catalog.csv"
    path.write_text(f"id_str,file_loc,objid\na,a.png,{BIG}\nb,b.png,\n")
    with pytest.raises(ValueError, match="--carry objid: whole numbers of so many digits"):
        carried(tmp_path, path, ["objid"])
    with pytest.raises(ValueError, match="images have none"):
        listing.write_listing(tmp_path, tmp_path / "l", carry=["ra"])


def test_names_that_the_file_has_already_are_refused():
    for carry, told in (
        (["id_str"], "a column 'id_str' of its own"),
        (["Error"], "a column 'Error' of its own"),
        (["smooth_yes"], "also a column of the predictions"),
        (["ra", "RA"], "'ra' more than once"),
        ("ra", r"use \['ra'\]"),
    ):
        with pytest.raises(ValueError, match=told):
            check_carry(carry, ["smooth_yes"])


def test_labels_of_galaxies_without_a_table_are_carried_or_missed_in_one_line():
    table = galaxies(mass=np.arange(10), colour=np.arange(10)).to_pandas()
    source = TableGalaxies(table, ["mass", "colour"])
    assert carried_labels(source, ["colour"]).to_pydict() == {"colour": [*range(10)]}
    with pytest.raises(ValueError, match=r"hold no such column.*\(mass, colour\).*mean 'mass'"):
        carried_labels(source, ["massa"])


def test_a_frame_in_memory_is_carried_as_it_is(tmp_path):
    frame = pd.DataFrame({"id_str": ["a", "b"], "file_loc": ["a", "b"]})
    frame = frame.assign(kind=pd.Categorical(["E", None]), ra=[1.5, 2.5])
    assert carried(tmp_path, frame, ["kind", "ra"]).to_pydict() == {
        "kind": ["E", None], "ra": [1.5, 2.5],
    }  # fmt: skip
