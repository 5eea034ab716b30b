import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from zoobot.evaluation.join import join
from zoobot.predictions.files import Predictions, read_predictions, write_predictions

N = 20
NAMES = ["disk", "round", "spiral"]


@pytest.fixture
def catalog():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, N)
    frame = pd.DataFrame({"id_str": [f"g{i}" for i in range(N)], "label": labels})
    return frame.assign(kind=[NAMES[i] for i in labels], size=rng.uniform(0, 9, N))


def made(columns, values=None, samples=1, **metadata):
    if values is None:
        values = np.random.default_rng(1).dirichlet(np.ones(len(columns)), (N, samples))
        values = np.moveaxis(values, 1, 2)
    ids = np.array([f"g{i}" for i in range(N)], dtype=object)
    return Predictions(ids, values.astype(np.float32), [*columns], None, metadata)


CLASSES = {"task": "classification", "label_col": "kind", "class_names": NAMES}


def saved_again(folder, predictions, name, keep_metadata=False):
    """A prediction file that pandas read, gave more columns and an index, and wrote."""
    path = folder / name
    write_predictions(path, predictions)
    read = pd.read_csv if name.endswith("csv") else pd.read_parquet
    frame = read(path)
    frame.insert(1, "ra", np.linspace(150, 190, N))
    frame["name"] = "NGC 1"
    frame["error"] = None
    frame = frame.iloc[::-1].rename(index=lambda i: i + 7)
    if name.endswith("csv"):
        frame.to_csv(path)
    else:
        metadata = pq.read_schema(path).metadata if keep_metadata else {}
        frame.to_parquet(path)
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata(table.schema.metadata | metadata), path)
    return path


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("name", ["p.parquet", "p.csv"])
def test_columns_that_are_no_classes_are_left_out(tmp_path, catalog, name, samples):
    predictions = made(NAMES, samples=samples, **CLASSES)
    expected = join(predictions, catalog)
    path = saved_again(tmp_path, predictions, name, keep_metadata=True)
    said = {} if name == "p.parquet" else {"class_names": NAMES, "label_col": "kind"}
    joined = join(path, catalog, **said)
    assert joined.task == "classification"
    assert joined.class_names == NAMES
    assert joined.predictions.columns == NAMES
    np.testing.assert_array_equal(joined.predictions.values[::-1], expected.predictions.values)
    assert joined.table["kind"].tolist()[::-1] == expected.table["kind"].tolist()


def test_numbered_classes_are_found_among_other_columns(tmp_path, catalog):
    predictions = made([f"label_{i}" for i in range(3)])
    path = saved_again(tmp_path, predictions, "p.csv")
    joined = join(path, catalog, class_names=["S", "D", "R"])
    assert joined.class_names == ["S", "D", "R"]
    assert joined.predictions.columns == ["label_0", "label_1", "label_2"]
    assert join(path, catalog).predictions.columns == ["label_0", "label_1", "label_2"]


def test_names_of_classes_in_another_order_do_not_change_what_a_column_means(catalog):
    predictions = made(NAMES, **CLASSES)
    right = join(predictions, catalog)
    joined = join(predictions, catalog, class_names=NAMES[::-1])
    assert joined.class_names == NAMES
    np.testing.assert_array_equal(joined.predictions.values, right.predictions.values)


def test_extra_columns_without_names_of_classes_are_refused(tmp_path, catalog):
    path = saved_again(tmp_path, made(NAMES), "p.csv")
    with pytest.raises(ValueError, match="don't tell what they are"):
        join(path, catalog, label_col="kind")
    with pytest.raises(ValueError, match="'g19' are no probabilities .*ra=.*--class-names"):
        join(path, catalog, "classification", label_col="kind")


@pytest.mark.parametrize("change", [lambda p: p * 2, lambda p: p - 1 / 3, lambda p: p * [3, 3, -3]])
def test_rows_that_are_no_probabilities_are_refused(catalog, change):
    values = np.full((N, 3, 1), 1 / 3)
    values[5, :, 0] = change(values[5, :, 0])
    predictions = made(NAMES, values, **CLASSES)
    with pytest.raises(ValueError, match=r"'g5' are no probabilities .*\(1 such galaxies\)"):
        join(predictions, catalog)
    values[5] = np.nan
    assert len(join(made(NAMES, values, **CLASSES), catalog).table) == N - 1


@pytest.mark.parametrize("as_text", [True, False])
def test_names_of_classes_that_are_digits_are_no_class_numbers(catalog, as_text):
    names = ["1", "2", "?"]
    predictions = made(names, task="classification", label_col="kind", class_names=names)
    labels = np.array([1, 2] * (N // 2))
    table = catalog.assign(kind=labels.astype(str) if as_text else labels)
    assert join(predictions, table).table["kind"].tolist() == (labels - 1).tolist()


def test_numbered_classes_are_their_numbers(catalog):
    names = ["0", "1", "2"]
    predictions = made(names, task="classification", label_col="label", class_names=names)
    assert join(predictions, catalog).table["label"].tolist() == catalog["label"].tolist()
    predictions = made(NAMES, task="classification", label_col="label", class_names=NAMES)
    assert join(predictions, catalog).table["label"].tolist() == catalog["label"].tolist()


def test_labels_among_the_predictions_are_not_scored_against_themselves(catalog):
    values = np.stack([np.linspace(0, 1, N), catalog["size"].to_numpy()], axis=1)[..., None]
    with pytest.raises(ValueError, match="'size' of the predictions is that of the catalog"):
        join(
            made(["other", "size"], values.astype(float)),
            catalog.assign(size=catalog["size"].astype(np.float32)),
            label_col="size",
        )


def test_regression_takes_the_column_of_the_label(tmp_path, catalog):
    predictions = made(["size"], np.arange(N)[:, None, None], task="regression", label_col="size")
    for name, keep in (("p.parquet", True), ("p.parquet", False), ("p.csv", False)):
        path = saved_again(tmp_path, predictions, name, keep)
        joined = join(path, catalog, label_col="size")
        assert joined.task == "regression"
        assert joined.predictions.values[::-1].ravel().tolist() == [*range(N)]
        with pytest.raises(ValueError, match="no column 'mass', but ra, size: .*--label-col"):
            join(path, catalog.assign(mass=1.0), "regression", label_col="mass")
    assert join(predictions, catalog).label_col == "size"


def test_votes_take_the_columns_of_the_tree(tmp_path, tree):
    columns = tree.label_cols
    votes = pd.DataFrame(np.arange(N * 7).reshape(N, 7), columns=columns)
    votes.insert(0, "id_str", [f"g{i}" for i in range(N)])
    predictions = made(columns, task="tree", schema=tree.to_dict())
    joined = join(saved_again(tmp_path, predictions, "p.csv"), votes, schema=tree)
    assert joined.predictions.columns == columns
    with pytest.raises(ValueError, match="label columns|columns"):
        join(made(columns[:-1]), votes, schema=tree)
    weighted = votes.assign(bar_weak=votes["bar_weak"] + 0.3)
    joined = join(predictions, weighted, round_votes=True)
    assert joined.table[columns].to_numpy().tolist() == votes[columns].to_numpy().tolist()


@pytest.mark.parametrize("name", ["p.parquet", "p.csv"])
def test_ids_of_predictions_that_were_rounded_are_refused(tmp_path, name):
    frame = pd.DataFrame({"id_str": [5.00025e17, 1.0], "size": [1.0, 2.0]})
    frame.to_csv(tmp_path / name) if name == "p.csv" else frame.to_parquet(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} can't be read: .*a rounded number"):
        read_predictions(tmp_path / name)


def test_labels_in_the_catalog_may_have_spaces_around_them(catalog):
    spaced = catalog.assign(kind=" " + catalog["kind"] + " ")
    joined = join(made(NAMES, **CLASSES), spaced)
    assert joined.table["kind"].tolist() == catalog["label"].tolist()


# Predictions find their galaxy where ids differ in folder or suffix only, and nowhere else.
def joined(predicted, ids):
    """Predictions whose value is their place, and labels that are the catalog's rows."""
    values = np.arange(len(predicted), dtype=np.float32).reshape(-1, 1, 1)
    metadata = {"task": "regression", "label_col": "row"}
    predictions = Predictions(np.array(predicted, dtype=object), values, ["row"], None, metadata)
    return join(predictions, pd.DataFrame({"id_str": ids, "row": range(len(ids))}))


@pytest.mark.parametrize(
    ("predicted", "ids"),
    [
        (["img/g0", "img/g1"], ["g1", "g0"]),
        (["g0", "g1"], ["img/g1.fits.fz", "img/g0.png"]),
        (["deep/img/g0", "g1.jpg"], ["g1", "img/g0"]),
    ],
)
def test_an_id_that_is_the_end_of_anothers_path_matches_it(predicted, ids):
    made = joined(predicted, ids)
    assert made.predictions.values[:, 0, 0].tolist() == [0, 1]
    assert made.table["row"].tolist() == [1, 0]
    assert any("2 of them by the name without folder and suffix" in note for note in made.notes)


def test_a_galaxy_that_is_predicted_twice_is_refused():
    with pytest.raises(ValueError, match=r"predictions of 'g0' appear more than once \(1 rows"):
        joined(["g0", "g1", "g0"], ["g1", "g0"])


def test_equal_ids_match_without_a_word_about_names():
    made = joined(["g0", "g1"], ["g1", "g0"])
    assert made.table["row"].tolist() == [1, 0]
    assert not any("name" in note for note in made.notes)


def test_a_name_of_several_matches_none_and_is_told():
    made = joined(["a/g0", "b/g0", "a/g1", "g2"], ["g0", "g1", "x/g2", "y/g2"])
    assert made.table["row"].tolist() == [1]
    (note,) = (note for note in made.notes if "names of several" in note)
    assert "a/g0, b/g0, g2" in note
    with pytest.raises(ValueError, match="the name of 'a/g0' is that of several"):
        joined(["a/g0", "b/g0"], ["g0"])


def test_another_folders_galaxy_of_that_name_is_no_match():
    with pytest.raises(ValueError, match="no prediction belongs to a galaxy"):
        joined(["a/g0"], ["b/g0"])


def test_an_equal_id_comes_before_an_equal_name():
    made = joined(["a/g0", "g0"], ["g0"])
    assert made.predictions.values[:, 0, 0].tolist() == [1]
