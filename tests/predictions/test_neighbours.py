import numpy as np
import pytest

from zoobot.predictions import neighbours


def test_oddness_is_the_distance_to_the_fifth_neighbour(monkeypatch):
    monkeypatch.setattr(neighbours, "ROWS_AT_ONCE", 7)
    pytest.importorskip("sklearn")
    features = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    distances = np.linalg.norm(features[:, None] - features, axis=2)
    expected = np.sort(distances, axis=1)[:, 5]
    np.testing.assert_allclose(neighbours.oddness(features), expected, rtol=1e-4)


def test_what_principal_components_leave_out_is_odd_too(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(neighbours, "NUM_COMPONENTS", 1)
    features = np.zeros((40, 3))
    features[:, 0] = np.linspace(-10, 10, 40)
    features[7] = [0, 0, 8]
    assert neighbours.oddness(features.astype(np.float32)).argmax() == 7


def test_an_id_without_its_folder_is_suggested():
    ids = np.array([f"img/{i:06d}" for i in range(5000)], dtype=object)
    with pytest.raises(ValueError, match="mean 'img/001234'"):
        neighbours.find_galaxy(ids, "001234")
