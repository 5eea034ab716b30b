import numpy as np

from zoobot.evaluation.shown import choose_shown


def test_many_galaxies_are_shown_by_a_share_of_the_worst_and_a_seeded_draw():
    errors = np.arange(1000.0)
    shown, how = choose_shown(errors, 100)
    assert len(shown) == len(set(shown)) == 100
    assert set(range(975, 1000)) <= set(shown)
    assert shown.tolist() == choose_shown(errors, 100)[0].tolist()
    assert "the 25 with the largest errors, and 75 drawn at random" in how
    assert choose_shown(errors[:50], 100)[0].tolist() == list(range(50))
