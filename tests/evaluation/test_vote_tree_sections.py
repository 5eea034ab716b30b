import numpy as np
import pytest
from conftest import draw_galaxies
from PIL import Image

from zoobot.data.catalog import read_catalog
from zoobot.evaluation import vote_tree_sections
from zoobot.evaluation.join import Joined
from zoobot.evaluation.pictures import Pictures
from zoobot.evaluation.report import Report
from zoobot.evaluation.vote_tree_sections import report_vote_trees
from zoobot.predictions.files import Predictions


@pytest.fixture
def joined(tmp_path, tree):
    table = read_catalog(draw_galaxies(tmp_path, tree, 12))
    values = np.ones((12, 7, 1))
    made = Predictions(table["id_str"].to_numpy(), values, tree.label_cols, None, {})
    return Joined(made, table, "tree", tree, "", [], [])


def fractions_and_votes(joined):
    """Galaxies 0 to 5 are smooth, the others not; the first of each is the clearest."""
    p = np.tile([0.0, 0, 0.1, 0.2, 0.7, 0.1, 0.9], (12, 1))
    clear = 0.95 - 0.03 * (np.arange(12) % 6)
    p[:, 0] = np.where(np.arange(12) < 6, clear, 1 - clear)
    p[:, 1] = 1 - p[:, 0]
    return p, joined.table[joined.schema.label_cols].to_numpy()


@pytest.fixture
def drawn(monkeypatch):
    """The ids of each figure that is drawn, and the galaxies in a row."""
    seen, real = [], vote_tree_sections.vote_trees

    def spy(schema, ids, *others, **more):
        seen.append((ids, more["columns"]))
        return real(schema, ids, *others, **more)

    monkeypatch.setattr(vote_tree_sections, "vote_trees", spy)
    return seen


def test_the_clearest_galaxy_of_each_way_down_the_tree_is_shown(joined, tmp_path, drawn):
    out = Report(tmp_path / "report")
    out.folder.mkdir()
    report_vote_trees(out, joined, Pictures(), *fractions_and_votes(joined))
    assert drawn == [(["g6", "g0"], 4), (["g6", "g0"], 1)]
    (figure,) = out.sections[0]["figures"]
    assert figure["file"] == "vote_trees.png"
    assert figure["caption"].startswith("Thick bars: predicted; thin bars: volunteers")
    assert Image.open(out.folder / "vote_trees.png").size[0] > 800


def test_a_galaxy_without_a_readable_image_gives_way_to_another(joined, tmp_path, drawn):
    out = Report(tmp_path / "report")
    out.folder.mkdir()
    for row in (6, 7):
        (tmp_path / "images" / f"g{row}.png").write_bytes(b"torn")
    report_vote_trees(out, joined, Pictures(), *fractions_and_votes(joined))
    assert drawn[0][0] == ["g8", "g0"]


@pytest.mark.parametrize("gone", [{"file_loc": "nowhere.png"}, {"file_loc": None}, {}])
def test_without_any_readable_image_there_is_no_section(joined, tmp_path, gone):
    table = joined.table.drop(columns="file_loc")
    joined.table = table.assign(**gone) if gone else table
    out = Report(tmp_path)
    report_vote_trees(out, joined, Pictures(), *fractions_and_votes(joined))
    assert out.sections == []
