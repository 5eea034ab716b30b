import csv
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zoobot.predictions.files import (
    Predictions,
    check_save_loc,
    open_writer,
    read_predictions,
    write_predictions,
)

COLUMNS = ["smooth_yes", "smooth_no", "odd, \"name\""]  # fmt: skip


def predictions(num_galaxies=11, num_samples=1, with_errors=True, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.uniform(0, 101, (num_galaxies, 3, num_samples)).astype(np.float32)
    values[3] = np.nan
    errors = np.full(num_galaxies, None, dtype=object)
    errors[3] = 'g3.png: damaged, "truncated"'
    ids = np.array([f"0{i}" for i in range(num_galaxies)], dtype=object)
    ids[5], ids[6], ids[7] = "J1, with a comma", "NA", "nan"
    return Predictions(ids, values, COLUMNS, errors if with_errors else None, {"task": "tree"})


def write(whole, path, part_rows=4):
    like = Predictions(whole.ids[:0], whole.values[:0], whole.columns, whole.errors, whole.metadata)
    with open_writer(path, path.suffix, like, len(whole.ids)) as writer:
        for start in range(0, len(whole.ids), part_rows):
            part = slice(start, start + part_rows)
            errors = None if whole.errors is None else whole.errors[part]
            writer.write(Predictions(whole.ids[part], whole.values[part], whole.columns, errors))
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".hdf5", ".h5", ".fits", ".vot"])
@pytest.mark.parametrize("num_samples", [1, 5])
@pytest.mark.parametrize("with_errors", [True, False])
def test_what_is_written_in_parts_is_read_back_to_the_bit(
    tmp_path, suffix, num_samples, with_errors
):
    whole = predictions(num_samples=num_samples, with_errors=with_errors)
    again = read_predictions(write(whole, tmp_path / f"p{suffix}"))
    assert list(again.ids) == list(whole.ids)
    assert again.columns == COLUMNS
    assert again.values.dtype == np.float32
    np.testing.assert_array_equal(again.values, whole.values)
    assert (again.errors is None) == (not with_errors)
    if with_errors:
        assert list(again.errors) == list(whole.errors)
    if suffix != ".csv":
        assert again.metadata == {"task": "tree"}


def test_parquet_holds_numbers_or_lists_and_csv_json(tmp_path):
    one, many = predictions(), predictions(num_samples=5)
    table = pd.read_parquet(write(one, tmp_path / "one.parquet"))
    assert list(table.columns) == ["id_str", *COLUMNS, "error"]
    assert table["smooth_no"].dtype == np.float32
    table = pd.read_parquet(write(many, tmp_path / "many.parquet"))
    np.testing.assert_array_equal(table["smooth_no"][2], many.values[2, 1])
    cell = pd.read_csv(write(many, tmp_path / "many.csv"))["smooth_no"][2]
    np.testing.assert_array_equal(np.float32(json.loads(cell)), many.values[2, 1])


def test_hdf5_opens_as_galaxies_by_columns_by_samples(tmp_path):
    h5py = pytest.importorskip("h5py")
    whole = predictions(num_samples=5)
    with h5py.File(write(whole, tmp_path / "p.hdf5")) as file:
        assert file["predictions"].shape == (11, 3, 5)
        assert file["predictions"].dtype == np.float32
        assert [x.decode() for x in file["label_cols"]] == COLUMNS
        assert file["id_str"][5].decode() == "J1, with a comma"


def test_parts_of_any_size_make_the_same_file(tmp_path):
    whole = predictions(num_samples=2)
    for suffix in (".parquet", ".csv", ".fits", ".vot"):
        one = write(whole, tmp_path / f"one{suffix}", part_rows=3)
        assert one.read_bytes() == write(whole, tmp_path / f"two{suffix}", 11).read_bytes()


def test_large_predictions_are_written_in_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("zoobot.predictions.files.VALUES_A_ROW_GROUP", 12)
    path = write(predictions(), tmp_path / "p.parquet")
    assert pq.ParquetFile(path).num_row_groups == 3


@pytest.mark.parametrize("num_samples", [1, 3])
def test_a_table_of_predictions_is_that_of_the_parquet_file(tmp_path, num_samples):
    whole = predictions(num_samples=num_samples)
    table = pd.read_parquet(write(whole, tmp_path / "p.parquet"))
    pd.testing.assert_frame_equal(whole.to_frame(), table)


@pytest.mark.parametrize("num_samples", [1, 2])
def test_infinities_are_read_back(tmp_path, num_samples):
    whole = predictions(num_samples=num_samples)
    whole.values[0, 0], whole.values[0, 1] = np.inf, -np.inf
    again = read_predictions(write(whole, tmp_path / "p.csv"))
    np.testing.assert_array_equal(again.values, whole.values)


def test_files_that_are_no_predictions_are_told(tmp_path):
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 no more")
    (tmp_path / "torn.hdf5").write_bytes(b"")
    for name, told in (
        ("none.csv", "no predictions"),
        ("torn.parquet", "can't be read"),
        ("torn.hdf5", "can't be read"),
    ):
        with pytest.raises(ValueError, match=told):
            read_predictions(tmp_path / name)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        check_save_loc(tmp_path / "folder.parquet")
    with pytest.raises(ValueError, match="end the name with one of"):
        check_save_loc("predictions.txt")


def test_no_text_in_a_csv_file_is_a_formula_and_all_come_back(tmp_path):
    formula = "=cmd|' /C calc'!A0"
    whole = predictions()
    whole.columns = ["=1+1", "'-a", "b"]
    whole.ids[0], whole.ids[1], whole.errors[3] = formula, "-12.5", formula
    whole.carried = pa.table({"@note": [formula, "-7"] * 5 + [None], "dec": [-1.5] * 11})
    write_predictions(tmp_path / "p.csv", whole)
    with open(tmp_path / "p.csv", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell[:1] in {*"=+@"}]
    assert cells.count("'" + formula) == 7
    assert {"-12.5", "-7", "-1.5", "'=1+1", "''-a", "'@note"} < {*cells}
    again = read_predictions(tmp_path / "p.csv")
    assert list(again.ids) == list(whole.ids)
    assert list(again.errors) == list(whole.errors)
    assert again.columns == ["dec", *whole.columns]
