"""Whatever file a table is in, the catalog is the one that a plain CSV gives."""

import gzip
import tracemalloc
import zlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tables_people_have as tables

from zoobot.data.catalog import read_catalog, read_galaxies
from zoobot.data.labels import votes
from zoobot.data.sources import TableGalaxies
from zoobot.data.splits import load_splits

LABELS = [*tables.VOTES, "kind", "size"]
CSV = "id_str,file_loc,label\n1,a.png,0\n2,b.png,1\n"


@pytest.fixture
def galaxies():
    return tables.galaxies()


@pytest.mark.parametrize("name", tables.WRITERS)
def test_every_container_gives_what_the_plain_csv_gives(tmp_path, galaxies, name):
    if any(word in name for word in ("fit", "ecsv", "vot")):
        pytest.importorskip("astropy")
    path = tmp_path / name
    tables.WRITERS[name](galaxies, path)
    folder = path if path.is_dir() else tmp_path
    expected = galaxies.assign(file_loc=[str(folder / x) for x in galaxies["file_loc"]])
    read = read_catalog(path, LABELS)
    for column in galaxies.columns:
        assert read[column].tolist() == expected[column].tolist()
    pieces = pd.concat(read_galaxies(path, ["kind"], num_rows=5))
    assert pieces.index.tolist() == [*range(12)]
    for column in ("id_str", "file_loc", "kind"):
        assert pieces[column].tolist() == expected[column].tolist()


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.decimal128(20), pa.large_string()])
def test_whole_ids_of_parquet_stay_exact(tmp_path, kind):
    ids = pa.array([2**63 - 1, 587739505552785601, None]).cast(kind)
    if kind == pa.uint64():
        ids = pa.array([2**64 - 1, None, 7], kind)
    frame = pa.table({"id_str": ids, "file_loc": ["x.png"] * len(ids)})
    pq.write_table(frame, tmp_path / "a.parquet")
    (read,) = read_galaxies(tmp_path / "a.parquet")
    assert read["id_str"].dropna().tolist() == [str(i) for i in ids.to_pylist() if i is not None]


def test_a_whole_id_of_fits_stays_exact(tmp_path):
    table = pytest.importorskip("astropy.table").Table
    ids = np.array([587739505552785605, 587739505552785606])
    table({"ID_STR": ids, "FILE_LOC": ["a", "b"]}).write(tmp_path / "a.fits")
    assert read_catalog(tmp_path / "a.fits")["id_str"].tolist() == [str(i) for i in ids]


def float_ids(folder, name):
    ids = [5.00025e17, 5.000250000000001e17]
    frame = pd.DataFrame({"id_str": ids, "file_loc": ["a.png", "b.png"]})
    path = folder / name
    if name.endswith(".fits"):
        pytest.importorskip("astropy.table").Table.from_pandas(frame).write(path)
    elif name.endswith(".csv"):
        frame["id_str"] = ["1.2E+18", "1.2E+18"] if name == "excel.csv" else frame["id_str"]
        frame.to_csv(path, index=False)
    else:
        kind = {"text.parquet": str, "single.parquet": np.float32}.get(name, float)
        frame.astype({"id_str": kind}).to_parquet(path)
    return path


@pytest.mark.parametrize("text", ["-1.5e+12", "587739505552785600.0", " 1.2E+18", "+1.2e18"])
@pytest.mark.parametrize("write", [pd.DataFrame.to_csv, pd.DataFrame.to_parquet])
def test_text_that_is_a_rounded_number_is_no_id(tmp_path, text, write):
    frame = pd.DataFrame({"id_str": ["g0", text], "file_loc": ["a.png", "b.png"]})
    write(frame, tmp_path / "a", index=False)
    with pytest.raises(ValueError, match="'id_str' holds .*, a rounded number"):
        next(read_galaxies(tmp_path / "a", num_rows=9))


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.fits", "a.vot"])
def test_ids_are_stripped_and_an_empty_one_is_missing_in_every_container(tmp_path, name):
    frame = pd.DataFrame({"id_str": [" g0 ", " "], "file_loc": [" a.png", "b.png"]})
    if name == "a.csv":
        frame.to_csv(tmp_path / name, index=False)
    elif name == "a.parquet":
        frame.to_parquet(tmp_path / name)
    else:
        table = pytest.importorskip("astropy.table").Table.from_pandas(frame.astype(object))
        table.write(tmp_path / name, format="votable" if name == "a.vot" else "fits")
    (read,) = read_galaxies(tmp_path / name)
    assert read["id_str"].iloc[0] == "g0"
    assert read["file_loc"].iloc[0] == str(tmp_path / "a.png")
    with pytest.raises(ValueError, match="'id_str' is empty in row 1"):
        read_catalog(tmp_path / name)


@pytest.mark.parametrize("num_rows", [None, 2])
def test_ids_that_pandas_kept_as_a_range_are_read_from_parquet(tmp_path, num_rows):
    frame = pd.DataFrame({"file_loc": ["a"] * 5, "label": 1}, index=pd.RangeIndex(7, 17, 2))
    frame.rename_axis("id_str").to_parquet(tmp_path / "a.parquet")
    read = pd.concat(read_galaxies(tmp_path / "a.parquet", ["label"], num_rows))
    assert read["id_str"].tolist() == ["7", "9", "11", "13", "15"]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_column_of_text_is_numbers_if_all_its_cells_are(tmp_path, name):
    frame = pd.DataFrame(
        {"id_str": ["0", "1"], "file_loc": "x", "n": ["01", "NA"], "kind": ["01", "1b"]}
    )
    frame.to_csv(tmp_path / name) if name == "a.csv" else frame.to_parquet(tmp_path / name)
    read = read_catalog(tmp_path / name, ["n", "kind"])
    assert read["id_str"].tolist() == ["0", "1"]
    assert read["n"].iloc[0] == 1
    assert read["n"].isna().tolist() == [False, True]
    assert read["kind"].tolist() == ["01", "1b"]


def test_a_column_that_is_text_only_far_below_keeps_its_text(tmp_path):
    kinds = ["01"] * 700_000 + ["ring"]
    rows = "".join(f"{i},x,{kind}\n" for i, kind in enumerate(kinds))
    read = read_text(tmp_path, "id_str,file_loc,kind\n" + rows, ["kind"])
    assert read["kind"].tolist() == kinds


def test_several_tables_of_a_fits_file_are_told_if_more_than_one_may_be_it(tmp_path):
    fits, table = pytest.importorskip("astropy.io.fits"), pytest.importorskip("astropy.table").Table
    some = table({"id_str": ["a"], "file_loc": ["a"]})
    hdus = [fits.table_to_hdu(x) for x in (some, some, table({"n": [1]}))]
    for i, hdu in enumerate(hdus):
        hdu.name = f"T{i}"
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "a.fits")
    with pytest.raises(ValueError, match="more than one of its tables .*T0, T1"):
        read_catalog(tmp_path / "a.fits")
    fits.HDUList([fits.PrimaryHDU(), hdus[2], hdus[2]]).writeto(tmp_path / "b.fits")
    with pytest.raises(ValueError, match="none of its 2 tables .*has a column 'id_str'"):
        read_catalog(tmp_path / "b.fits")
    fits.HDUList([fits.PrimaryHDU(np.zeros((2, 2)))]).writeto(tmp_path / "c.fits")
    with pytest.raises(ValueError, match="it holds no table"):
        read_catalog(tmp_path / "c.fits")


@pytest.mark.parametrize("num_rows", [None, 5])
def test_only_rows_without_any_cell_are_passed_over(tmp_path, num_rows):
    text = "id_str,file_loc,n\ng0,x,1\n,,\ng1,x,2\n,,\n"
    (tmp_path / "a.csv").write_text(text)
    (read,) = read_galaxies(tmp_path / "a.csv", num_rows=num_rows)
    assert read["id_str"].tolist() == ["g0", "g1"]
    (tmp_path / "a.csv").write_text(text + ",,3\n")
    with pytest.raises(ValueError, match="column 'file_loc' is empty in row 4"):
        next(read_galaxies(tmp_path / "a.csv", num_rows=num_rows))


def test_cells_that_are_missing_at_the_end_of_a_row_are_empty_between_commas(tmp_path):
    read = read_text(tmp_path, "id_str,file_loc,n,name\ng0,x,1,a\ng1,x\n", ["n"])
    assert read["n"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    "name",
    ["a.parquet", "single.parquet", "text.parquet", "excel.csv", "pandas.csv", "a.fits"],
)
def test_ids_that_were_rounded_are_refused_with_the_cure(tmp_path, name):
    path = float_ids(tmp_path, name)
    for read in (read_catalog, lambda path: next(read_galaxies(path, num_rows=1))):
        with pytest.raises(ValueError, match="'id_str' holds .*a rounded number.* as text"):
            read(path)


def test_ids_that_only_look_like_rounded_numbers_are_kept(tmp_path):
    ids = ["12345e67", "-5e10", "J0001.5+0020", "J0002.5-0020", "1.0", "2", "a+b", "1e5+2"]
    pd.DataFrame({"id_str": ids, "file_loc": "x"}).to_csv(tmp_path / "a.csv", index=False)
    assert read_catalog(tmp_path / "a.csv")["id_str"].tolist() == ids


def test_words_for_missing_numbers_are_missing_among_numbers_only(tmp_path):
    text = "id_str,file_loc,n,name\ng0,x,1,None\ng1,x,NA,nan\ng2,x,,\ng3,x,3,ring\n"
    (tmp_path / "a.csv").write_text(text)
    read = read_catalog(tmp_path / "a.csv")
    assert read["n"].tolist()[::3] == [1, 3]
    assert read["n"].isna().tolist() == [False, True, True, False]
    assert read["name"].fillna("missing").tolist() == ["None", "nan", "missing", "ring"]


def test_a_number_of_400_digits_is_no_count(tmp_path):
    (tmp_path / "a.csv").write_text(f"id_str,file_loc,n\ng0,x,1\ng1,x,1{'0' * 400}\n")
    with pytest.raises(ValueError, match="'g1' holds 1000"):
        votes(read_catalog(tmp_path / "a.csv"), ["n"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "id_str,file_loc,label\n1,a,b.png,0\n2,c.png,1\n",
            "line 2 has 4 fields between ','",
        ),
        (
            "a.csv",
            "id_str,file_loc,label\n1,b.png,0\n2,a,c.png,1\n",
            "line 3 has 4 fields between ','",
        ),
        ("a.csv", "id_str,ID_STR ,id_str,file_loc\n", "more than one column 'id_str'"),
        ("a.csv", "Id_Str,ID_STR,file_loc\n1,2,a\n", "columns Id_Str, ID_STR may each be 'id_str'"),
        ("a.csv", "id_str,file_loc,Label,LABEL\n1,a,0,1\n", "Label, LABEL may each be 'label'"),
        ("a.csv", "# nothing\n\n", "a.csv is empty"),
        ("a.csv", "name,file_loc\n1,a\n", "no column 'id_str'"),
        ("a.csv", "id_str,file_loc\n1,caf\xe9\n".encode("latin-1"), "no UTF-8 text"),
        (
            "a.csv.gz",
            gzip.compress(CSV.encode() * 99, mtime=0)[:-9],
            "a.csv.gz can't be read: .*damaged",
        ),
        ("a.xlsx", "PK\3\4", "unknown format: it is a zip archive .*xlsx.*save it as CSV"),
        ("a.csv", "PK\3\4", "unknown format: it is a zip archive .*xlsx.*save it as CSV"),
        ("a.csv.bz2", "BZh91AY", "unknown format: it is packed with bzip2: unpack it"),
        ("a.csv", "<!DOCTYPE html><body>Log in", "unknown format: it is an HTML page"),
        ("a.csv", "version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("a.parquet", "\0" * 600, "is no text, or a damaged one"),
        ("a.csv", b"\x89PNG\r\n\x1a\n", "it is an image"),
        ("a.parquet.gz", gzip.compress(b"PAR1", mtime=0), "Parquet file packed with gzip"),
        ("a.csv", 'id_str,file_loc,label\n1,"a.png,0\n2,b.png,1\n', "opened in it and never"),
        ("a.txt", "id_str file_loc label\n1 a b.png 0\n", "line 2 has 4 fields between spaces"),
        ("a.txt", "id_str file_loc label\n1 a 0\n\n2 b\n", "line 4 has 2 fields .*header 3.*NA"),
        ("a.csv", '[{"id_str": "g0", "file_loc": "a"}]', "it is a JSON text"),
        ("a.parquet", "ARROW1\0\0id_str\0", "it is an Arrow or Feather file"),
        ("a.csv", CSV * 2, "row 2 has the id 'id_str': is the header there again"),
        ("a.txt", '"id_str" "file_loc"\n"1" "g0" "a"\n', "line 2 has 3 fields.*row.names = FALSE"),
        ("a.csv", "id_str,file_loc,label\n,,kpc\n1,a,0\n", "row 0.*a row of units"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(tmp_path, name, text, message):
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*{message}|{message}"):
        read_catalog(tmp_path / name, ["label"] if "abel" in str(text) else [])


def test_columns_that_differ_in_case_are_told_apart_if_both_are_asked_for(tmp_path):
    (tmp_path / "a.csv").write_text("id_str,file_loc,Bar,bar\ng0,x,1,2\n")
    read = read_catalog(tmp_path / "a.csv", ["bar", "Bar"])
    assert votes(read, ["bar", "Bar"]).tolist() == [[2, 1]]


def test_file_locs_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "a.csv").write_text("id_str,file_loc\n1,~/sky/a.png\n2,~b.png\n3,/c.png\n")
    read = read_catalog(tmp_path / "a.csv")
    assert read["file_loc"].tolist() == ["/home/me/sky/a.png", str(tmp_path / "~b.png"), "/c.png"]


def test_a_folder_of_hugging_face_files_has_their_splits(tmp_path, galaxies):
    tables.draw_images(tmp_path / "hub" / "data", galaxies)
    parts = {
        "train-00000-of-00002": galaxies[:4],
        "train-00001-of-00002": galaxies[4:8],
        "validation-00000-of-00001": galaxies[8:10],
        "test-00000-of-00001": galaxies[10:],
    }
    for name, part in parts.items():
        frame = part.assign(file_loc=[f"data/{x}" for x in part["file_loc"]])
        frame.to_parquet(tmp_path / "hub" / "data" / f"{name}.parquet")
    splits = load_splits(tmp_path / "hub", None, None, [*tables.VOTES], seed=0)
    ids = galaxies["id_str"].tolist()
    assert splits["train"]["id_str"].tolist() == ids[:8]
    assert splits["val"]["id_str"].tolist() == ids[8:10]
    assert splits["test"]["id_str"].tolist() == ids[10:]
    (tmp_path / "hub/data/validation-00000-of-00001.parquet").unlink()
    splits = load_splits(tmp_path / "hub", None, None, [*tables.VOTES], seed=0)
    assert [len(splits[s]) for s in ("train", "val", "test")] == [7, 1, 2]


def test_parts_of_a_folder_have_the_same_columns(tmp_path, galaxies):
    galaxies[:6].to_parquet(tmp_path / "a-0.parquet")
    galaxies[6:].drop(columns="size").to_parquet(tmp_path / "a-1.parquet")
    with pytest.raises(ValueError, match="a-1.parquet and a-0.parquet differ in column 'size'"):
        read_catalog(tmp_path, LABELS)
    with pytest.raises(ValueError, match="no .parquet files in it"):
        read_catalog(tmp_path.parent / tmp_path.name / "..", LABELS)


def test_images_of_hugging_face_are_bytes_or_else_paths():
    image = [{"bytes": None, "path": "a.png"}, {"bytes": None, "path": "b.png"}]
    frame = pd.DataFrame({"id_str": ["a", "b"], "image": image})
    source = TableGalaxies(frame)
    assert [source.source(i) for i in range(2)] == ["a.png", "b.png"]
    frame["image"] = [{"bytes": b"x", "path": "a.png"}, {"bytes": b"y", "path": None}]
    assert TableGalaxies(frame).source(1) == b"y"
    frame["image"] = [{"bytes": None, "path": "a.png"}, {"bytes": b"y", "path": None}]
    with pytest.raises(ValueError, match="a path in its first row, and no path in row 1"):
        TableGalaxies(frame)


@pytest.fixture(scope="module")
def bomb():
    """A gzip file that unpacks to a table and 256 MB of zeros; made without keeping them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = [packer.compress(CSV.encode())]
    packed += [packer.compress(bytes(2**20)) for _ in range(256)]
    return b"".join([*packed, packer.flush()])


@pytest.mark.parametrize("name", ["a.csv.gz", "a.tsv.gz", "a.fits.gz", "a.ecsv.gz", "a.vot.gz"])
def test_a_gzip_file_is_unpacked_to_a_limit_only(tmp_path, name, bomb):
    (tmp_path / name).write_bytes(bomb)
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"{name} can't be read: .*the limit is 200 bytes a byte"):
        read_catalog(tmp_path / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000_000
    assert [path.name for path in tmp_path.iterdir()] == [name]


def read_text(tmp_path, text, label_cols, name="a.csv"):
    (tmp_path / name).write_text(text)
    return read_catalog(tmp_path / name, label_cols)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_name_of_several_lines_hides_no_galaxy(tmp_path, end):
    lines = ['id_str,file_loc,"size', '(kpc)",mag', *(f"g{i},{i}.png,{i},2" for i in range(3))]
    (tmp_path / "a.csv").write_text(end.join(lines) + end, newline="")
    assert read_catalog(tmp_path / "a.csv", ["mag"])["id_str"].tolist() == ["g0", "g1", "g2"]


def test_a_quoted_name_with_a_space_is_one_column_between_spaces(tmp_path):
    text = 'id_str file_loc "size kpc" mag snr\ng0 a.png 1.5 20.1 7\ng1 b.png 2.5 21.1 8\n'
    table = read_text(tmp_path, text, ["mag", "snr"], "a.txt")
    assert table["mag"].tolist() == [20.1, 21.1]
    assert table["snr"].tolist() == [7, 8]


def test_a_comma_that_may_stand_for_thousands_is_refused(tmp_path):
    text = "id_str\tfile_loc\tvotes\ng0\ta.png\t1,000\ng1\tb.png\t2\n"
    with pytest.raises(ValueError, match="column 'votes' holds 1,000: whether its comma"):
        read_text(tmp_path, text, ["votes"], "a.tsv")


@pytest.mark.parametrize(
    ("cells", "values"),
    [(["0,125", "1,250"], [0.125, 1.25]), (["1,5E+10", "+0,5"], [1.5e10, 0.5])],
)
def test_decimal_commas_are_read_between_semicolons(tmp_path, cells, values):
    text = "id_str;file_loc;mass\n" + "".join(f"g{i};a.png;{x}\n" for i, x in enumerate(cells))
    assert read_text(tmp_path, text, ["mass"])["mass"].tolist() == values


def test_errors_of_rows_below_a_long_header_name_the_files_line(tmp_path):
    text = "# by hand\n# 2026\nid_str,file_loc,label\ng0,a.png,1\ng1,b,c.png,1\n"
    with pytest.raises(ValueError, match="line 5 has 4 fields"):
        read_text(tmp_path, text, ["label"])


def test_lists_and_dicts_of_parquet_stay_what_they_are_and_images_are_dicts(tmp_path):
    images = [{"bytes": b"x", "path": None}, {"bytes": b"y", "path": "b.png"}]
    columns = {"lists": [[1, 2], None], "dicts": [{"a": 1}, {"a": 2}], "image": images}
    pq.write_table(pa.table({"id_str": ["a", "b"], **columns}), tmp_path / "a.parquet")
    catalog = read_catalog(tmp_path / "a.parquet")
    kinds = [str(catalog[name].dtype).partition("<")[0] for name in ("lists", "dicts")]
    assert kinds == ["list", "struct"]
    assert list(catalog["lists"][0]) == [1, 2]
    assert catalog["lists"].isna().tolist() == [False, True]
    assert catalog["dicts"].tolist() == columns["dicts"]
    assert catalog["image"].tolist() == images


@pytest.mark.parametrize("as_index", [False, True])
def test_nullable_ids_and_an_index_of_a_columns_name_are_read_from_parquet(tmp_path, as_index):
    frame = pd.DataFrame(
        {"id_str": [2**60 + 1, 2**60 + 3], "file_loc": ["a", "b"], "label": [0, 1]}
    )
    frame = frame.convert_dtypes()
    if as_index:
        frame.index = frame["id_str"]
    frame.to_parquet(tmp_path / "a.parquet")
    table = read_catalog(tmp_path / "a.parquet", ["label"])
    assert table["id_str"].tolist() == [str(2**60 + 1), str(2**60 + 3)]
    assert table["label"].tolist() == [0, 1]


def test_a_folder_with_one_name_that_is_no_split_is_refused(tmp_path):
    for name in ("train-0", "test-0", "unsupervised-0", "._train-0"):
        frame = pd.DataFrame({"id_str": [name], "file_loc": ["a"], "label": [0]})
        frame.to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match="that of unsupervised-0.parquet does not"):
        read_catalog(tmp_path, ["label"])
    (tmp_path / "unsupervised-0.parquet").unlink()
    (tmp_path / "._train-0.parquet").write_text("of macOS")
    assert sorted(read_catalog(tmp_path, ["label"])["split"]) == ["test", "train"]


def test_other_names_of_splits_in_a_column_are_read(tmp_path):
    names = ["Train", "validation", " VALID", "dev", "val", "test "]
    text = "id_str,file_loc,split,label\n" + "".join(
        f"g{i},a.png,{name},1\n" for i, name in enumerate(names)
    )
    splits = read_text(tmp_path, text, ["label"])["split"].tolist()
    assert splits == ["train", *["val"] * 4, "test"]


@pytest.mark.parametrize("num_rows", [None, 10])
def test_whole_numbers_that_pandas_kept_as_an_index_are_carried_exactly(tmp_path, num_rows):
    numbers = [587739505552785600, 587739505552785688, 587739505552785611]
    table = pd.DataFrame({"id_str": [*"abc"], "file_loc": ["a.png"] * 3, "objid": numbers})
    table.set_index("objid").to_parquet(tmp_path / "a.parquet")
    (piece,) = read_galaxies(tmp_path / "a.parquet", ["objid"], num_rows, typed=["objid"])
    assert piece["objid"].tolist() == numbers


def test_labels_and_ids_that_are_lists_are_refused(tmp_path):
    table = pa.table({"id_str": ["a"], "file_loc": ["a.png"], "spiral": [[[1], [0]]]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet .*'spiral' holds list<.*, not one value"):
        read_catalog(tmp_path / "a.parquet", ["spiral"])
    with pytest.raises(ValueError, match="'spiral' holds list<.*, not one value"):
        votes(read_catalog(tmp_path / "a.parquet"), ["spiral"], "here")
    pq.write_table(table.rename_columns(["x", "file_loc", "id_str"]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="'id_str' holds list<.*, not one value"):
        read_catalog(tmp_path / "a.parquet")
