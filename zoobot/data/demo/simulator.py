"""Simulate galaxies: draw physical parameters, and what they look like outside the atmosphere.

Sizes are in arcseconds. Images of them are in ``zoobot.data.demo.telescope``, questions and votes
in ``zoobot.data.demo.catalog``.
"""

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

Parameters = dict[str, Tensor]  # of N galaxies, (N, 1, 1) each
Numbers = np.ndarray | pd.Series


def simulate_galaxies(num_galaxies: int, rng: np.random.Generator) -> pd.DataFrame:
    """Draw the physical parameters of galaxies, one row each.

    Three of five galaxies have a disc, seen from a random direction (uniform in cos(inclination)),
    a bulge, and sometimes a bar or spiral arms. The others are spheroids (``bulge_to_total`` 1).
    Some are disturbed, some have a companion, and some have a bright star in front. Column names
    end in the unit, if there is one. A part that is absent has a strength of 0 (``bar_strength``,
    ``arm_contrast``, ``companion_flux_ratio``...), and its other values have no meaning.
    """
    n = num_galaxies
    is_disc = rng.random(n) < 0.62
    bulge_to_total = np.where(is_disc, 0.65 * rng.beta(1.1, 2.2, n), 1.0)
    inclination_deg = np.degrees(np.arccos(rng.random(n)))
    disc_scale = rng.uniform(2.1, 3.5, n)
    has_bar = is_disc & (rng.random(n) < 0.42)
    bulge_in_disc = disc_scale * (0.28 + 0.55 * bulge_to_total)
    parameters = {
        "bulge_to_total": bulge_to_total,
        "bulge_sersic_index": np.where(is_disc, rng.uniform(1.2, 3, n), rng.uniform(2.5, 5, n)),
        "bulge_radius_arcsec": np.where(is_disc, bulge_in_disc, rng.uniform(1.8, 4, n)),
        "bulge_axis_ratio": np.where(
            is_disc, axis_ratio(inclination_deg, 0.7), 0.22 + 0.78 * rng.beta(1.5, 1.1, n)
        ),
        "disc_scale_arcsec": disc_scale,
        "disc_thickness": rng.uniform(0.10, 0.17, n),
        "inclination_deg": inclination_deg,
        "position_angle_deg": rng.uniform(0, 360, n),
        "bar_strength": np.where(has_bar, rng.beta(1.8, 1.2, n), 0.0),
        "bar_length_arcsec": disc_scale * rng.uniform(1.1, 1.6, n),
        "num_arms": rng.choice([1, 2, 3, 4], n, p=[0.1, 0.56, 0.18, 0.16]),
        "arm_pitch_deg": rng.uniform(9, 38, n),
        "arm_contrast": np.where(
            is_disc & (rng.random(n) < 0.78), rng.beta(2.2, 1.1, n) * (1 - 0.6 * bulge_to_total), 0
        ),
        "arm_phase_deg": rng.uniform(0, 360, n),
        "arm_sense": rng.choice([-1, 1], n),
    }
    parameters |= _surroundings(n, rng)
    parameters |= {
        "bulge_g_minus_r_mag": rng.normal(0.86, 0.06, n),
        "disc_g_minus_r_mag": rng.normal(0.52, 0.08, n),
        "arm_g_minus_r_mag": rng.normal(0.18, 0.08, n),
        "psf_fwhm_arcsec": rng.uniform(0.85, 1.25, n),
        "surface_brightness_snr": np.exp(rng.uniform(math.log(14), math.log(40), n)),
    }
    return pd.DataFrame(parameters)


def _surroundings(n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Parameters of the tidal tails, the companion and the foreground star."""
    disturbed = rng.random(n) < 0.28
    tail = np.where(disturbed, rng.beta(1.6, 1.2, n), 0.0)
    near = rng.random(n) < np.where(disturbed, 0.1 + 0.7 * tail, 0.03)
    far = ~near & (rng.random(n) < 0.15)
    flux_ratio = np.where(near, rng.uniform(0.25, 0.9, n), np.where(far, 0.08, 0.0))
    separation = np.where(near, rng.uniform(4.5, 8.5, n), rng.uniform(9.5, 12.5, n))
    has_star = rng.random(n) < 0.07
    star_flux = np.exp(rng.uniform(math.log(1.0), math.log(30), n))
    return {
        "tail_strength": tail,
        "tail_angle_deg": rng.uniform(0, 360, n),
        "companion_flux_ratio": flux_ratio,
        "companion_separation_arcsec": separation,
        "companion_angle_deg": rng.uniform(0, 360, n),
        "companion_radius_arcsec": rng.uniform(0.9, 1.6, n),
        "companion_axis_ratio": rng.uniform(0.4, 1, n),
        "star_flux_ratio": np.where(has_star, star_flux, 0.0),
        "star_x_arcsec": rng.normal(0, 2, n),
        "star_y_arcsec": rng.normal(0, 2, n),
    }


def axis_ratio(inclination_deg: Numbers, thickness: float | Numbers) -> Numbers:
    """Apparent axis ratio of an oblate body: q^2 = cos^2 i + q0^2 sin^2 i (Hubble 1926)."""
    cos2 = np.cos(np.radians(inclination_deg)) ** 2
    return np.sqrt(cos2 + thickness**2 * (1 - cos2))


def light(
    p: Parameters, x: Tensor, y: Tensor, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the light of galaxies comes from, (N, H, W) each; the galaxy itself sums to 1.

    Args:
        p: parameters of ``simulate_galaxies``.
        x, y: offsets from the centre in arcseconds, (1, 1, W) and (1, H, 1).
        rng: draws the clumps of the arms.

    Returns:
        What has the colour of the bulge, of the disc (tails and companion too), and of the arms.
    """
    clumps = _smooth_noise(len(p["bulge_to_total"]), x.shape[-1], rng)
    bulge, disc, arms = _galaxy(p, x, y, clumps)
    return bulge, disc + _tails(p, x, y) + _companion(p, x, y), arms


def _galaxy(p: Parameters, x: Tensor, y: Tensor, clumps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bulge with bar, disc, and arms, each (N, H, W); together they sum to 1 per galaxy."""
    angle = torch.deg2rad(p["position_angle_deg"])
    major = x * angle.cos() + y * angle.sin()
    minor = y * angle.cos() - x * angle.sin()
    # A disturbed galaxy is not symmetric: its isophotes are shifted towards the tail.
    pull = torch.deg2rad(p["tail_angle_deg"])
    drift = 0.28 * p["tail_strength"] * (x * pull.cos() + y * pull.sin())
    bulge = _sersic(
        (major**2 + (minor / p["bulge_axis_ratio"]) ** 2).sqrt() - 0.5 * drift,
        p["bulge_radius_arcsec"],
        p["bulge_sersic_index"],
    )
    bulge_to_total = p["bulge_to_total"]
    bulge *= bulge_to_total
    disc, arms = torch.zeros_like(bulge), torch.zeros_like(bulge)
    which = (bulge_to_total < 1).flatten().nonzero()[:, 0]
    if len(which):
        sub = {name: column[which] for name, column in p.items()}
        parts = _disc(sub, major[which], minor[which], drift[which], clumps[which])
        for total, part in zip((bulge, disc, arms), parts, strict=True):
            total.index_add_(0, which, part * (1 - sub["bulge_to_total"]))
    return bulge, disc, arms


def _disc(
    p: Parameters, major: Tensor, minor: Tensor, drift: Tensor, clumps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Bar, smooth disc and arms of an inclined exponential disc; together they sum to 1.

    An edge-on exponential disc has the profile (R/h) K1(R/h) along and sech^2(z/z0) across its
    plane (van der Kruit & Searle 1981). Near 90 degrees the smooth disc changes into this profile.
    """
    h, thickness = p["disc_scale_arcsec"], p["disc_thickness"]
    cos2 = torch.deg2rad(p["inclination_deg"]).cos() ** 2
    q = (cos2 + thickness**2 * (1 - cos2)).sqrt()
    in_plane = minor / q
    radius = (major**2 + in_plane**2).sqrt()
    scaled = (radius - drift).clamp_min(0) / h
    smooth = torch.exp(-scaled)
    smooth /= smooth.sum((1, 2), keepdim=True)
    edge = torch.sigmoid((0.22 - q) / 0.02)
    along = (major.abs() / h).clamp_min(0.02)
    slab = (
        along * torch.special.modified_bessel_k1(along) / torch.cosh(minor / (thickness * h)) ** 2
    )
    slab /= slab.sum((1, 2), keepdim=True)
    bar = _bar(p, major, in_plane)
    bar_frac = 0.45 * p["bar_strength"]
    bar_x, bar_y = _bar_axis(p)
    theta = torch.atan2(in_plane * bar_x - major * bar_y, major * bar_x + in_plane * bar_y)
    arms = smooth * _arm_pattern(p, scaled, theta) * clumps * (1 - edge)
    contrast = p["arm_contrast"]
    arms *= 2.6 * contrast
    smooth = (1 - 0.45 * contrast * (1 - edge)) * smooth
    smooth = torch.lerp(smooth, slab, edge)
    total = (smooth + arms).sum((1, 2), keepdim=True) / (1 - bar_frac)
    return bar * bar_frac, smooth / total, arms / total


def _bar_axis(p: Parameters) -> tuple[Tensor, Tensor]:
    """Direction of the bar in the disc's plane; the arms start from it."""
    phase = torch.deg2rad(p["arm_phase_deg"])
    return phase.cos(), phase.sin()


def _bar(p: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """A boxy bar with sharp ends (generalised ellipse, Athanassoula et al. 1990); sums to 1."""
    bar_x, bar_y = _bar_axis(p)
    length = p["bar_length_arcsec"]
    along = (x * bar_x + y * bar_y) / length
    across = (y * bar_x - x * bar_y) / (0.28 * length)
    bar = torch.exp(-((along**2) ** 1.5 + (across**2) ** 1.5))
    return bar / bar.sum((1, 2), keepdim=True)


def _arm_pattern(p: Parameters, scaled: Tensor, theta: Tensor) -> Tensor:
    """Logarithmic spirals theta = ln(R) / tan(pitch): about 1 on the ridges, 0 between them."""
    winding = torch.log(scaled.clamp_min(0.05)) / torch.tan(torch.deg2rad(p["arm_pitch_deg"]))
    num_arms = p["num_arms"]
    ridge = torch.exp(2.6 * (torch.cos(num_arms * (theta - p["arm_sense"] * winding)) - 1))
    start = 0.75 + 0.35 * (p["bar_strength"] > 0)
    # Arms get fainter more slowly than the disc, so that they are seen better further out.
    return ridge * torch.sigmoid((scaled - start) / 0.15) * (0.55 + 0.35 * scaled)


def _tails(p: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """Two spiral tidal tails outside the galaxy, one stronger; sums to their part of the light."""
    radius = (x**2 + y**2).sqrt()
    size = half_light_radius(p)
    theta = torch.atan2(y, x) - torch.deg2rad(p["tail_angle_deg"])
    reach = radius / size
    ridge = torch.cos(theta - p["arm_sense"] * 0.9 * torch.log(reach.clamp_min(0.1)))
    tails = torch.exp(9 * (ridge - 1)) + 0.6 * p["tail_strength"] * torch.exp(-9 * (ridge + 1))
    tails = tails * torch.exp(-(((reach - 1.7) / 0.75) ** 2))
    return tails * (0.34 * p["tail_strength"] / tails.sum((1, 2), keepdim=True))


def _companion(p: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """A neighbouring galaxy: a Sersic profile of index 1.5."""
    where = torch.deg2rad(p["companion_angle_deg"])
    dx = x - p["companion_separation_arcsec"] * where.cos()
    dy = y - p["companion_separation_arcsec"] * where.sin()
    turn = 1.7 * where
    along = dx * turn.cos() + dy * turn.sin()
    across = (dy * turn.cos() - dx * turn.sin()) / p["companion_axis_ratio"]
    index = torch.full_like(where, 1.5)
    profile = _sersic((along**2 + across**2).sqrt(), p["companion_radius_arcsec"], index)
    return profile * p["companion_flux_ratio"]


def _sersic(radius: Tensor, effective_radius: Tensor, index: Tensor) -> Tensor:
    """Sersic (1968) profile, ln I = -b (R/Re)^(1/n), b = 2n - 1/3 + 4/(405 n); sums to 1.

    (N, H, W) from radii (N, H, W), and effective radii and indices (N, 1, 1). The approximation of
    b is from Ciotti & Bertin (1999). The profile is flat within 0.05 arcsec of the centre.
    """
    b = 2 * index - 1 / 3 + 4 / (405 * index)
    profile = torch.exp(
        -b * torch.exp(torch.log(radius.clamp_min(0.05) / effective_radius) / index)
    )
    return profile / profile.sum((1, 2), keepdim=True)


def half_light_radius(p: Parameters) -> Tensor:
    """Half-light radius in arcsec, interpolated between 1.68 h of the disc and the bulge's."""
    bulge_to_total = p["bulge_to_total"]
    disc = 1.68 * p["disc_scale_arcsec"]
    return torch.lerp(disc, p["bulge_radius_arcsec"], bulge_to_total)


def _smooth_noise(num: int, size_px: int, rng: np.random.Generator) -> Tensor:
    """Log-normal clumps around 1, correlated over about an arcsecond: (N, H, W)."""
    coarse = torch.from_numpy(rng.standard_normal((num, 1, 40, 40), dtype=np.float32))
    fine = torch.nn.functional.interpolate(coarse, size=(size_px, size_px), mode="bilinear")
    return torch.exp(0.45 * fine[:, 0])
