"""The demo catalog: what is drawn, what volunteers say of it, and the file that holds both."""

import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from zoobot.data.bands.read import read_bands
from zoobot.data.bands.spec import ImageSpec
from zoobot.data.catalog import read_catalog
from zoobot.data.demo import catalog as demo
from zoobot.data.demo import simulator, telescope
from zoobot.data.demo.catalog import (
    DEMO_TREE,
    VERSION,
    answer_probabilities,
    demo_catalog,
    simulate_catalog,
    true_probabilities,
    volunteer_votes,
)
from zoobot.schemas import load_schema
from zoobot.system.caches import cache_dir

TREE = load_schema(DEMO_TREE)


@pytest.fixture(scope="module")
def catalog_path(tmp_path_factory):
    return demo_catalog(60, seed=3, size_px=64, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def catalog(catalog_path):
    return pd.read_parquet(catalog_path)


@pytest.fixture(scope="module")
def parameters():
    return simulator.simulate_galaxies(2000, np.random.default_rng(0))


@pytest.fixture
def plain_disc():
    """An undisturbed, barless two-armed spiral at 30 degrees; tests vary one thing of it."""
    some = simulator.simulate_galaxies(400, np.random.default_rng(1))
    galaxy = some[some["bulge_to_total"] < 1].iloc[:1]
    return galaxy.assign(
        inclination_deg=30.0,
        bulge_to_total=0.15,
        bulge_axis_ratio=0.9,
        position_angle_deg=0.0,
        bar_strength=0.0,
        num_arms=2,
        arm_pitch_deg=20.0,
        arm_contrast=0.6,
        tail_strength=0.0,
        companion_flux_ratio=0.0,
        companion_separation_arcsec=6.0,
        star_flux_ratio=0.0,
        surface_brightness_snr=25.0,
    )


def vary(galaxy, **columns):
    """The galaxy once per value, with those values in place of its own."""
    num = len(next(iter(columns.values())))
    return pd.concat([galaxy] * num, ignore_index=True).assign(**columns)


def votes_of(catalog):
    return catalog[TREE.label_cols].to_numpy()


def test_same_seed_gives_the_same_bytes(catalog_path, tmp_path):
    again = demo_catalog(60, seed=3, size_px=64, cache_dir=tmp_path)
    assert again != catalog_path
    assert again.read_bytes() == catalog_path.read_bytes()


def test_another_seed_gives_other_galaxies(catalog, tmp_path):
    other = pd.read_parquet(demo_catalog(60, seed=4, size_px=64, cache_dir=tmp_path))
    assert not set(other["id_str"]) & set(catalog["id_str"])
    assert not set(other["image"]) & set(catalog["image"])
    assert not np.array_equal(votes_of(other), votes_of(catalog))


def test_second_call_uses_the_cache(catalog_path, monkeypatch):
    def fail(*args):
        raise AssertionError("the catalog was made again")

    monkeypatch.setattr(demo, "simulate_catalog", fail)
    again = demo_catalog(60, seed=3, size_px=64, cache_dir=catalog_path.parent)
    assert again == catalog_path


def test_file_name_tells_catalogs_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "simulate_catalog", lambda n, *args: pd.DataFrame({"n": range(n)}))
    paths = {demo_catalog(n, s, px, tmp_path) for n in (10, 11) for s in (0, 1) for px in (32, 64)}
    monkeypatch.setattr(demo, "VERSION", VERSION + 1)
    paths.add(demo_catalog(10, 0, 32, tmp_path))
    assert len(paths) == 9


def test_default_cache_follows_xdg_cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(demo, "simulate_catalog", lambda n, *args: pd.DataFrame({"n": range(n)}))
    assert demo_catalog(10).parent == tmp_path / "zoobot"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "zoobot"


def test_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def half_written(self, file, index):
        file.write_bytes(b"PAR1")
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "simulate_catalog", lambda *args: pd.DataFrame({"n": [1]}))
    monkeypatch.setattr(pd.DataFrame, "to_parquet", half_written)
    with pytest.raises(KeyboardInterrupt):
        demo_catalog(10, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_truncated_temporary_file_never_becomes_the_catalog(catalog_path, tmp_path):
    # What a process killed while writing leaves behind.
    left = tmp_path / f"{catalog_path.stem}abcd1234.tmp"
    left.write_bytes(catalog_path.read_bytes()[:1000])
    path = demo_catalog(60, seed=3, size_px=64, cache_dir=tmp_path)
    assert path != left
    assert path.read_bytes() == catalog_path.read_bytes()


def test_unwritable_cache_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ValueError, match="XDG_CACHE_HOME"):
        demo_catalog(10, cache_dir=tmp_path / "file" / "below")


@pytest.mark.parametrize("wrong", [{"num_galaxies": 3}, {"size_px": 8}])
def test_too_small_a_demo_is_an_error(wrong, tmp_path):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        demo_catalog(**wrong, cache_dir=tmp_path)


def test_images_decode_to_the_given_size(catalog):
    for encoded in catalog["image"]:
        with Image.open(io.BytesIO(encoded)) as image:
            assert image.size == (64, 64)
            assert image.mode == "RGB"


def test_catalog_has_unique_ids_and_the_stated_split(catalog):
    assert catalog["id_str"].is_unique
    assert catalog["split"].value_counts().to_dict() == {"train": 45, "val": 9, "test": 6}


def test_volunteers_at_a_question_gave_an_answer_that_leads_to_it(catalog):
    for question in TREE.questions:
        asked = catalog[question.label_cols].sum(axis=1)
        if question.parents:
            parents = [answer.text for answer in question.parents]
            assert asked.equals(catalog[parents].sum(axis=1))


def test_every_galaxy_has_five_to_forty_volunteers(catalog):
    root = catalog[TREE.questions[0].label_cols].sum(axis=1)
    assert root.between(5, 40).all()
    assert root.nunique() > 10


def test_true_probabilities_sum_to_one_per_question(catalog):
    truth = true_probabilities(catalog, TREE.label_cols)
    assert truth.shape == (60, len(TREE.label_cols))
    assert truth.min() > 0
    for question in TREE.questions:
        sums = truth[:, question.start_index : question.end_index + 1].sum(axis=1)
        np.testing.assert_allclose(sums, 1, atol=1e-12)


def test_true_probabilities_follow_the_order_asked_for(catalog):
    ahead = true_probabilities(catalog, TREE.label_cols)
    np.testing.assert_array_equal(
        true_probabilities(catalog, TREE.label_cols[::-1]), ahead[:, ::-1]
    )


def test_a_real_catalog_has_no_true_probabilities():
    with pytest.raises(ValueError, match="only the demo catalog"):
        true_probabilities(pd.DataFrame({"bar_yes": [1]}), ["bar_yes"])


def test_answer_probabilities_cover_the_tree_in_order(parameters):
    probabilities = answer_probabilities(parameters)
    sizes = {question: columns.shape[1] for question, columns in probabilities.items()}
    assert list(sizes.items()) == [(q.text, len(q.answers)) for q in TREE.questions]


def test_tree_lists_two_parents_for_merging():
    tree = json.loads(DEMO_TREE.read_text())
    assert len(tree) >= 8
    assert len(tree["merging"]["asked_after"]) == 2


def test_votes_agree_with_the_probabilities(parameters):
    rng = np.random.default_rng(5)
    probabilities = np.concatenate(list(answer_probabilities(parameters).values()), axis=1)
    votes = volunteer_votes(probabilities, TREE, np.full(len(parameters), 40), rng)
    for question in TREE.questions:
        columns = slice(question.start_index, question.end_index + 1)
        asked, p = votes[:, columns].sum(axis=1, keepdims=True), probabilities[:, columns]
        excess = (votes[:, columns] - asked * p).sum(axis=0)
        sigma = np.sqrt((asked * p * (1 - p)).sum(axis=0))
        assert (np.abs(excess) < 4 * sigma).all(), question.text
        # Independent volunteers: no more scatter from galaxy to galaxy than a multinomial has.
        scatter = ((votes[:, columns] - asked * p) ** 2).sum(axis=0)
        np.testing.assert_allclose(scatter, sigma**2, rtol=0.2, err_msg=question.text)


def test_population_has_confident_and_ambiguous_galaxies(parameters):
    for question, p in answer_probabilities(parameters).items():
        top = p.max(axis=1)
        assert np.quantile(top, 0.95) - np.quantile(top, 0.05) > 0.15, question
        assert (top < 0.65).mean() > 0.02, question
        if question in ("smooth-or-featured", "disk-edge-on", "merging"):
            assert (top > 0.8).mean() > 0.25, question


@pytest.mark.parametrize(
    ("column", "low", "high", "question", "answer"),
    [
        ("inclination_deg", 0, 90, "disk-edge-on", 0),
        ("bar_strength", 0, 1, "bar", 0),
        ("arm_contrast", 0, 1, "has-spiral-arms", 0),
        ("arm_contrast", 0, 1, "smooth-or-featured", 1),
        ("bulge_to_total", 0, 0.6, "bulge-size", 0),
        ("bulge_to_total", 0, 0.6, "edge-on-bulge", 0),
        ("arm_pitch_deg", 10, 38, "spiral-winding", 2),
        ("inclination_deg", 0, 90, "how-rounded", 2),
        ("tail_strength", 0, 1, "merging", 2),
        ("companion_flux_ratio", 0, 1, "merging", 2),
        ("star_flux_ratio", 0, 30, "smooth-or-featured", 2),
    ],
)
def test_answer_becomes_smoothly_likelier(plain_disc, column, low, high, question, answer):
    galaxies = vary(plain_disc, **{column: np.linspace(low, high, 200)})
    p = answer_probabilities(galaxies)[question][:, answer]
    steps = np.diff(p)
    assert (steps >= -1e-12).all()
    assert p[-1] - p[0] > 0.3
    assert steps.max() < 0.12


@pytest.mark.parametrize("num_arms", [1, 2, 3, 4])
def test_strong_arms_are_counted_and_faint_arms_are_not(plain_disc, num_arms):
    galaxies = vary(plain_disc, arm_contrast=[0.05, 0.9]).assign(num_arms=num_arms)
    faint, strong = answer_probabilities(galaxies)["spiral-arm-count"]
    assert strong.argmax() == num_arms - 1
    assert faint.argmax() == 4
    assert strong[num_arms - 1] > faint[num_arms - 1]


def draw(galaxies, size_px=96):
    return telescope.render(galaxies, size_px, np.random.default_rng(0)).astype(float)


def test_render_gives_colour_images_of_the_given_size(parameters):
    images = telescope.render(parameters.iloc[:5], 48, np.random.default_rng(0))
    assert images.shape == (5, 48, 48, 3)
    assert images.dtype == np.uint8


def test_galaxy_is_in_the_middle_of_a_dark_noisy_sky(parameters):
    images = draw(parameters.iloc[:40]).mean(axis=-1)
    assert images[:, 44:52, 44:52].mean() > 3 * images[:, :8, :8].mean()
    assert 0 < np.median(images[:, :8, :8].std(axis=(1, 2))) < 15


def test_inclined_disc_looks_flat(plain_disc):
    discs = vary(plain_disc, inclination_deg=[0.0, 60.0, 90.0]).assign(arm_contrast=0.0)
    light = draw(discs)[:, 20:76, 20:76].mean(axis=-1)  # field stars lie further out
    light = (light - 30).clip(min=0)
    offset = np.arange(56) - 27.5
    width = (light * offset**2).sum(axis=(1, 2))
    height = (light * offset[:, None] ** 2).sum(axis=(1, 2))
    ratio = height / width
    assert ratio[0] == pytest.approx(1, abs=0.15)
    assert ratio[0] > ratio[1] > ratio[2]
    assert ratio[2] < 0.2


@pytest.mark.parametrize("num_arms", [2, 3, 4])
def test_arms_drawn_have_the_number_asked_for(plain_disc, num_arms):
    face_on = plain_disc.assign(
        inclination_deg=0.0, num_arms=num_arms, arm_contrast=0.9, disc_scale_arcsec=3.0
    )
    image = draw(face_on, 128)[0].mean(axis=-1)
    angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    power = np.zeros(8)
    for radius_px in range(18, 40):
        row = np.round(63.5 + radius_px * np.sin(angles)).astype(int)
        col = np.round(63.5 + radius_px * np.cos(angles)).astype(int)
        power += np.abs(np.fft.rfft(image[row, col]))[:8]
    assert power[1:].argmax() + 1 == num_arms


def test_spheroids_are_redder_than_arms(plain_disc):
    galaxies = vary(plain_disc, bulge_to_total=[0.0, 1.0], arm_contrast=[0.9, 0.0])
    images = draw(galaxies)[:, 20:76, 20:76]
    redness = images[..., 0].sum(axis=(1, 2)) / images[..., 2].sum(axis=(1, 2))
    assert redness[0] < 0.9
    assert redness[1] > 1.1


def test_stretch_keeps_hue_and_order_of_brightness():
    flux = torch.tensor([5.0, 50.0, 500.0, 50000.0])
    rgb = telescope.lupton_rgb(flux[:, None, None, None].expand(-1, 3, 1, 1))[..., 0, 0].int()
    assert (rgb.amax(dim=1).diff() >= 0).all()
    assert (rgb.argmax(dim=1) == rgb[0].argmax()).all()
    assert rgb.max() == 255


def test_making_a_catalog_leaves_the_number_of_threads_alone():
    before = torch.get_num_threads()
    simulate_catalog(10, seed=0, size_px=32)
    assert torch.get_num_threads() == before


@pytest.fixture(scope="module")
def in_bands(tmp_path_factory):
    """The galaxies of ``catalog`` in five bands, and their cubes (60, 5, 64, 64)."""
    cache = tmp_path_factory.mktemp("bands")
    path = demo_catalog(60, seed=3, size_px=64, cache_dir=cache, bands=[*"grizy"])
    return read_catalog(path, []), np.load(path.with_suffix(".npy"), mmap_mode="r")


def test_bands_show_the_same_galaxies_with_the_same_votes(catalog, in_bands):
    table, cubes = in_bands
    pd.testing.assert_frame_equal(table.drop(columns="file_loc"), catalog.drop(columns="image"))
    assert (cubes.shape, cubes.dtype) == ((60, 5, 64, 64), np.dtype("<f4"))
    for row in (0, 41):
        assert_same_light(cubes[row, 1], io.BytesIO(catalog["image"][row]))
    read = read_bands(table["file_loc"][41], ImageSpec(tuple("grizy")))
    np.testing.assert_array_equal(read, cubes[41])


def assert_same_light(band, picture):
    seen = np.asarray(Image.open(picture).convert("F"))
    assert np.corrcoef(np.arcsinh(band / 5).ravel(), seen.ravel())[0, 1] > 0.8


def test_a_band_does_not_depend_on_the_others(in_bands, tmp_path):
    _, cubes = in_bands
    path = demo_catalog(60, seed=3, size_px=64, cache_dir=tmp_path, bands=["i", "g"])
    np.testing.assert_array_equal(np.load(path.with_suffix(".npy")), cubes[:, [2, 0]])


def test_bands_have_their_own_noise(parameters):
    others = {band: np.random.default_rng([0, ord(band)]) for band in "uiy"}
    rng = np.random.default_rng(0)
    seen = telescope.observe(parameters.iloc[:32], 128, rng, telescope.UGRIZY, others).numpy()
    corners = seen[:, :, :12, :12]
    for place, band in enumerate(telescope.UGRIZY.values()):
        low, middle = np.percentile(corners[:, place], (16, 50))
        assert middle - low == pytest.approx(band.noise, rel=0.1)
        assert abs(middle) < 0.1 * band.noise
    noise = corners - np.median(corners, axis=(2, 3), keepdims=True)
    between = np.corrcoef(noise.transpose(1, 0, 2, 3).reshape(6, -1))
    assert np.abs(between[np.triu_indices(6, 1)]).max() < 0.15


def test_red_galaxies_are_fainter_in_the_blue_and_sharper_in_the_red(plain_disc):
    galaxies = vary(plain_disc, bulge_to_total=[0.0, 1.0], arm_contrast=[0.9, 0.0])
    galaxies["surface_brightness_snr"] = 4000.0  # noise does not matter
    others = {band: np.random.default_rng(0) for band in "uiy"}
    rng = np.random.default_rng(0)
    seen = telescope.observe(galaxies, 128, rng, telescope.UGRIZY, others).numpy()
    flux = seen[:, :, 34:94, 34:94].sum(axis=(2, 3))
    spiral, spheroid = flux / flux[:, 2:3]
    assert (np.diff(spheroid) > 0).all()  # from u to y
    assert spheroid[0] < 0.3 < spiral[0]
    peak = seen[1, :, 62:66, 62:66].mean(axis=(1, 2)) / flux[1]
    assert (np.diff(peak) > 0).all()


@pytest.mark.parametrize("wrong", [["x"], ["g", "g"], ["gri"], []])
def test_bands_that_the_demo_lacks_are_named(wrong, tmp_path):
    with pytest.raises(ValueError, match="use some of u g r i z y, each once"):
        demo_catalog(10, size_px=32, cache_dir=tmp_path, bands=wrong)
    assert list(tmp_path.iterdir()) == []


def test_cubes_that_were_deleted_are_made_again(tmp_path):
    path = demo_catalog(10, size_px=32, cache_dir=tmp_path, bands=["r"])
    path.with_suffix(".npy").unlink()
    assert demo_catalog(10, size_px=32, cache_dir=tmp_path, bands=["r"]) == path
    assert np.load(path.with_suffix(".npy")).shape == (10, 1, 32, 32)
