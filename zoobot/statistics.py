"""Statistics of predicted votes: fractions, intervals, expected votes, entropies and calibration.

For every question the model predicts the concentrations ``a`` of a Dirichlet distribution over the
volunteers' fractions (M. Walmsley et al. 2022, "Galaxy Zoo DECaLS", MNRAS 509, 3966). ``A`` is
their sum over the answers of the question. The fraction of one answer follows Beta(a, A - a), and
its count among ``n`` votes follows Beta-Binomial(n, a, A - a). If there are several samples
(forward passes with dropout), the prediction is the mixture of their distributions with equal
weights.

In all functions, ``concentrations`` is an array (N, A) of one sample or (N, A, S) of S samples. Its
answers have the order of ``schema.label_cols``. Everything is computed in float64. A galaxy whose
concentrations are NaN, because its image could not be read, gives NaN. All functions raise
ValueError if the number of answers is wrong or a concentration is not above 0.

This is one long module because its functions are used together and share the checks at its end.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import betaln, entr, gammaln

from zoobot.beta_mixtures import mixture_quantiles
from zoobot.schemas import Schema
from zoobot.system.errors import UserError

TABLE_CELLS = 1_000_000  # cells of a table of probabilities: 8 MB in float64; a few exist at once
MAX_TEMPERATURE = 100
TEMPERATURE_SPREAD = 1.0  # of the logarithm of temperatures that are expected: by a factor of 2.7


def fractions(concentrations: ArrayLike, schema: Schema) -> np.ndarray:
    """The expected fraction of the volunteers asked a question who give each answer.

    It is the mean of the Dirichlet distribution, a / A, averaged over samples.

    Returns:
        (N, A). The answers of each question sum to 1.
    """
    return _sample_fractions(_check_concentrations(concentrations, schema), schema).mean(axis=2)


def fraction_intervals(
    concentrations: ArrayLike, schema: Schema, level: float = 0.9
) -> tuple[np.ndarray, np.ndarray]:
    """The central interval that contains the volunteers' fraction with probability ``level``.

    Its ends are the quantiles (1 - level) / 2 and (1 + level) / 2 of Beta(a, A - a); of several
    samples, those of the mixture.

    Returns:
        Lower and upper ends, (N, A) each.

    Raises:
        ValueError: if ``level`` is not between 0 and 1.
    """
    tails = _tails(level)
    a = _check_concentrations(concentrations, schema)
    b = _totals(a, schema) - a
    lower, upper = (mixture_quantiles(a, b, tail) for tail in tails)
    return lower, upper


def proportion_asked(concentrations: ArrayLike, schema: Schema) -> np.ndarray:
    """The expected share of volunteers who are asked each question: (N, Q); 1 for a first one."""
    expected = fractions(concentrations, schema)
    unreadable = np.isnan(expected).any(axis=1, keepdims=True)
    return np.where(unreadable, np.nan, schema.proportion_asked(expected))


def expected_votes(
    concentrations: ArrayLike, schema: Schema, num_volunteers: ArrayLike
) -> np.ndarray:
    """The expected number of votes for each answer, if volunteers answer the tree's questions.

    Args:
        num_volunteers: how many volunteers see each galaxy: one number, or (N,).

    Returns:
        (N, A) numbers of votes.

    Raises:
        ValueError: if ``num_volunteers`` has another shape or is negative.
    """
    joint = schema.joint_probabilities(fractions(concentrations, schema))
    num_volunteers = np.asarray(num_volunteers, np.float64)
    if num_volunteers.shape not in ((), joint.shape[:1]):
        raise UserError(
            f"num_volunteers has shape {num_volunteers.shape}: "
            f"pass one number, or one for each of the {len(joint)} galaxies"
        )
    if (num_volunteers < 0).any():
        raise UserError(f"num_volunteers is {num_volunteers.min():g}: it must be at least 0")
    return num_volunteers[..., None] * joint


def fraction_variance(concentrations: ArrayLike, schema: Schema) -> np.ndarray:
    """The variance of the volunteers' fraction, (N, A).

    By the law of total variance it is the mean over samples of the Beta variance
    m (1 - m) / (A + 1), where m = a / A, plus the variance of m over samples.
    """
    a = _check_concentrations(concentrations, schema)
    means = _sample_fractions(a, schema)
    within = means * (1 - means) / (_totals(a, schema) + 1)
    return within.mean(axis=2) + means.var(axis=2)


def answer_entropy(concentrations: ArrayLike, schema: Schema) -> np.ndarray:
    """Entropy of the answer that the next volunteer gives to each question: (N, Q), in nats."""
    return _sum_questions(entr(fractions(concentrations, schema)), schema)


def mutual_information(concentrations: ArrayLike, schema: Schema) -> np.ndarray:
    """Mutual information between the next volunteer's answer and the model's weights.

    It is the entropy of the mean prediction minus the mean of the samples' entropies. It is large
    if the samples disagree: such galaxies are the most useful to label (N. Houlsby et al. 2011,
    "Bayesian active learning for classification and preference learning"; for galaxies
    M. Walmsley et al. 2020, MNRAS 491, 1554).

    Returns:
        (N, Q), in nats; 0 if there is one sample.
    """
    samples = _sample_fractions(_check_concentrations(concentrations, schema), schema)
    mean_entropy = _sum_questions(entr(samples), schema).mean(axis=2)
    return _sum_questions(entr(samples.mean(axis=2)), schema) - mean_entropy


def vote_coverage(
    concentrations: ArrayLike, votes: ArrayLike, schema: Schema, level: float = 0.9
) -> np.ndarray:
    """How much of each observed vote count is inside the central interval of the prediction.

    Its mean over galaxies tests the intervals: for calibrated predictions it is expected to be
    exactly ``level``, for any number of votes, and less if the intervals are too narrow.

    Vote counts are whole numbers, so an interval of counts contains more than ``level``. Instead,
    this is the share of the interval [F(k - 1), F(k)] between (1 - level) / 2 and (1 + level) / 2.
    F is the cumulative Beta-Binomial distribution, averaged over samples, of the votes k for an
    answer among the n votes on its question. This is the non-random form of the randomised
    probability integral transform (C. Czado, T. Gneiting & L. Held 2009, Biometrics 65, 1254).

    Besides copies of the arguments, the memory used does not grow with the number of votes.

    Args:
        votes: (N, A) whole numbers, 0 if the question was not asked.

    Returns:
        (N, A), from 0 to 1; NaN if the question has no vote.

    Raises:
        ValueError: if ``votes`` are not such numbers, or ``level`` is not between 0 and 1.
    """
    lower, upper = _tails(level)
    a = _check_concentrations(concentrations, schema)
    votes = _check_votes(votes, a)
    totals, question_of_answer = _sum_questions(a, schema), schema.question_of_answer.numpy()
    votes_on_question = _totals(votes, schema)

    coverage = np.full(votes.shape, np.nan)
    asked = np.flatnonzero(votes_on_question)
    # Sorted by votes, because a table is as wide as the largest count among its rows.
    asked = asked[np.argsort(votes.ravel()[asked], kind="stable")]
    rows = max(1, TABLE_CELLS // (a.shape[2] * (votes.max(initial=0) + 1)))
    for start in range(0, len(asked), rows):
        i, j = np.unravel_index(asked[start : start + rows], votes.shape)
        alpha, beta = a[i, j], totals[i, question_of_answer[j]] - a[i, j]
        below, at = _count_probabilities(votes[i, j], votes_on_question[i, j], alpha, beta)
        at = np.maximum(at, np.finfo(np.float64).tiny)  # if it underflows, the share is 0 or 1
        ends = [np.clip((tail - below) / at, 0, 1) for tail in (lower, upper)]
        coverage[i, j] = ends[1] - ends[0]
    return coverage


def _count_probabilities(
    k: np.ndarray, n: np.ndarray, alpha: np.ndarray, beta: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """P(count < k) and P(count = k), averaged over samples: (M,) each.

    Args:
        k, n: (M,) votes for the answer, and on its question.
        alpha, beta: (M, S) parameters of the Beta-Binomial distribution.
    """
    counts = np.arange(k.max() + 1)
    rest = np.maximum(n[:, None] - counts, 0)
    log_choose = gammaln(n + 1)[:, None] - gammaln(counts + 1) - gammaln(rest + 1)
    log_p = gammaln(alpha[..., None] + counts)  # (M, S, K)
    log_p += gammaln(beta[..., None] + rest[:, None])
    log_p -= (betaln(alpha, beta) + gammaln(alpha + beta + n[:, None]))[..., None]
    log_p += log_choose[:, None]
    # Counts above k are not needed. Above n the formula does not hold.
    log_p = np.where((counts <= k[:, None])[:, None], log_p, -np.inf)
    p = np.exp(log_p, out=log_p).mean(axis=1)
    at = np.take_along_axis(p, k[:, None], axis=1)[:, 0]
    return p.sum(axis=1) - at, at


def fit_temperatures(concentrations: ArrayLike, votes: ArrayLike, schema: Schema) -> np.ndarray:
    """Fit one factor t per question, by which concentrations are multiplied to calibrate them.

    The factor leaves the expected fractions as they are and changes the width of the intervals. It
    minimises the Dirichlet-Multinomial negative log likelihood of ``votes`` (see
    ``zoobot.losses``); the likelihood is averaged over samples. It is the inverse of the
    temperature by which C. Guo et al. (2017, "On calibration of modern neural networks") divide
    logits. So that few galaxies do not give an extreme factor, its logarithm has a normal prior
    with mean 0 and standard deviation ``TEMPERATURE_SPREAD``; among many galaxies it has no weight.

    Args:
        votes: (N, A) whole numbers, 0 if the question was not asked.

    Returns:
        (Q,) factors t, from 1/100 to 100. Below 1, the intervals were too narrow. The factor is 1
        if no galaxy has two votes on the question: one vote has the same likelihood for every t.

    Raises:
        ValueError: if ``votes`` are not such numbers.
    """
    a = _check_concentrations(concentrations, schema)
    votes = _check_votes(votes, a)
    temperatures = np.ones(len(schema.questions))
    for q, (first, last) in enumerate(schema.question_index_groups):
        a_q, votes_q = a[:, first : last + 1], votes[:, first : last + 1]
        telling = (votes_q.sum(axis=1) > 1) & ~np.isnan(a_q).any(axis=(1, 2))
        if telling.any():
            temperatures[q] = _fit_temperature(a_q[telling], votes_q[telling])
    return temperatures


def _fit_temperature(a: np.ndarray, votes: np.ndarray) -> float:
    """The best factor for concentrations (N, K, S) and votes (N, K) of one question."""
    total, n, votes = a.sum(axis=1), votes.sum(axis=1)[:, None], votes[..., None]

    def loss(log_t: float) -> float:
        x, x_total = a * np.exp(log_t), total * np.exp(log_t)
        log_likelihood = (gammaln(x + votes) - gammaln(x)).sum(axis=1)
        log_likelihood += gammaln(x_total) - gammaln(x_total + n)
        prior = -0.5 * (log_t / TEMPERATURE_SPREAD) ** 2
        return -np.logaddexp.reduce(log_likelihood, axis=1).sum() - prior

    bound = np.log(MAX_TEMPERATURE)
    return np.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x)


def recalibrate(concentrations: ArrayLike, temperatures: ArrayLike, schema: Schema) -> np.ndarray:
    """Multiply the concentrations of each question by its factor from ``fit_temperatures``.

    Returns:
        float64 array with the shape of ``concentrations``.

    Raises:
        ValueError: if there is not one positive factor for each question.
    """
    a = _check_concentrations(concentrations, schema)
    temperatures = np.asarray(temperatures, np.float64)
    if temperatures.shape != (len(schema.questions),):
        raise UserError(
            f"temperatures have shape {temperatures.shape}: "
            f"pass one for each of the tree's {len(schema.questions)} questions"
        )
    if not (temperatures > 0).all():
        raise UserError(f"temperatures must be above 0, not {temperatures.min():g}")
    scaled = a * np.repeat(temperatures, schema.question_sizes)[:, None]
    return scaled.reshape(np.shape(concentrations))


def summary_table(
    ids: ArrayLike,
    concentrations: ArrayLike,
    schema: Schema,
    temperatures: ArrayLike | None = None,
) -> pd.DataFrame:
    """A table of fractions, their 90% intervals, and the share of volunteers who are asked.

    Of several samples also how uncertain the next volunteer's answer is, in two parts.

    Args:
        ids: (N,) ``id_str`` of each galaxy.
        temperatures: (Q,) by which concentrations are recalibrated first; None: they are not.

    Returns:
        Columns ``id_str``; for each answer ``{answer}_fraction``,
        ``{answer}_90pc-lower`` and ``{answer}_90pc-upper``; then for each question
        ``{question}_proportion-asked``; of several samples then for each question
        ``{question}_expected-entropy``, the mean entropy of the samples, which more training would
        not take away (aleatoric), and ``{question}_mutual-information``, how far they disagree
        (epistemic), in nats: their sum is ``answer_entropy``. float32.

    Raises:
        ValueError: if there is not one id for each galaxy.
    """
    if temperatures is not None:
        concentrations = recalibrate(concentrations, temperatures, schema)
    intervals = fraction_intervals(concentrations, schema, level=0.9)
    of_answers = np.stack((fractions(concentrations, schema), *intervals), axis=2)
    of_answers = of_answers.reshape(len(of_answers), 3 * len(schema.label_cols))
    kinds = ("fraction", "90pc-lower", "90pc-upper")
    columns = [f"{answer}_{kind}" for answer in schema.label_cols for kind in kinds]
    of_questions = {"proportion-asked": proportion_asked(concentrations, schema)}
    if np.shape(concentrations)[2:] > (1,):
        information = mutual_information(concentrations, schema)
        entropy = answer_entropy(concentrations, schema)
        of_questions |= {
            "expected-entropy": entropy - information,
            "mutual-information": information,
        }
    columns += [f"{q.text}_{kind}" for kind in of_questions for q in schema.questions]
    return _table(ids, np.hstack((of_answers, *of_questions.values())), columns)


def friendly_table(
    ids: ArrayLike, concentrations: ArrayLike, schema: Schema, min_asked: float = 0.5
) -> pd.DataFrame:
    """A table of fractions without those of questions that few volunteers would be asked.

    Args:
        ids: (N,) ``id_str`` of each galaxy.
        min_asked: fractions are NaN if the expected share of volunteers who are asked is below it.

    Returns:
        Columns ``id_str``, then ``{answer}_fraction`` for each answer, float32.

    Raises:
        ValueError: if there is not one id for each galaxy.
    """
    asked = np.repeat(proportion_asked(concentrations, schema), schema.question_sizes, axis=1)
    shown = np.where(asked >= min_asked, fractions(concentrations, schema), np.nan)
    return _table(ids, shown, [f"{answer}_fraction" for answer in schema.label_cols])


def _table(ids: ArrayLike, values: np.ndarray, columns: list[str]) -> pd.DataFrame:
    """A table of ``id_str`` and values (N, columns) as float32."""
    ids = np.asarray(ids)  # without an index, by which pandas would reorder the rows
    if ids.shape != (len(values),):
        raise UserError(f"ids have shape {ids.shape}: pass one for each of {len(values)} galaxies")
    table = pd.DataFrame(values.astype(np.float32), columns=columns)
    table.insert(0, "id_str", ids)
    return table


def _check_concentrations(concentrations: ArrayLike, schema: Schema) -> np.ndarray:
    """The concentrations as float64 (N, A, S); ValueError if they are wrong."""
    a = np.asarray(concentrations, np.float64)
    if a.ndim not in (2, 3) or a.shape[2:] == (0,):
        raise UserError(
            f"concentrations have shape {a.shape}: "
            "pass (galaxies, answers) or (galaxies, answers, samples)"
        )
    if a.shape[1] != len(schema.label_cols):
        raise UserError(
            f"concentrations have {a.shape[1]} answers, but the tree has {len(schema.label_cols)}: "
            "pass the schema that the model was trained with"
        )
    if a.ndim == 2:
        a = a[..., None]
    wrong = (a <= 0) | np.isinf(a)
    if wrong.any():
        raise UserError(
            f"a concentration is {a[wrong][0]:g}; all must be above 0 and finite: "
            "pass the output of the model's head, not votes or logits"
        )
    return a


def _check_votes(votes: ArrayLike, a: np.ndarray) -> np.ndarray:
    """The votes as int64 (N, A); ValueError if they are wrong or don't fit concentrations ``a``."""
    votes = np.asarray(votes)
    if votes.shape != a.shape[:2]:
        raise UserError(f"votes have shape {votes.shape}, but concentrations {a.shape[:2]}")
    wrong = ~(np.isfinite(votes) & (votes >= 0) & (votes == np.floor(votes)))
    if wrong.any():
        raise UserError(
            f"a vote count is {votes[wrong][0]:g}; all must be whole numbers of at least 0: "
            "fill in 0 where a question was not asked"
        )
    return votes.astype(np.int64, copy=False)


def _tails(level: float) -> tuple[float, float]:
    """The probabilities below the two ends of the central interval."""
    if not 0 < level < 1:
        raise UserError(f"level is {level}; it must be between 0 and 1, such as 0.9 for 90%")
    return (1 - level) / 2, (1 + level) / 2


def _sample_fractions(a: np.ndarray, schema: Schema) -> np.ndarray:
    """The expected fractions of each sample: (N, A, S)."""
    return a / _totals(a, schema)


def _totals(values: np.ndarray, schema: Schema) -> np.ndarray:
    """For each answer, the sum over the answers of its question. Keeps the shape (N, A, ...)."""
    return np.repeat(_sum_questions(values, schema), schema.question_sizes, axis=1)


def _sum_questions(values: np.ndarray, schema: Schema) -> np.ndarray:
    """The sum over the answers of each question: (N, A, ...) -> (N, Q, ...)."""
    starts = [first for first, _ in schema.question_index_groups]
    return np.add.reduceat(values, starts, axis=1)
