import pandas as pd
import pytest
from small_runs import CONFIG, find, open_run, save_epochs

from zoobot.runs.changes import check_same_run, compare_options
from zoobot.runs.data_digest import Known

MODEL = {
    "class": "Classifier",
    "encoder": {"architecture": "resnet18"},
    "arguments": {"learning_rate": 1e-4, "class_names": ["no", "yes"], "label_col": "bar"},
}


def with_arguments(**arguments):
    return MODEL | {"arguments": MODEL["arguments"] | arguments}


def refusal(before, now):
    with pytest.raises(ValueError, match="belongs to a run with other options") as refused:
        compare_options({"path": "last.ckpt", "config": before}, now, set())
    return str(refused.value).partition("(")[2].partition("):")[0]


def test_of_nested_options_those_are_told_that_differ():
    before = {"lr": 1, "model": MODEL}
    now = {"lr": 1, "model": with_arguments(learning_rate=3e-4)}
    assert refusal(before, now) == "model.arguments.learning_rate was 0.0001, now 0.0003"
    more = {"lr": 2, "model": with_arguments(label_col="ring") | {"task": "x"}}
    assert refusal(before, more) == (
        "lr was 1, now 2; model.arguments.label_col was 'bar', now 'ring'; model.task was absent, "
        "now 'x'"
    )


def test_long_values_are_cut_and_lists_compared_item_by_item():
    names = [f"class {i}" for i in range(500)]
    assert refusal({"names": names}, {"names": [*names[:-1], "last"]}) == (
        "names[499] was 'class 499', now 'last'"
    )
    assert len(refusal({"names": names}, {"names": names[:-1]})) < 200
    told = refusal({"names": names}, {"names": names[::-1]})
    assert told.endswith("; and 492 more")
    assert len(told) < 500


def saved(folder, description):
    with open_run(folder) as run:
        run._description = description
        save_epochs(run, [1.0])
    return find(folder, epochs=99)


def test_classes_and_trees_that_are_renamed_are_refused_unless_allowed(tmp_path, capsys):
    state = saved(tmp_path / "classes", MODEL)
    check_same_run(state, with_arguments(learning_rate=3.0), None, False)
    renamed = with_arguments(class_names=["bar", "spiral"])
    told = r"class_names was \['no', 'yes'\], now \['bar', 'spiral'\]"
    with pytest.raises(ValueError, match=rf"other outputs \(model.arguments.{told}\).*--allow"):
        check_same_run(state, renamed, None, False)
    capsys.readouterr()
    check_same_run(state, renamed, None, True)
    out = capsys.readouterr().out
    assert "now ['bar', 'spiral']" in out
    assert "epochs was 9, now 99" in out
    tree = {"schema": {"question_answer_pairs": {"smooth": ["_yes", "_no"]}, "dependencies": {}}}
    other = {"schema": tree["schema"] | {"dependencies": {"smooth": None}}}
    state = saved(tmp_path / "tree", tree)
    with pytest.raises(ValueError, match="model.schema.dependencies.smooth was absent, now None"):
        check_same_run(state, other, None, False)


def test_a_description_of_an_earlier_version_that_tells_less_is_taken(tmp_path):
    check_same_run(saved(tmp_path / "none", {}), MODEL, None, False)
    check_same_run(saved(tmp_path / "less", {"arguments": {}}), MODEL, None, False)


@pytest.mark.parametrize("before", [{}, {"head_activation": "sigmoid"}])
def test_another_head_is_refused_and_one_that_does_not_tell_is_a_sigmoid(tmp_path, before):
    state = saved(tmp_path, before)
    check_same_run(state, {"head_activation": "sigmoid"}, None, False)
    told = "head_activation was 'sigmoid', now 'softplus'"
    for other in ({"head_activation": "softplus"}, with_arguments(head_activation="softplus")):
        with pytest.raises(ValueError, match=told):
            check_same_run(state, other, None, False)


def test_nothing_is_said_of_going_on_before_all_is_compared(tmp_path, capsys):
    known = [Known({"train": frame}, []).digest() for frame in (galaxies("ab"), galaxies("ac"))]
    with open_run(tmp_path, data=known[0]) as run:
        save_epochs(run, [1.0])
    capsys.readouterr()
    state = find(tmp_path, epochs=CONFIG["epochs"] + 1)
    with pytest.raises(ValueError, match="1 new, 1 gone"):
        check_same_run(state, {}, known[1], False)
    assert capsys.readouterr().out == ""
    check_same_run(state, {}, known[0], False)
    assert "with other options: epochs was 9, now 10" in capsys.readouterr().out


def galaxies(names):
    return pd.DataFrame({"id_str": [*names], "file_loc": [f"{name}.png" for name in names]})


def test_bands_that_differ_are_refused_and_their_places_and_statistics_are_not(tmp_path):
    before = {"bands": {"bands": ["g", "r"], "mean": [0.0, 1.0], "places": {"g": "1"}}}
    state = saved(tmp_path / "bands", before)
    elsewhere = {"bands": ["g", "r"], "mean": [0.0, 1.1], "places": {"g": "2"}}
    check_same_run(state, {"bands": elsewhere}, None, False)
    told = r"model.bands.bands was \['g', 'r'\], now \['r', 'g'\]"
    with pytest.raises(ValueError, match=told):
        check_same_run(state, {"bands": {"bands": ["r", "g"]}}, None, False)
    with pytest.raises(ValueError, match="model.bands.scaling was absent, now 'linear'"):
        check_same_run(state, {"bands": before["bands"] | {"scaling": "linear"}}, None, False)
    with pytest.raises(ValueError, match=r"model.bands.bands was \['g', 'r'\], now absent"):
        check_same_run(state, {"fits_scaling": "asinh"}, None, False)
