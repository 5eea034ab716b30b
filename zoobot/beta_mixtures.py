"""Quantiles of mixtures of Beta distributions: what several forward passes say of a fraction."""

import numpy as np
from scipy.special import betainc, betaincinv, betaln, xlog1py, xlogy

TOLERANCE = 1e-6  # of the probability below a quantile
MOST_STEPS = 60  # a bracket is halved at least every other step: 1e-9 of its width
CELLS_AT_A_TIME = 100_000


def mixture_quantiles(a: np.ndarray, b: np.ndarray, probability: float) -> np.ndarray:
    """Where the mean of the distribution functions of Beta(a, b) over samples is ``probability``.

    Of several samples the quantile is found by Newton's steps, kept within a bracket: from that of
    the one Beta distribution with the mixture's mean and variance.

    Args:
        a, b: (..., S) positive parameters; where one is NaN, the result is.
        probability: between 0 and 1.

    Returns:
        (...,), from 0 to 1; ``probability`` lies below it to within ``TOLERANCE``.
    """
    if a.shape[-1] == 1:
        return betaincinv(a[..., 0], b[..., 0], probability)
    found = np.full(a.shape[:-1], np.nan)
    flat_a, flat_b, flat = a.reshape(-1, a.shape[-1]), b.reshape(-1, a.shape[-1]), found.reshape(-1)
    whole = np.flatnonzero(np.isfinite(flat_a).all(1) & np.isfinite(flat_b).all(1))
    rows = max(1, CELLS_AT_A_TIME // a.shape[-1])
    for start in range(0, len(whole), rows):
        block = whole[start : start + rows]
        flat[block] = _quantiles(flat_a[block], flat_b[block], probability)
    return flat.reshape(found.shape)


def _quantiles(a: np.ndarray, b: np.ndarray, probability: float) -> np.ndarray:
    """``mixture_quantiles`` of finite (M, S)."""
    x = _of_one_beta(a, b, probability)
    low, high = np.zeros(len(x)), np.ones(len(x))
    log_beta = betaln(a, b)
    left = np.arange(len(x))  # those not found yet
    for step in range(MOST_STEPS):
        at, of_a, of_b = x[left], a[left], b[left]
        off = betainc(of_a, of_b, at[:, None]).mean(1) - probability
        is_above = off > 0
        high[left[is_above]], low[left[~is_above]] = at[is_above], at[~is_above]
        wrong = np.abs(off) > TOLERANCE
        left, at, off = left[wrong], at[wrong], off[wrong]
        if not len(left):
            break
        of_a, of_b, place = of_a[wrong], of_b[wrong], at[:, None]
        log_density = xlogy(of_a - 1, place) + xlog1py(of_b - 1, -place) - log_beta[left]
        with np.errstate(all="ignore"):
            newton = at - off / np.exp(log_density).mean(1)
        middle = (low[left] + high[left]) / 2
        is_inside = (newton > low[left]) & (newton < high[left]) & (step % 3 < 2)
        x[left] = np.where(is_inside, newton, middle)
    return x


def _of_one_beta(a: np.ndarray, b: np.ndarray, probability: float) -> np.ndarray:
    """The quantile (M,) of the Beta distribution with the mean and variance of the mixture."""
    total = a + b
    means = a / total
    mean = means.mean(1)
    variance = (means * (1 - means) / (total + 1)).mean(1) + means.var(1)
    concentration = np.maximum(mean * (1 - mean) / variance - 1, 1e-3)
    start = betaincinv(mean * concentration, (1 - mean) * concentration, probability)
    return np.clip(start, 1e-12, 1 - 1e-12)
