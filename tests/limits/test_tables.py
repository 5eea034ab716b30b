"""A table of text has lines of a limited length."""

import gzip

import pytest
from hostile_files import refused

from zoobot.data.catalog import read_catalog, read_galaxies

START = b"id_str,file_loc\na,a.png\n"


@pytest.mark.parametrize("name", ["c.csv", "c.csv.gz"])
def test_a_line_without_an_end_is_refused_before_it_is_kept(cheap, tmp_path, monkeypatch, name):
    monkeypatch.setattr("zoobot.limits.tables.MAX_LINE_BYTES", 2**20)
    monkeypatch.setattr("zoobot.limits.tables.MAX_GZIP_EXPANSION", 10**6)
    write = gzip.compress if name.endswith("gz") else bytes
    path = tmp_path / name
    path.write_bytes(write(START + b"b" * 2**22))
    assert "a line" in refused(lambda: read_catalog(path), name)
    assert "a line" in refused(lambda: list(read_galaxies(path, [], num_rows=5)), name)
    path.write_bytes(write(START + b"b,b.png\r\n" * 300_000))
    assert sum(map(len, read_galaxies(path, [], num_rows=50_000))) == 300_001
