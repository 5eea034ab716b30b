import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from processes import script_error

from zoobot import merge_votes
from zoobot.script import run_script

NAMES = "smooth_yes smooth_no bar_strong bar_weak bar_no merging_yes merging_no".split()


@pytest.fixture
def folder(tree, tmp_path, monkeypatch):
    """A catalog of 6 galaxies, g4 and g5 held out; votes of g1 and g0; a pool of g6 to g9."""
    monkeypatch.chdir(tmp_path)
    with open("tree.json", "w", encoding="utf-8") as file:
        json.dump(tree.to_dict(), file)
    catalog = galaxies(range(6)).assign(split=["train"] * 4 + ["Validation", "test"])
    catalog = catalog.assign(ra=np.linspace(0, 1, 6).round(3), **dict.fromkeys(NAMES, 3))
    catalog.to_csv("cat.csv", index=False)
    catalog.astype({NAMES[0]: "int16", NAMES[1]: "float32"}).to_parquet("cat.parquet", index=False)
    galaxies(range(6, 10)).assign(ra=7.5, dec=1).to_csv("pool.csv", index=False)
    galaxies(range(6, 10)).assign(ra=7.5, dec=1).to_parquet("pool.parquet", index=False)
    votes("new.csv", {"g1": 2, "g0": 5})
    return tmp_path


def galaxies(numbers):
    return pd.DataFrame({"id_str": [f"g{i}" for i in numbers], "file_loc": "a.png"})


def votes(path, counts):
    table = pd.DataFrame({"id_str": [*counts]})
    for i, name in enumerate(NAMES):
        table[name] = [count + i for count in counts.values()]
    table.to_csv(path, index=False)
    return path


def run(kind, *words):
    words = [*("--catalog", f"cat.{kind}", "--votes", "new.csv", "--schema", "tree.json"), *words]
    run_script(merge_votes.main, lambda: merge_votes.parse([*words, "--save-loc", f"cat-2.{kind}"]))


def refusal(capsys, **changes):
    given = {"catalog": "cat.csv", "votes": "new.csv", "schema": "tree.json"}
    given |= {"save_loc": "cat-2.csv"} | changes
    words = (w for name, value in given.items() for w in (f"--{name.replace('_', '-')}", value))
    line = script_error(capsys, merge_votes, *words)
    assert not (merge_votes.Path("cat-2.csv")).exists()
    return line


def test_votes_are_added_by_id_and_all_other_text_stays(folder, capsys):
    before = open("cat.csv", encoding="utf-8").read().splitlines()
    run("csv")
    after = open("cat-2.csv", encoding="utf-8").read().splitlines()
    assert after[0] == before[0]
    assert after[3:] == before[3:]
    assert after[1] == "g0,a.png,train,0.0,8,9,10,11,12,13,14"
    assert after[2].endswith(",5,6,7,8,9,10,11")
    assert "91 votes of 2 galaxies, 0 of them new: catalog cat-2.csv of 6" in (
        capsys.readouterr().out
    )


def test_types_and_rows_stay_and_the_old_catalog_too(folder):
    old = open("cat.parquet", "rb").read()
    run("parquet")
    first = open("cat-2.parquet", "rb").read()
    run("parquet")  # again: nothing is added twice
    assert open("cat-2.parquet", "rb").read() == first
    assert open("cat.parquet", "rb").read() == old
    before, after = pq.read_table("cat.parquet"), pq.read_table("cat-2.parquet")
    assert after.schema.equals(before.schema, check_metadata=True)
    assert after["smooth_yes"].to_pylist() == [8, 5, 3, 3, 3, 3]
    assert after["smooth_no"].to_pylist() == [9.0, 6.0, 3, 3, 3, 3]
    for name in ("id_str", "ra", "split", "file_loc"):
        assert after[name].equals(before[name])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("kind_of_pool", ["csv", "parquet"])
def test_new_galaxies_come_from_the_pool_to_train_on(folder, capsys, kind, kind_of_pool):
    votes("new.csv", {"g8": 1, "g0": 0, "g6": 4})
    run(kind, "--pool", f"pool.{kind_of_pool}")
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet}[kind]
    after = read(f"cat-2.{kind}").set_index("id_str")
    assert [*after.index] == ["g0", "g1", "g2", "g3", "g4", "g5", "g6", "g8"]
    assert after.loc[["g8", "g6"], "split"].tolist() == ["train", "train"]
    assert after.loc[["g8", "g6"], "ra"].tolist() == [7.5, 7.5]
    assert after.loc["g6", NAMES].tolist() == [4, 5, 6, 7, 8, 9, 10]
    assert after.loc["g8", NAMES].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert after["split"].iloc[:6].tolist() == ["train"] * 4 + ["Validation", "test"]
    assert "dec" not in after
    assert ", 2 of them new: " in capsys.readouterr().out


def test_what_the_pool_lacks_is_empty_and_told(folder, capsys):
    votes("new.csv", {"g8": 1})
    galaxies(range(6, 10)).to_csv("pool.csv", index=False)
    run("csv", "--pool", "pool.csv")
    assert "warning: pool.csv has no 'ra': empty for the 1 new galaxies" in capsys.readouterr().err
    assert pd.read_csv("cat-2.csv")["ra"].isna().sum() == 1


def test_a_catalog_without_splits_is_told_of(folder, capsys):
    pd.read_csv("cat.csv").drop(columns="split").to_csv("cat.csv", index=False)
    run("csv")
    assert "warning: cat.csv has no column 'split'" in capsys.readouterr().err


def test_votes_of_held_out_galaxies_are_refused(folder, capsys):
    votes("new.csv", {"g0": 1, "g4": 1, "g5": 2})
    told = refusal(capsys)
    assert "has votes of 2 galaxies of the splits val and test of cat.csv, such as 'g4'" in told
    votes("new.csv", {"g7": 1})
    galaxies(range(6, 10)).assign(split="test", ra=1).to_csv("pool.csv", index=False)
    assert "splits val and test of pool.csv, such as 'g7' (test)" in refusal(
        capsys, pool="pool.csv"
    )


def test_mistakes_are_one_line_and_nothing_is_written(folder, capsys):
    assert "is the catalog itself" in refusal(capsys, save_loc="cat.csv")
    assert "must both be .parquet or both be .csv" in refusal(capsys, save_loc="cat-2.parquet")
    assert "no catalog none.csv" in refusal(capsys, catalog="none.csv")
    assert "no catalog none.csv" in refusal(capsys, votes="none.csv")
    votes("x.csv", {"g0": 1, "g7": 1, "x": 1})
    told = refusal(capsys, votes="x.csv")
    assert "x.csv has 2 galaxies that are not in cat.csv, such as 'g7'" in told
    assert "give --pool" in told
    told = refusal(capsys, votes="x.csv", pool="pool.csv")
    assert "1 galaxies that are neither in cat.csv nor in pool.csv, such as 'x'" in told
    pd.concat([pd.read_csv("new.csv")] * 2).to_csv("x.csv")
    assert "has galaxy 'g1' in 2 rows: add them up first" in refusal(capsys, votes="x.csv")
    pd.read_csv("new.csv").drop(columns="bar_no").to_csv("x.csv")
    assert "has no column 'bar_no'; did you mean" in refusal(capsys, votes="x.csv")
    pd.read_csv("new.csv").assign(bar_no=0.5).to_csv("x.csv")
    assert "column 'bar_no' of id_str 'g1' holds 0.5" in refusal(capsys, votes="x.csv")
    pd.read_csv("cat.csv").assign(bar_no="many").to_csv("x.csv", index=False)
    assert "column 'bar_no' of id_str 'g0' holds many" in refusal(capsys, catalog="x.csv")
    pd.read_csv("cat.csv").assign(id_str="g1").to_csv("x.csv", index=False)
    assert "'g1' appears more than once" in refusal(capsys, catalog="x.csv")
    open("x.csv", "a", encoding="utf-8").write("g7,b.png,train,1,2\n")
    assert "x.csv can't be read: CSV parse error: Expected 11 columns, got 5" in (
        refusal(capsys, catalog="x.csv")
    )
    open("x.csv", "w", encoding="utf-8").write("id_str,bar_no,bar_no\ng0,1,2\n")
    assert "more than one column 'bar_no'" in refusal(capsys, catalog="x.csv")


def test_images_relative_to_another_folder_are_refused(folder, capsys):
    (folder / "other").mkdir()
    told = refusal(capsys, save_loc="other/cat-2.csv")
    assert "cat.csv has images relative to its folder, such as 'a.png'" in told
    votes("new.csv", {"g7": 1})
    (folder / "pool.csv").rename(folder / "other" / "pool.csv")
    told = refusal(capsys, pool="other/pool.csv")
    assert "pool.csv has images relative to its folder, such as 'a.png'" in told


def test_counts_that_the_type_can_not_hold_are_refused(folder, capsys):
    table = pq.read_table("cat.parquet")
    place = table.column_names.index("bar_no")
    column = pa.array([126] * 6, pa.int8())
    pq.write_table(table.set_column(place, "bar_no", column), "cat.parquet")
    told = refusal(capsys, catalog="cat.parquet", save_loc="cat-2.parquet")
    assert "column 'bar_no' can't become int8" in told


def test_whole_numbers_with_a_point_keep_it(folder):
    text = open("cat.csv", encoding="utf-8").read().replace(",3\n", ",3.0\n")
    open("cat.csv", "w", encoding="utf-8").write(text)
    run("csv")
    assert pd.read_csv("cat-2.csv", dtype=str)["merging_no"].tolist() == [
        *("14.0", "11.0", "3.0", "3.0", "3.0", "3.0")
    ]
