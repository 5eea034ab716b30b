"""Make the demo catalog: simulated galaxies, with votes drawn from known answer probabilities.

With real votes, nobody knows the best loss that a model could reach. Here the probabilities of the
answers are smooth functions of what the image shows. So the loss of the true probabilities, the
best one, is known.
"""

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from zoobot.data.demo import simulator, telescope
from zoobot.schemas import Schema, load_schema
from zoobot.schemas.named import TREES_DIR
from zoobot.system import caches
from zoobot.system.errors import UserError
from zoobot.system.files import write_whole

DEMO_TREE = TREES_DIR / "demo.json"
# Part of the file's name. Raise it with every change that gives another catalog for a seed.
VERSION = 1
SPLIT_FRACTIONS = {"train": 0.75, "val": 0.15, "test": 0.10}
MIN_VOLUNTEERS, MAX_VOLUNTEERS = 5, 40
GUESSES_FRAC = 0.09  # of the votes are guesses, the same number for each answer on average
GALAXIES_AT_ONCE = 32  # drawn in one batch
JPEG_QUALITY = 92
TRUTH_SUFFIX = "_true-probability"


def demo_catalog(
    num_galaxies: int = 3000,
    seed: int = 0,
    size_px: int = 128,
    cache_dir: str | Path | None = None,
    bands: Sequence[str] | None = None,
) -> Path:
    """Make the demo catalog, if it is not in the cache yet, and return its path.

    Columns: ``id_str``; ``image`` (JPEG bytes); ``split``; for each label column of ``DEMO_TREE``
    the number of votes and ``{label_col}_true-probability`` (of the answer, given that the question
    is asked); and the physical parameters of ``simulator.simulate_galaxies``. The same arguments
    give the same file. It appears whole or not at all, so several processes may call this at once.

    With ``bands`` the same galaxies, with the same votes, are seen in these bands, each with its
    own point spread function and depth (``telescope.UGRIZY``). Instead of ``image`` there is
    ``file_loc``: rows of an .npy file beside the catalog, float32 (N, bands, size_px, size_px). It
    holds flux in units of the noise of r in a pixel of 0.22 arcsec; the sky is 0.

    Args:
        num_galaxies: at least 10.
        seed: of all random numbers.
        size_px: side of the images in pixels, at least 32.
        cache_dir: folder of the file; by default see ``system.caches.cache_dir``.
        bands: of u, g, r, i, z and y, in any order; None: pictures of g, r and z in 8 bits.

    Raises:
        ValueError: too few galaxies, too small images, unknown bands, or the folder can't be
            written to.
    """
    if num_galaxies < 10 or size_px < 32:
        raise UserError(
            f"the demo needs at least 10 galaxies of at least 32 pixels, "
            f"not {num_galaxies} of {size_px}"
        )
    if bands is not None:
        _check_bands(bands)
    folder = Path(cache_dir) if cache_dir is not None else caches.cache_dir()
    name = "-".join([f"demo-v{VERSION}-seed{seed}-{num_galaxies}x{size_px}px", *(bands or ())])
    path, cubes = folder / f"{name}.parquet", folder / f"{name}.npy"
    if path.exists() and (bands is None or cubes.exists()):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=path.stem, suffix=".tmp") as probe:
            probe.write(b"can this folder be written?")
    except OSError as error:
        raise UserError(
            f"can't write the demo catalog to {folder} ({error.strerror}); "
            "set XDG_CACHE_HOME to a folder that can be written"
        ) from None
    catalog = simulate_catalog(num_galaxies, seed, size_px, bands, cubes)
    write_whole(path, lambda aside: catalog.to_parquet(aside, index=False))
    return path


def _check_bands(bands: Sequence[str]) -> None:
    """ValueError unless the demo has these bands, each once."""
    if not bands or len({*bands}) < len(bands) or not {*bands} <= {*telescope.UGRIZY}:
        raise UserError(
            f"the demo in bands {' '.join(bands):.100}: use some of "
            f"{' '.join(telescope.UGRIZY)}, each once"
        )


def simulate_catalog(
    num_galaxies: int,
    seed: int,
    size_px: int,
    bands: Sequence[str] | None = None,
    cubes: Path | None = None,
) -> pd.DataFrame:
    """Make the demo catalog as a table, one row per galaxy. The cache is not used.

    Args:
        bands, cubes: see ``demo_catalog``; the .npy file to write, unless ``bands`` is None.
    """
    rng = np.random.default_rng(seed)
    tree = load_schema(DEMO_TREE)
    parameters = simulator.simulate_galaxies(num_galaxies, rng)
    probabilities = np.concatenate(list(answer_probabilities(parameters).values()), axis=1)
    num_volunteers = rng.integers(MIN_VOLUNTEERS, MAX_VOLUNTEERS + 1, num_galaxies)
    votes = volunteer_votes(probabilities, tree, num_volunteers, rng)
    if bands is None:
        pictures = _in_one_thread(telescope.render, parameters, size_px, rng)
        images = {"image": [encode_jpeg(picture) for some in pictures for picture in some]}
    else:
        seen = {band: telescope.UGRIZY[band] for band in bands}
        others = {b: np.random.default_rng([seed, ord(b)]) for b in bands if b not in telescope.GRZ}
        drawn = _in_one_thread(telescope.observe, parameters, size_px, rng, seen, others)
        shape = (num_galaxies, len(bands), size_px, size_px)
        write_whole(cubes, lambda aside: _save(drawn, aside, shape))
        images = {"file_loc": [f"{cubes.name}#{row}" for row in range(num_galaxies)]}
    identity = pd.DataFrame(
        {
            "id_str": [f"demo-{seed}-{i:06d}" for i in range(num_galaxies)],
            **images,
            "split": _split(num_galaxies, rng),
        }
    )
    truth_cols = [label_col + TRUTH_SUFFIX for label_col in tree.label_cols]
    return pd.concat(
        [
            identity,
            pd.DataFrame(votes, columns=tree.label_cols),
            pd.DataFrame(probabilities, columns=truth_cols),
            parameters,
        ],
        axis=1,
    )


def _in_one_thread(draw: Callable, parameters: pd.DataFrame, *args: Any) -> Iterator[Any]:
    """Draw galaxies batch by batch; ``draw`` gets the parameters of each and ``args``.

    It uses one thread. The arrays fit in the processor's cache, and on a busy machine more threads
    wait for each other longer than they save.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for start in range(0, len(parameters), GALAXIES_AT_ONCE):
            yield draw(parameters.iloc[start : start + GALAXIES_AT_ONCE], *args)
    finally:
        torch.set_num_threads(num_threads)


def _save(batches: Iterable[torch.Tensor], path: Path, shape: tuple[int, ...]) -> None:
    """Write batches as one .npy file, float32 of this shape."""
    with open(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for batch in batches:
            file.write(batch.numpy().astype("<f4").tobytes())


def _split(num_galaxies: int, rng: np.random.Generator) -> np.ndarray:
    """'train', 'val' or 'test' for each galaxy, at random, with fractions ``SPLIT_FRACTIONS``."""
    bounds = np.cumsum(list(SPLIT_FRACTIONS.values()))[:-1]
    place = (rng.permutation(num_galaxies) + 0.5) / num_galaxies
    return np.array(list(SPLIT_FRACTIONS))[np.searchsorted(bounds, place)]


def encode_jpeg(image: np.ndarray) -> bytes:
    """Pixels (H, W, 3) uint8 as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def true_probabilities(catalog: pd.DataFrame, label_cols: list[str]) -> np.ndarray:
    """(N, A) true probabilities of the answers, given that their question is asked.

    Args:
        catalog: the demo catalog.
        label_cols: the answers, in the order of the result.

    Raises:
        ValueError: the catalog is not the demo catalog.
    """
    columns = [label_col + TRUTH_SUFFIX for label_col in label_cols]
    missing = [column for column in columns if column not in catalog]
    if missing:
        raise UserError(f"only the demo catalog knows the truth; this one has no {missing[0]!r}")
    return catalog[columns].to_numpy(np.float64)


def volunteer_votes(
    probabilities: np.ndarray, tree: Schema, num_volunteers: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw the votes of volunteers: (N, A) int64.

    All volunteers are asked the questions without a parent answer. Another question is asked to
    those who gave an answer that leads to it. The votes for a question are one multinomial draw.

    Args:
        probabilities: (N, A); the answers of each question sum to 1.
        tree: the questions and answers.
        num_volunteers: (N,) whole numbers.
        rng: source of the draws.
    """
    votes = np.zeros(probabilities.shape, dtype=np.int64)
    for level in tree.levels:
        for question in level:
            parents = [answer.index for answer in question.parents]
            asked = votes[:, parents].sum(axis=1) if parents else num_volunteers
            columns = slice(question.start_index, question.end_index + 1)
            votes[:, columns] = rng.multinomial(asked, probabilities[:, columns])
    return votes


def answer_probabilities(parameters: pd.DataFrame) -> dict[str, np.ndarray]:
    """Probabilities of the answers, given that the question is asked.

    They are logistic functions of what can be seen in the image. Arms, for example, are seen less
    if they are faint, closer together than the blur, or hidden by the inclination. A fraction of
    the votes are guesses, so no probability is 0 or 1.

    Returns:
        An array (N, answers of the question) for each question, in the order of ``DEMO_TREE``.
    """
    p = parameters
    seen = _what_is_seen(p)
    featured = (
        -2.2
        + 4.8 * seen["arms"]
        + 1.8 * seen["bar"]
        + 3.6 * seen["edge_on"] * seen["disc"]
        + 1.2 * seen["disc"]
        + 1.0 * p["tail_strength"]
    )
    artifact = 1.5 * np.log((p["star_flux_ratio"] + 1e-3) / 4) + np.logaddexp(0, featured)
    arms = seen["arms"]
    answers = {
        "smooth-or-featured": _softmax(np.zeros_like(featured), featured, artifact),
        "disk-edge-on": _two(8 * (seen["edge_on"] - 0.5)),
        "has-spiral-arms": _two((arms - 0.25) / 0.09),
        "bar": _ordered(seen["bar"], (0.2, 0.5), 0.09)[:, ::-1],
        "bulge-size": _ordered(p["bulge_to_total"], (0.13, 0.36), 0.06)[:, ::-1],
        "how-rounded": _ordered(seen["axis_ratio"], (0.42, 0.75), 0.07)[:, ::-1],
        "edge-on-bulge": _two((p["bulge_to_total"] - 0.14) / 0.05),
        "spiral-winding": _ordered(p["arm_pitch_deg"], (16, 28), 4 + 1 / (arms + 0.2)),
        "spiral-arm-count": _arm_count(p["num_arms"].to_numpy(), arms.to_numpy()),
        "merging": _ordered(seen["disturbance"], (0.25, 0.65), 0.1),
    }
    return {
        question: (1 - GUESSES_FRAC) * p + GUESSES_FRAC / p.shape[1]
        for question, p in answers.items()
    }


def _what_is_seen(p: pd.DataFrame) -> dict[str, pd.Series]:
    """How well each structure is seen in the image, from about 0 (hidden) to 1 (obvious)."""
    face_on = np.cos(np.radians(p["inclination_deg"]))
    disc_axis_ratio = simulator.axis_ratio(p["inclination_deg"], p["disc_thickness"])
    bulge = p["bulge_to_total"]
    disc = 1 - bulge**3
    flattening = disc * disc_axis_ratio + (1 - disc) * p["bulge_axis_ratio"]
    # Distance between neighbouring arms in arcsec, at a radius of two scale lengths.
    spread = np.tan(np.radians(p["arm_pitch_deg"])) / p["num_arms"]
    spacing = 4 * np.pi * p["disc_scale_arcsec"] * spread
    resolved = spacing**2 / (spacing**2 + (1.2 * p["psf_fwhm_arcsec"]) ** 2)
    snr = p["surface_brightness_snr"]
    tilt = _sigmoid((face_on - 0.3) / 0.06)
    near = _sigmoid((9.5 - p["companion_separation_arcsec"]) / 0.5)
    companion = near * _sigmoid((p["companion_flux_ratio"] - 0.2) / 0.04)
    return {
        "disc": disc,
        "edge_on": _sigmoid((0.29 - flattening) / 0.04),
        "axis_ratio": (1 - bulge) * disc_axis_ratio + bulge * p["bulge_axis_ratio"],
        "arms": p["arm_contrast"] * resolved * tilt * snr / (snr + 3) * (bulge < 1),
        "bar": p["bar_strength"] * (1 - bulge) * tilt,
        "disturbance": p["tail_strength"] + 0.6 * companion,
    }


def _arm_count(num_arms: np.ndarray, arms: np.ndarray) -> np.ndarray:
    """(N, 5): 1, 2, 3, 4 or can't tell. Faint arms give more wrong counts and more can't tell."""
    candidates = np.arange(1, 5)
    miscount = -(0.4 + 3 * arms[:, None]) * np.abs(candidates - num_arms[:, None])
    cant_tell = -1.2 - 5 * (arms - 0.3)
    return _softmax(*miscount.T, cant_tell)


def _sigmoid(x: pd.Series | np.ndarray) -> pd.Series | np.ndarray:
    return 1 / (1 + np.exp(-x))


def _two(logit: pd.Series) -> np.ndarray:
    """(N, 2): probabilities of yes and no, from the log-odds of yes."""
    return np.stack([_sigmoid(logit), _sigmoid(-logit)], axis=1)


def _softmax(*logits: pd.Series | np.ndarray) -> np.ndarray:
    """Probabilities (N, K) from K logits of shape (N,)."""
    logits = np.stack(logits, axis=1)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def _ordered(
    value: pd.Series, thresholds: Sequence[float], softness: float | pd.Series
) -> np.ndarray:
    """Probabilities (N, K) of K answers that divide a quantity into classes, from low to high.

    The ordered logit model: P(answer > k) = sigmoid((value - threshold_k) / softness), for K - 1
    thresholds.
    """
    above = np.stack([_sigmoid((value - t) / softness) for t in thresholds], axis=1)
    edges = np.pad(above, ((0, 0), (1, 1)), constant_values=((0, 0), (1, 0)))
    return edges[:, :-1] - edges[:, 1:]
