"""What the pages of a Parquet file say is what is read, whatever the end of the file says."""

import io
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_files import refused

from zoobot.data.catalog import read_catalog
from zoobot.limits import parquet
from zoobot.limits.parquet_pages import Pages, read_pages
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


def number(value):
    """A number as Thrift writes it."""
    value, found = value * 2 if value >= 0 else -value * 2 - 1, []
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def page(num_bytes, num_values, packed=0):
    """The header of a page of data."""
    within = b"\x15" + number(num_values) + b"\x15\0\x15\6\x15\6\0"
    sizes = b"\x15" + number(num_bytes) + b"\x15" + number(packed)
    return b"\x15\0" + sizes + b"\x2c" + within + b"\0"


def pages_of(content, num_values=1):
    told = {"data_page_offset": 0, "has_dictionary_page": False, "num_values": num_values}
    chunk = types.SimpleNamespace(total_compressed_size=len(content), **told)
    return read_pages(io.BytesIO(content), chunk)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("packing", ["none", "zstd"])
def test_pages_of_a_sound_file_say_what_its_end_says(tmp_path, version, packing):
    path = tmp_path / "a.parquet"
    options = {"data_page_size": 2000, "row_group_size": 1000, "compression": packing}
    pq.write_table(TABLE, path, data_page_version=version, **options)
    claimed = pq.read_metadata(path)
    with open(path, "rb") as file:
        for group in range(claimed.num_row_groups):
            for column in range(claimed.num_columns):
                chunk = claimed.row_group(group).column(column)
                pages = read_pages(file, chunk)
                assert pages.values == chunk.num_values
                assert 0 < pages.num_bytes <= chunk.total_uncompressed_size
    parquet.check_parquet(path)
    assert len(read_catalog(path)) == MANY


def test_pages_are_counted_whatever_the_end_of_the_file_says():
    assert pages_of(page(2 * 10**9, 10)) == Pages(10, 2 * 10**9, frozenset({0}))
    assert pages_of(page(5, 10) + page(6, 20)) == Pages(30, 11, frozenset({0}))


@pytest.mark.parametrize(
    "content",
    [page(-1, 10), page(1, -10), page(1, 1, -5), page(1, 1)[:-3], b"\x3c" * 50, b"\x1d\0", b"\0"]
    + [b"\x25\2\x15\2\x25\2\0", b"\x28\1\0\x18\1\0\0", b"\x25\2\x15\2\x28\1\0\0"],
    ids=["bytes", "values", "packed", "cut", "deep", "kind", "empty", "number", "texts", "text"],
)
def test_a_header_of_a_page_that_is_none_is_refused(content):
    with pytest.raises(UserError, match="page"):
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
