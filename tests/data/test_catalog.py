import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoobot.data import catalog
from zoobot.data.labels import votes
from zoobot.data.splits import load_splits, split_catalog
from zoobot.system.errors import UserError


def table(num_galaxies=4, **columns):
    base = {"id_str": [f"g{i}" for i in range(num_galaxies)], "file_loc": "x.png", "a_x": 1.0}
    return pd.DataFrame({**base, **columns})


def write(folder, frame, name="cat.csv"):
    path = folder / name
    frame.to_csv(path, index=False) if name.endswith("csv") else frame.to_parquet(path)
    return path


def test_ids_stay_text_and_file_locs_become_absolute(tmp_path):
    frame = table(2, id_str=["0012", "588848901537202306"], file_loc=["a/b.png", "/abs/c.png"])
    for name in ("cat.csv", "cat.parquet"):
        read = catalog.read_catalog(write(tmp_path, frame, name))
        assert read["id_str"].tolist() == ["0012", "588848901537202306"]
        assert read["file_loc"].tolist() == [str(tmp_path / "a/b.png"), "/abs/c.png"]


@pytest.mark.parametrize("name", ["cat.fits", "cat.ecsv", "cat.vot"])
def test_astronomers_table_formats_are_read(tmp_path, name):
    table_module = pytest.importorskip("astropy.table")
    formats = {"cat.vot": "votable"}
    table_module.Table.from_pandas(table()).write(tmp_path / name, format=formats.get(name))
    read = catalog.read_catalog(tmp_path / name, ["a_x"])
    assert read["id_str"].tolist() == ["g0", "g1", "g2", "g3"]
    assert read["file_loc"].iloc[0] == str(tmp_path / "x.png")
    assert votes(read, ["a_x"]).ravel().tolist() == [1, 1, 1, 1]  # FITS has other bytes first


@pytest.mark.parametrize(
    ("frame", "columns", "message"),
    [
        (table(0), [], "has no rows"),
        (table(id_str=["g", "h", "g", "g"]), [], "'g' appears more than once .2 rows too many"),
        (table(id_str=["g", None, "h", "i"]), [], "'id_str' is empty in row 1"),
        (table(file_loc=["x.png", None, "y", "z"]), [], "'file_loc' is empty in row 1"),
        (table(), ["a_xx"], "no column 'a_xx'; did you mean 'a_x'"),
        (table(), ["b", "c", "d"], "no column 'b' and 2 more"),
        (table().drop(columns="file_loc"), [], "neither a file_loc nor an image column"),
        (table().drop(columns="id_str"), [], "no column 'id_str'"),
    ],
)
def test_a_faulty_catalog_is_refused_with_the_reason(tmp_path, frame, columns, message):
    with pytest.raises(ValueError, match=message):
        catalog.read_catalog(write(tmp_path, frame), columns)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.csv", None, "no catalog"),
        ("empty.csv", b"", "is empty"),
        ("torn.parquet", b"PAR1 and no more", "torn.parquet"),
        ("cat.xlsx", b"PK\x03\x04", "cat.xlsx can't be read: unknown format: it is a zip"),
        ("binary.csv", b"id_str,file_loc\n\xff\xfe,\x00", "binary.csv"),
    ],
)
def test_a_file_that_is_no_catalog_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        catalog.read_catalog(tmp_path / name)


def test_missing_images_are_counted_and_the_first_five_named(tmp_path):
    (tmp_path / "here.png").write_bytes(b"")
    names = [str(tmp_path / "here.png")] + [str(tmp_path / f"gone{i}.png") for i in range(7)]
    frame = table(8, file_loc=names)
    with pytest.raises(ValueError, match="7 of 8 image files are missing: .*gone0.*gone4.png, ..."):
        catalog.check_image_files(frame, "cat.csv")
    catalog.check_image_files(frame.head(1), "cat.csv")


@given(st.integers(1, 300), st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_split_does_not_depend_on_row_order_and_loses_nothing(num_galaxies, seed, random):
    frame = table(num_galaxies)
    order = list(range(num_galaxies))
    random.shuffle(order)
    first = split_catalog(frame, seed=seed)
    second = split_catalog(frame.iloc[order], seed=seed)
    for split in catalog.SPLITS:
        assert set(first[split]["id_str"]) == set(second[split]["id_str"])
    assert sum(map(len, first.values())) == num_galaxies
    assert abs(len(first["train"]) - 0.7 * num_galaxies) <= 0.5


def test_splits_differ_between_seeds():
    first, second = (split_catalog(table(200), seed=s)["val"]["id_str"] for s in (0, 1))
    assert set(first) != set(second)


def test_a_split_column_wins_and_its_values_are_checked():
    frame = table(split=["train", "val", "train", "test"])
    assert split_catalog(frame)["train"]["id_str"].tolist() == ["g0", "g2"]
    with pytest.raises(ValueError, match="'split' holds 'valid'"):
        split_catalog(table(split=["train", "valid", "train", "test"]))
    with pytest.raises(ValueError, match="'split' has empty cells"):
        split_catalog(table(split=["train", None, "train", "test"]))


def test_fractions_of_zero_are_allowed_and_wrong_sums_are_not():
    parts = split_catalog(table(10), (0.8, 0.2, 0.0))
    assert [len(parts[s]) for s in catalog.SPLITS] == [8, 2, 0]
    with pytest.raises(ValueError, match="sum to 1"):
        split_catalog(table(10), (0.8, 0.3, 0.0))


def test_separate_catalogs_replace_the_split(small_catalog, tree, tmp_path):
    frame = pd.read_csv(small_catalog)
    frame["file_loc"] = [str(tmp_path / f) for f in frame["file_loc"]]
    train = write(tmp_path, frame.head(40), "train.csv")
    val = write(tmp_path, frame.tail(20), "val.csv")
    splits = load_splits(train, val, None, tree.label_cols, seed=0)
    assert [len(splits[s]) for s in catalog.SPLITS] == [40, 20, 0]
    with pytest.raises(ValueError, match="10 galaxies are in both train and val"):
        load_splits(
            train, write(tmp_path, frame.iloc[30:50], "val2.csv"), None, tree.label_cols, seed=0
        )


def test_an_empty_split_is_refused(small_catalog, tree, tmp_path):
    frame = pd.read_csv(small_catalog).assign(split="train")
    path = write(tmp_path, frame, "all_train.csv")
    with pytest.raises(ValueError, match="no galaxies in split 'val' .60 galaxies in all"):
        load_splits(path, None, None, tree.label_cols, seed=0)


def test_a_column_that_repeats_is_told(tmp_path):
    ids = pa.array(["g0", "g1"])
    pq.write_table(
        pa.Table.from_arrays([ids] * 3, ["id_str", "id_str", "file_loc"]), tmp_path / "a.pq"
    )
    with pytest.raises(ValueError, match="a.pq has more than one column 'id_str'"):
        catalog.read_catalog(tmp_path / "a.pq")


@pytest.mark.parametrize(
    "metadata", [b'{"index_columns": ["absent"]}', b'["a"]', b"[" * 100_000, b'{"columns": ["a"]}']
)
def test_damaged_metadata_of_pandas_are_told(tmp_path, metadata):
    path = write(tmp_path, table(), "cat.parquet")
    pq.write_table(pq.read_table(path).replace_schema_metadata({"pandas": metadata}), path)
    with pytest.raises(ValueError, match="cat.parquet can't be read: "):
        catalog.read_catalog(path)


def fits_catalog(path, card):
    """A FITS catalog, the card of this name in its table's header replaced."""
    pytest.importorskip("astropy.table").Table.from_pandas(table()).write(path)
    content = path.read_bytes()
    start = content.index(card[:10], 2880)
    path.write_bytes(content[:start] + card.ljust(80) + content[start + 80 :])
    return path


@pytest.mark.parametrize(
    ("card", "value", "message"),
    [
        ("NAXIS2", "999999999", "its header claims"),
        ("NAXIS1", "-9223372036854775808", "NAXIS1 is '-9223372036854775808', not a whole"),
        ("NAXIS", "9007199254740992", "NAXIS is 9007199254740992; it can be 999 at most"),
        ("TFIELDS", "4294967296", "TFIELDS is 4294967296"),
        ("BITPIX", "nan", "BITPIX is 'nan'"),
        ("TFORM3", "'100000000J'", "its columns take 400000007 bytes a row"),
        ("TTYPE1", "7", "Column name"),
        ("TFORM1", "''", "Format"),
    ],
)
def test_a_fits_catalog_that_claims_what_is_not_there_is_refused(tmp_path, card, value, message):
    path = fits_catalog(tmp_path / "cat.fits", f"{card:<8}= {value:>20}".encode())
    with pytest.raises(ValueError, match=f"cat.fits can't be read: .*{message}"):
        catalog.read_catalog(path)


def test_ids_that_are_no_text_are_told(tmp_path):
    frame = pa.table({"id_str": pa.array([b"\xff\xfe", b"b"]), "file_loc": ["x", "y"]})
    pq.write_table(frame, tmp_path / "a.pq")
    with pytest.raises(ValueError, match="a.pq: column 'id_str' can't be read as text"):
        catalog.read_catalog(tmp_path / "a.pq")


@pytest.mark.parametrize("column", ["file_loc", "split"])
def test_text_that_is_none_is_told(tmp_path, column):
    texts = {name: pa.array(["x", "y"]) for name in ("id_str", "file_loc", "split")}
    texts[column] = pa.array([b"\xff\xfe", b"y"]).view(pa.string())
    pq.write_table(pa.table(texts), tmp_path / "a.pq")
    for num_rows in (None, 1):
        with pytest.raises(ValueError, match="a.pq can't be read: .*Invalid UTF8"):
            next(catalog.read_galaxies(tmp_path / "a.pq", ["split"], num_rows))


@pytest.mark.parametrize("scheme", ["http", "https", "ftp", "s3", "hf", "file"])
@pytest.mark.parametrize("column", ["file_loc", "image", "file_loc_g"])
def test_an_address_in_place_of_a_path_is_refused(tmp_path, column, scheme):
    table = pd.DataFrame({"id_str": ["a", "b"], column: ["a.png", f"{scheme}://host/b.png"]})
    table.to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(UserError, match=rf"{column}' in row 1 .*{scheme}://host.*download"):
        catalog.read_catalog(tmp_path / "c.csv")


def test_paths_that_were_written_on_windows_are_found(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "a\\b.png").touch()  # a name of this system
    table = pd.DataFrame({"id_str": ["a", "b"], "file_loc": ["images\\a.png", "a\\b.png"]})
    table.to_csv(tmp_path / "catalog.csv", index=False)
    found = catalog.read_catalog(tmp_path / "catalog.csv")["file_loc"].tolist()
    assert found == [str(tmp_path / "images" / "a.png"), str(tmp_path / "a\\b.png")]
