"""Questions with very many answers, and trees of very many questions, in reports."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from zoobot import evaluate
from zoobot.evaluation import figures, report, run_figures, vote_tree_sections
from zoobot.evaluation.report import Report
from zoobot.evaluation.room import in_figures, listed
from zoobot.evaluation.vote_trees import vote_trees
from zoobot.predictions.files import Predictions
from zoobot.schemas import Schema


@pytest.fixture
def undrawn(monkeypatch):
    """Name -> figure of a report, made but not drawn, which takes minutes of many panels."""
    made = {}

    def section(self, title, text, drawn, tables=()):
        made.update({name: draw(figures.WIDE) for name, (draw, _) in drawn.items()})
        self.sections.append({"title": title, "text": text, "figures": [], "tables": tables})
        self.numbers |= {t["caption"]: {"columns": t["columns"], "rows": t["rows"]} for t in tables}

    monkeypatch.setattr(report.Report, "section", section)
    return made


def evaluated(tmp_path, schema, num_galaxies=24):
    rng = np.random.default_rng(0)
    size = (num_galaxies, len(schema.label_cols))
    table = pd.DataFrame(rng.integers(0, 9, size), columns=schema.label_cols)
    table.insert(0, "id_str", [f"g{i}" for i in range(num_galaxies)])
    Image.new("RGB", (8, 8)).save(tmp_path / "g.png")
    table["file_loc"] = str(tmp_path / "g.png")
    values = rng.uniform(1, 30, (*size, 1)).astype(np.float32)
    metadata = {"task": "tree", "schema": schema.to_dict()}
    made = Predictions(table["id_str"].to_numpy(), values, schema.label_cols, None, metadata)
    evaluate.evaluate(made, table, tmp_path / "report")
    return (tmp_path / "report" / "report.html").read_text(), json.loads(
        (tmp_path / "report" / "metrics.json").read_text()
    )


def test_names_in_a_sentence_are_few():
    assert listed(["a", "b"]) == "a, b"
    assert listed([f"q{i}" for i in range(1020)]).endswith("q18, q19 and 1,000 more")


def test_what_figures_have_no_room_for_is_told():
    assert in_figures(["a", "b"], "questions") == (["a", "b"], "")
    kept, told = in_figures([2, 41, 3], "questions", lambda count: count)
    assert kept == [2, 3]
    assert told == (
        " Figures show 2 of the 3 questions: there is room for 36, each with 40 answers at most. "
        "Tables have all."
    )
    assert len(in_figures([40] * 30, "questions", lambda count: count)[0]) == 6  # 40 * 40 each


def test_a_report_of_a_tree_of_hundreds_of_questions_draws_few_and_has_all_in_tables(
    tmp_path, undrawn
):
    names = [f"q{i}" for i in range(120)]
    schema = Schema({name: ["_yes", "_no"] for name in names}, dict.fromkeys(names))
    page, numbers = evaluated(tmp_path, schema)
    assert max(len(figure.axes) for figure in undrawn.values()) == 36
    assert max(figure.get_size_inches()[1] for figure in undrawn.values()) < 40
    labels = undrawn["worth.png"].axes[0].get_yticklabels()
    assert len(labels) == 36
    assert len(numbers["Scores by question"]["rows"]) == 120
    assert "Figures show 36 of the 120 questions: there is room for 36. Tables have all." in page
    assert "q19 and 100 more" in page


def test_a_report_of_a_question_of_hundreds_of_answers_draws_the_others(tmp_path, undrawn):
    schema = Schema({"kind": [f"_{i}" for i in range(300)], "bar": ["_yes", "_no"]}, {
        "kind": None, "bar": None,
    })  # fmt: skip
    page, numbers = evaluated(tmp_path, schema)
    assert len(undrawn["confusion_matrices.png"].axes) == 1
    assert len(undrawn["bias.png"].axes[0].get_yticklabels()) == 2
    assert len(numbers["Bias by answer"]["rows"]) == 302
    assert "Figures show 1 of the 2 questions" in page


def test_a_page_has_fewer_galaxies_where_each_has_many_answers(tmp_path, undrawn, monkeypatch):
    monkeypatch.setattr(evaluate, "MOST_SHARES", 600)
    schema = Schema({"kind": [f"_{i}" for i in range(100)]}, {"kind": None})
    page, _ = evaluated(tmp_path, schema)
    assert "6 can be looked at below" in page


def test_below_a_galaxy_are_a_dozen_questions_and_answers_at_most(tmp_path):
    names = [f"q{i}" for i in range(50)]
    parents = {name: None for name in names}
    schema = Schema({name: [f"_{i}" for i in range(30)] for name in names}, parents)
    p = np.full((1, 1500), 0.5 / 29)
    p[:, ::30] = 0.5
    figure = vote_trees(schema, ["g"], [Image.new("RGB", (8, 8))], p, votes=np.ones((1, 1500)))
    bars = figure.axes[1].patches
    assert len(bars) == 12 * 2 * 12
    assert sum(bar.get_width() for bar in bars[:12]) == pytest.approx(1)
    assert figure.get_size_inches()[1] < 12


def test_the_caption_tells_of_questions_that_are_not_shown(tmp_path, monkeypatch):
    names = [f"q{i}" for i in range(13)]
    schema = Schema({name: ["_yes", "_no"] for name in names}, dict.fromkeys(names))
    monkeypatch.setattr(Report, "section", lambda self, *parts: self.sections.append(parts))
    out = Report(tmp_path)
    joined, pictures = Stands(schema), StandingPictures()
    vote_tree_sections.report_vote_trees(
        out, joined, pictures, np.full((1, 26), 0.5), np.ones((1, 26))
    )
    caption = out.sections[0][2]["vote_trees.png"][1]
    assert caption.endswith("Of them the first 12 are shown.")


class Stands:
    """Of one galaxy, what a report looks at."""

    def __init__(self, schema):
        self.schema, self.table = schema, pd.DataFrame({"id_str": ["g"]})
        self.predictions = Predictions(np.array(["g"]), None, [], None, {})


class StandingPictures:
    def read(self, row):
        return Image.new("RGB", (8, 8))


def test_a_confusion_matrix_of_very_many_classes_has_no_numbers():
    names = [f"c{i}" for i in range(41)]
    axis = figures.confusion_matrix(np.ones((41, 41), int), names).axes[0]
    assert len(axis.texts) == 0
    axis = figures.confusion_matrix(np.ones((40, 40), int), names[:40]).axes[0]
    assert len(axis.texts) == 1600


def test_a_run_draws_the_first_of_very_many_questions_and_says_so(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(run_figures, "save", lambda figure, path: drawn.append(figure))
    names = [f"q{i}" for i in range(100)]
    schema = Schema({name: ["_yes", "_no"] for name in names}, dict.fromkeys(names))
    kinds = ("question_accuracy", "question_loss")
    metrics = {f"{kind}/{name}": 0.5 for kind in kinds for name in names}
    run_figures.plot_questions(metrics, schema, tmp_path / "q.png")
    assert drawn[0].get_suptitle() == "the first 36 of 100 questions"
    assert len(drawn[0].axes[0].patches) == 36
