"""What the pages of a Parquet file say is what is read, whatever the end of the file says."""

import io

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_files import number, refused, unsigned

from zoobot.data.catalog import read_catalog, read_galaxies
from zoobot.limits import memory, parquet, parquet_footer, parquet_lengths
from zoobot.limits.parquet_footer import Chunk, read_footer
from zoobot.limits.parquet_pages import Pages, read_pages
from zoobot.limits.thrift import StructReader
from zoobot.predictions.files import read_predictions
from zoobot.system.errors import UserError

MANY = 3000
TABLE = pa.table(
    {
        "id_str": [f"galaxy {i}" for i in range(MANY)],
        "file_loc": ["a.png"] * MANY,
        "lists": [[1, 2], None, []] * (MANY // 3),
        "parts": [{"a": 1.5, "b": "x"}] * MANY,
        "fixed": pa.array([b"12345"] * MANY, pa.binary(5)),
    }
)


def page(num_bytes, num_values, packed=0, kind=0, field=5):
    """The header of a page: of data, of kind 0 in field 5; of a dictionary, 2 in 7."""
    within = b"\x15" + number(num_values) + b"\x15\0\x15\6\x15\6\0"
    sizes = b"\x15" + number(num_bytes) + b"\x15" + number(packed)
    return b"\x15" + number(kind) + sizes + bytes([(field - 3) << 4 | 12]) + within + b"\0"


def pages_of(content, num_values=1):
    return read_pages(io.BytesIO(content), Chunk(0, num_values, len(content), 0, 0), 0)


def with_footer(path, change):
    """Replace the end of a file, of which ``change`` makes another."""
    content = path.read_bytes()
    place = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    end = change(content[place:-8])
    path.write_bytes(content[:place] + end + len(end).to_bytes(4, "little") + b"PAR1")


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("packing", ["none", "zstd"])
def test_pages_of_a_sound_file_say_what_its_end_says(tmp_path, version, packing):
    path = tmp_path / "a.parquet"
    options = {"data_page_size": 2000, "row_group_size": 1000, "compression": packing}
    pq.write_table(TABLE, path, data_page_version=version, **options)
    claimed = pq.read_metadata(path)
    with open(path, "rb") as file:
        footer = read_footer(file)
        assert sum(footer.num_rows) == MANY
        assert len(footer.groups) == claimed.num_row_groups
        for number, (num_bytes, chunks) in enumerate(footer.groups):
            group = claimed.row_group(number)
            assert (num_bytes, len(chunks)) == (group.total_byte_size, claimed.num_columns)
            for column, chunk in enumerate(chunks):
                told = group.column(column)
                assert chunk.values == told.num_values
                assert chunk.packed == told.total_compressed_size
                assert chunk.unpacked == told.total_uncompressed_size
                pages = read_pages(file, chunk, 0)
                assert pages.values == chunk.values
                assert 0 < pages.num_bytes <= chunk.unpacked
    parquet.check_parquet(path)
    assert len(read_catalog(path)) == MANY


@pytest.mark.parametrize(
    "change",
    [
        # One number more in a list that must be as long as lists are deep: pyarrow's C++ ends the
        # process if Python asks for this column.
        lambda end: end.replace(b"\x19\x46", b"\x19\x56\0", 1),
        lambda end: end[: len(end) // 2],
        lambda end: end[:-1] + b"\x16\2\0",
        lambda end: b"\0",
        lambda end: b"",
    ],
    ids="contradiction cut twice empty none".split(),
)
def test_a_damaged_end_of_a_file_is_refused(tmp_path, change):
    path = tmp_path / "a.parquet"
    table = pa.table({"id_str": ["a", "b"], "file_loc": ["a.png"] * 2, "y": [[1], [2, 3]]})
    pq.write_table(table, path)
    with_footer(path, change)
    refused(lambda: parquet.check_parquet(path) or read_predictions(path), "")
    refused(lambda: read_predictions(path), "a.parquet")


def element(name, children=0):
    """An element of a schema: a group, or a column of numbers."""
    named = b"\x18" + unsigned(len(name)) + name
    if children:
        return b"\x48" + named[1:] + b"\x15" + number(children) + b"\0"
    return b"\x15\2\x25\0\x18" + named[1:] + b"\0"


def listed(structs):
    return b"\x19\xfc" + unsigned(len(structs)) + b"".join(structs)


def column_of(start, packed):
    """A column within a group of rows, of one value."""
    told = (0, 1, 1, packed, start)  # the first is how it is packed
    fields = zip((b"\x45", b"\x16", b"\x16", b"\x16", b"\x26"), told, strict=True)
    return b"\x3c" + b"".join(head + number(value) for head, value in fields) + b"\0\0"


def of_groups(schema, num_rows=0, groups=()):
    """The end of a file; a group is its rows and its columns."""
    told = [
        listed([column_of(*chunk) for chunk in chunks]) + b"\x16\2\x16" + number(rows) + b"\0"
        for rows, chunks in groups
    ]
    return b"\x15\4" + listed(schema) + b"\x16" + number(num_rows) + listed(told) + b"\0"


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (of_groups([element(b"s", 1), element(b"n" * 20_000)]), "names of a column have 20,001"),
        (
            of_groups([element(b"s", 2), *[element(b"n" * 6000, 1)] * 2, element(b"x")]),
            "names of a column have 12,002",
        ),
        (of_groups([element(b"s", 1), element(b"a"), element(b"b")]), "itself is damaged"),
        (of_groups([element(b"s", 1), element(b"a")], 9, [(3, [])]), "claims 9 rows; its parts"),
        (of_groups([element(b"s", 1), element(b"a")], 3, [(3, [])]), "parts with more or fewer"),
        (
            of_groups([element(b"s", 1), element(b"a")], 2, [(1, [(4, 90)]), (1, [(4, 90)])]),
            "claims 180 bytes of columns, in a file of",
        ),
    ],
    ids="name path tree rows columns overlap".split(),
)
def test_an_end_of_a_file_that_makes_much_of_little_is_refused(tmp_path, end, told):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1" + end + len(end).to_bytes(4, "little") + b"PAR1")
    assert told in refused(lambda: read_catalog(path), "a.parquet")


def test_very_many_columns_are_counted(monkeypatch):
    end = of_groups([element(b"s", 1000), *[element(b"x")] * 1000])
    fields = StructReader(end).struct(parquet_footer.FOOTER)
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000 * parquet_footer.LEAF_BYTES)
    with pytest.raises(UserError, match="memory are free"):
        parquet_footer._check_names(fields[parquet_footer.SCHEMA])


def test_empty_lists_of_any_kind_are_read_as_fastparquet_writes_them():
    end = of_groups([element(b"s", 1), element(b"a")])
    assert end.endswith(b"\x19\xfc\0\0")
    end = end[:-3] + b"\0\0"  # no groups, of kind 0
    assert StructReader(end).struct(parquet_footer.FOOTER)[parquet_footer.GROUPS] == []
    assert StructReader(end).struct({}) == {}


def test_a_table_without_rows_is_read(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE.slice(0, 0), path)
    parquet.check_parquet(path)


@pytest.mark.parametrize(("size", "wanted"), [(700, [500, 200, 500]), (200, [400, 400, 400])])
def test_pieces_of_a_catalog_are_of_groups_that_have_their_rows_together(tmp_path, size, wanted):
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE.select(["id_str", "file_loc"]), path, row_group_size=size)
    pieces = [*read_galaxies(path, num_rows=500)]
    assert [len(piece) for piece in pieces][:3] == wanted
    assert pd.concat(pieces)["id_str"].tolist() == TABLE["id_str"].to_pylist()


def test_groups_that_are_read_together_count_together(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    table = pa.table({"id_str": ["a"] * 50, "x": [b"x" * 100_000] * 50})
    pq.write_table(table, path, row_group_size=1, use_dictionary=False)
    monkeypatch.setattr(memory, "free_bytes", lambda: 2_500_000)
    parquet.check_parquet(path, num_rows=10)
    with pytest.raises(UserError, match="memory are free"):
        parquet.check_parquet(path, num_rows=40)


def test_a_column_of_intervals_is_read(tmp_path):
    table = pd.DataFrame({"id_str": ["a", "b"], "file_loc": ["a.png"] * 2})
    table["x"] = pd.arrays.IntervalArray.from_breaks([0.0, 1.0, 2.0])
    table.to_parquet(tmp_path / "a.parquet")
    assert len(read_catalog(tmp_path / "a.parquet")["x"].dropna()) == 2


def test_types_that_pandas_noted_of_texts_and_of_names_of_columns_are_not_taken(tmp_path):
    path = tmp_path / "a.parquet"
    table = pd.DataFrame({"id_str": ["a", "b"], "file_loc": ["a.png"] * 2, "x": [1, 2]})
    table = table.astype({"id_str": "string[python]", "x": "Int64"}).set_index("id_str")
    table.to_parquet(path)
    catalog = read_catalog(path)
    assert catalog["id_str"].tolist() == ["a", "b"]
    assert str(catalog["x"].dtype) == "Int64"
    assert catalog["file_loc"].dtype == pd.Series(["a"]).dtype


def test_a_column_with_points_in_its_name_is_looked_at(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a.b": [1.0], "c": [{"d": 1.0}], "e": [1.0]}), path)
    looked_at, pages = [], Pages(1, 1, frozenset())
    monkeypatch.setattr(parquet, "read_pages", lambda *told: looked_at.append(told) or pages)
    parquet.check_parquet(path, columns=["a.b", "c"])
    assert len(looked_at) == 2
    parquet.check_parquet(path, columns=["b", "d"])
    assert len(looked_at) == 2


def test_pages_are_counted_whatever_the_end_of_the_file_says():
    assert pages_of(page(2 * 10**9, 10)) == Pages(10, 2 * 10**9, frozenset({0}))
    assert pages_of(page(5, 10) + page(6, 20)) == Pages(30, 11, frozenset({0}))
    dictionary = page(50, 7, kind=2, field=7)
    assert pages_of(dictionary + page(5, 10)) == Pages(10, 55, frozenset({0}), entries=7)


def test_a_page_that_is_not_packed_has_the_bytes_that_it_takes_in_the_file():
    assert pages_of(page(1, 10, packed=40) + bytes(40)).num_bytes == 40


def test_pages_of_a_column_without_values_are_not_read():
    assert pages_of(b"PAR1", num_values=0) == Pages(0, 0, frozenset())


@pytest.mark.parametrize(
    "content",
    [page(-1, 10), page(1, -10), page(1, 1, -5), page(1, 1)[:-3], b"\x3c" * 50, b"\x1d\0", b"\0"]
    + [b"\x25\2\x15\2\x25\2\0", b"\x28\1\0\x18\1\0\0", b"\x25\2\x15\2\x28\1\0\0"]
    + [page(1, 1)[:-1] + b"\x3c\x15\2\0\0", page(9, 10, kind=2, field=7), page(9, 9, field=7)]
    + [page(9, 9, kind=2), page(9, 9, kind=1), page(9, 9, kind=4)],
    ids=(
        "bytes values packed cut deep kind empty number texts text both dictionary no-data "
        "no-dictionary index unknown"
    ).split(),
)
def test_a_header_of_a_page_that_is_none_is_refused(content):
    with pytest.raises(UserError, match="a page of it|its description of itself"):
        pages_of(content)


def test_what_follows_the_last_page_of_a_column_is_not_read():
    assert pages_of(page(5, 10) + b"\x1d" * 99, num_values=10).values == 10


def test_a_long_header_of_a_page_is_read(tmp_path):
    path = tmp_path / "a.parquet"
    options = {"use_dictionary": False, "write_page_index": False, "data_page_size": 100}
    texts = ["x" * 3000 + str(i) for i in range(9)]
    pq.write_table(pa.table({"id_str": texts, "file_loc": texts}), path, **options)
    parquet.check_parquet(path)


def test_texts_that_share_their_starts_are_measured_and_read(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    encodings = dict.fromkeys(("id_str", "file_loc"), "DELTA_BYTE_ARRAY")
    table = TABLE.select(["id_str", "file_loc"])
    pq.write_table(table, path, use_dictionary=False, column_encoding=encodings)
    monkeypatch.setattr(parquet, "UNSEEN_BYTES", 10**5)
    assert len(read_catalog(path)) == MANY
    monkeypatch.setattr(parquet, "MAX_EXPANSION", 1)
    assert "unpacks" in refused(lambda: read_catalog(path), "a.parquet")


def numbers(block_size, num_parts, count, blocks=b""):
    """The start of numbers in DELTA_BINARY_PACKED, whose first is 0."""
    return b"".join(unsigned(value) for value in (block_size, num_parts, count, 0)) + blocks


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("packing", ["none", "snappy", "gzip", "brotli", "zstd", "lz4"])
@pytest.mark.parametrize("encoding", ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"])
def test_lengths_of_texts_are_counted_however_a_page_is_packed(
    tmp_path, monkeypatch, version, packing, encoding
):
    path = tmp_path / "a.parquet"
    texts = [f"galaxy {i}" if i % 3 else None for i in range(MANY)]
    lists = [[text, text] for text in texts]
    table = pa.table({"id_str": texts, "none": pa.nulls(MANY, pa.string()), "lists": lists})
    encodings = dict.fromkeys(("id_str", "none", "lists.list.element"), encoding)
    options = {"use_dictionary": False, "column_encoding": encodings, "compression": packing}
    pq.write_table(table, path, data_page_version=version, data_page_size=5000, **options)
    parquet.check_parquet(path)
    counted = []

    def count(content, encoding, num_values):
        counted.append(num_values)
        parquet_lengths.check_lengths(content, encoding, num_values)
        with pytest.raises(UserError, match="claims .* lengths of 1 texts"):
            parquet_lengths.check_lengths(content, encoding, 1)

    monkeypatch.setattr("zoobot.limits.parquet_pages.check_lengths", count)
    parquet.check_parquet(path, columns=["id_str", "lists"])
    assert sum(counted) == 3 * MANY
    assert len(counted) > 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (numbers(2**24, 1, 2**31 - 1), "claims 2,147,483,647 lengths of 9 texts"),
        (numbers(128, 4, 1) + numbers(128, 4, 99), "claims 99 lengths of 9 texts"),
        (numbers(128, 4, 9, b"\0" + b"\1\1\1\1" + b"abc"), "ends within"),
        (numbers(128, 4, 9), "ends within"),
        (numbers(0, 1, 9), "another size"),
        (numbers(128, 0, 9), "another size"),
        (numbers(100, 3, 9), "another size"),
    ],
    ids="many second cut header block parts size".split(),
)
def test_more_lengths_than_texts_are_refused(content, told):
    with pytest.raises(UserError, match=told):
        parquet_lengths.check_lengths(content, 7, 9)


def test_texts_within_lists_that_share_their_starts_are_refused_if_they_may_be_large(
    tmp_path, monkeypatch
):
    path = tmp_path / "a.parquet"
    table = pa.table({"id_str": ["a"], "file_loc": ["a.png"], "x": [["bb"] * 1000]})
    encodings = {"x.list.element": "DELTA_BYTE_ARRAY"}
    pq.write_table(table, path, use_dictionary=False, column_encoding=encodings)
    assert len(read_catalog(path)) == 1
    monkeypatch.setattr(parquet, "UNSEEN_BYTES", 1000)
    assert "DELTA_BYTE_ARRAY" in refused(lambda: read_catalog(path), "a.parquet")
