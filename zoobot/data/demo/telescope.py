"""Simulate what a telescope sees of galaxies: colours, point spread function, sky noise.

A cutout is ``FIELD_ARCSEC`` wide for any number of pixels. With 128 pixels a pixel is 0.22 arcsec,
as in a survey (DESI Legacy Surveys: 0.26). Flux is in units of the sky noise of r in one such
pixel.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from zoobot.data.demo import simulator
from zoobot.data.demo.simulator import Parameters

FIELD_ARCSEC = 28.0
NATIVE_PIXEL_ARCSEC = FIELD_ARCSEC / 128
# Weights of z, r and g as red, green and blue. g - r = 0.5 mag becomes nearly grey.
RGB_SCALES = (0.68, 1.0, 1.62)


@dataclasses.dataclass(frozen=True)
class Band:
    """How a telescope sees the sky in a band, relative to r.

    Attributes:
        slope: the flux of an object is 10^(0.4 slope (g - r)) times that in r.
        star: flux of the bright foreground stars, which all have one colour.
        psf: FWHM of the point spread function.
        noise: of the sky in a pixel, in units of flux.
    """

    slope: float
    star: float
    psf: float = 1.0
    noise: float = 1.0


# Of the pictures: the same point spread function and noise in each.
GRZ = {"g": Band(-1.0, 0.65), "r": Band(0.0, 1.0), "z": Band(0.85, 1.35)}
# Of the cubes: about those of Rubin's ten years. Seeing: 0.92, 0.87, 0.83, 0.80, 0.78, 0.76 arcsec;
# depths (5 sigma, point sources): 26.1, 27.4, 27.5, 26.8, 26.1, 24.9 mag (Ivezic et al. 2019, ApJ
# 873, 111, tables 1 and 2). Slopes of i and y are on the line through r and z in log(wavelength);
# u is fainter than on that through g and r, as the 4000 Angstrom break makes it.
UGRIZY = {
    "u": Band(-2.6, 0.30, psf=1.11, noise=3.6),
    "g": Band(-1.0, 0.65, psf=1.05, noise=1.1),
    "r": Band(0.0, 1.0),
    "i": Band(0.49, 1.2, psf=0.96, noise=1.9),
    "z": Band(0.85, 1.35, psf=0.94, noise=3.6),
    "y": Band(1.13, 1.4, psf=0.92, noise=11.0),
}


def render(parameters: pd.DataFrame, size_px: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a batch of galaxies as pictures, as a survey shows them; see ``observe``.

    Returns:
        (N, size_px, size_px, 3) uint8.
    """
    flux = observe(parameters, size_px, rng, GRZ)
    return lupton_rgb(flux).permute(0, 2, 3, 1).contiguous().numpy()


def observe(
    parameters: pd.DataFrame,
    size_px: int,
    rng: np.random.Generator,
    bands: Mapping[str, Band],
    others: Mapping[str, np.random.Generator] | None = None,
) -> Tensor:
    """Draw a batch of galaxies in some bands as they look in a survey.

    Bulge, disc, bar, arms, tails, companion and stars are added in each band, blurred by the point
    spread function, and given sky noise.

    Args:
        rng: draws what is not a parameter: clumps in the arms, field stars, and the noise of g, r
            and z, asked for or not. So these are the same whatever the bands.
        bands: by name.
        others: draw the noise of each band that is not g, r or z.

    Returns:
        (N, bands, size_px, size_px) float32 flux in units of the noise of r in a pixel of 0.22
        arcsec. Memory grows with N: call it for a few dozen at a time.
    """
    p = {
        name: torch.from_numpy(column.to_numpy(np.float32, copy=True))[:, None, None]
        for name, column in parameters.items()
    }  # (N, 1, 1) each
    pixel = FIELD_ARCSEC / size_px
    x, y = _grid(size_px, pixel)
    bulge, disc, arms = simulator.light(p, x, y, rng)
    seen = [*bands.values()]
    red = _band_weights(p["bulge_g_minus_r_mag"], seen)
    mid = _band_weights(p["disc_g_minus_r_mag"], seen)
    blue = _band_weights(p["arm_g_minus_r_mag"], seen)
    image = red * bulge[:, None] + mid * disc[:, None] + blue * arms[:, None]
    half_light = simulator.half_light_radius(p)
    flux = p["surface_brightness_snr"] * 2 * math.pi * (half_light / pixel) ** 2
    image *= flux[:, None]  # (N, bands, H, W)
    _add_star(image, p, flux, x, y, seen)
    _add_field_stars(image, pixel, rng, seen)
    image = _blur(image, p["psf_fwhm_arcsec"] / pixel, [band.psf for band in seen])
    _add_noise(image, NATIVE_PIXEL_ARCSEC / pixel, bands, rng, others or {})
    return image


def _grid(size_px: int, pixel: float) -> tuple[Tensor, Tensor]:
    """Offsets from the centre in arcseconds: x (1, 1, W), y (1, H, 1)."""
    offsets = (torch.arange(size_px) - (size_px - 1) / 2) * pixel
    return offsets[None, None, :], offsets[None, :, None]


def _band_weights(g_minus_r: Tensor, bands: list[Band]) -> Tensor:
    """Flux in each band relative to r, (N, bands, 1, 1)."""
    return torch.stack([10 ** (0.4 * band.slope * g_minus_r) for band in bands], dim=1)


def _add_star(
    image: Tensor, p: Parameters, flux: Tensor, x: Tensor, y: Tensor, bands: list[Band]
) -> None:
    """Add a bright foreground star with diffraction spikes to the galaxies that have one."""
    which = (p["star_flux_ratio"] > 0).flatten().nonzero()[:, 0]
    if not len(which):
        return
    dx = (x - p["star_x_arcsec"][which]).abs()
    dy = (y - p["star_y_arcsec"][which]).abs()
    core = torch.exp(-0.5 * (dx**2 + dy**2) / 0.3**2)
    spikes = torch.exp(-dx / 3 - dy / 0.2) + torch.exp(-dy / 3 - dx / 0.2)
    core /= core.sum((1, 2), keepdim=True)
    spikes /= spikes.sum((1, 2), keepdim=True)
    star = (0.85 * core + 0.15 * spikes) * (p["star_flux_ratio"] * flux)[which]
    colour = torch.tensor([band.star for band in bands])
    image.index_add_(0, which, star[:, None] * colour[:, None, None])


def _add_field_stars(
    image: Tensor, pixel: float, rng: np.random.Generator, bands: list[Band]
) -> None:
    """Add a few faint stars, points without a size, away from the galaxy."""
    num, _, size_px, _ = image.shape
    count = rng.poisson(2, num)
    owner = np.repeat(np.arange(num), count)
    margin = size_px // 20  # the blur wraps around the edges
    row, col = rng.integers(margin, size_px - margin, (2, len(owner)))
    distance = np.hypot(row - size_px / 2, col - size_px / 2) * pixel
    flux = 150 * (1 + rng.pareto(1.2, len(owner)).clip(max=30)) * (distance > 8)
    colour = rng.uniform(0.1, 1.2, len(owner))
    native = (NATIVE_PIXEL_ARCSEC / pixel) ** 2
    index = tuple(torch.from_numpy(i) for i in (owner, row, col))
    for place, band in enumerate(bands):
        brightness = native * flux * 10 ** (0.4 * band.slope * colour)
        values = torch.from_numpy(brightness.astype(np.float32))
        image[:, place].index_put_(index, values, accumulate=True)


def _blur(image: Tensor, fwhm_px: Tensor, factors: list[float]) -> Tensor:
    """Convolve with two Gaussians: 0.9 of the light in the core, 0.1 in wings 2.5 times as wide.

    Args:
        image: (N, bands, H, W).
        fwhm_px: (N, 1, 1) of the core, in r.
        factors: how much wider it is in each band.
    """
    size_px = image.shape[-1]
    ky = torch.fft.fftfreq(size_px)[:, None]
    kx = torch.fft.rfftfreq(size_px)[None, :]
    k2 = (2 * math.pi) ** 2 * (kx**2 + ky**2)
    if len({*factors}) == 1:
        factors = factors[:1]
    sigma2 = (fwhm_px[:, None] * torch.tensor(factors)[:, None, None] / 2.355) ** 2
    transfer = 0.9 * torch.exp(-0.5 * sigma2 * k2) + 0.1 * torch.exp(-0.5 * 2.5**2 * sigma2 * k2)
    spectrum = torch.fft.rfft2(image) * transfer
    return torch.fft.irfft2(spectrum, s=image.shape[-2:])


def _add_noise(
    image: Tensor,
    native: float,
    bands: Mapping[str, Band],
    rng: np.random.Generator,
    others: Mapping[str, np.random.Generator],
) -> None:
    """Add sky noise; ``native`` is that of r in a pixel."""
    num, _, size_px, _ = image.shape
    shape = (num, size_px, size_px)
    drawn = rng.standard_normal((num, len(GRZ), *shape[1:]), dtype=np.float32)
    noise = {name: drawn[:, place] for place, name in enumerate(GRZ)}
    noise |= {name: own.standard_normal(shape, dtype=np.float32) for name, own in others.items()}
    for place, (name, band) in enumerate(bands.items()):
        image[:, place] += torch.from_numpy(noise[name] * np.float32(native * band.noise))


def lupton_rgb(image: Tensor, softening: float = 5.5, stretch: float = 0.04) -> Tensor:
    """Turn g, r, z into blue, green, red with the asinh stretch of Lupton et al. (2004).

    Each channel is multiplied by asinh(softening * stretch * I) / (softening * I), where I is the
    mean. If a channel is then above white, all are divided by the largest, which keeps the hue.

    Args:
        image: (N, 3, H, W), g, r, z in units of the sky noise.
        softening, stretch: see above.

    Returns:
        (N, 3, H, W) uint8: red, green, blue.
    """
    rgb = image.flip(1) * torch.tensor(RGB_SCALES)[:, None, None]
    mean = rgb.mean(1, keepdim=True)
    mean = torch.where(mean.abs() < 1e-3, 1e-3, mean)
    rgb = rgb * (torch.asinh(softening * stretch * mean) / (softening * mean))
    rgb = rgb + 0.035  # dark grey sky, so that negative noise is seen too
    rgb = rgb / rgb.amax(1, keepdim=True).clamp_min(1)
    return (rgb * 255).round_().clamp_(0, 255).to(torch.uint8)
