"""From Dirichlet concentrations to what astronomers use: fractions, intervals, votes, calibration.

For every question the model predicts the concentrations ``a`` of a Dirichlet distribution over the
volunteers' fractions (M. Walmsley et al. 2022, "Galaxy Zoo DECaLS", MNRAS 509, 3966). With ``A``,
their sum over the question's answers, one answer's fraction follows Beta(a, A - a), and its count
among ``n`` votes follows Beta-Binomial(n, a, A - a). Several forward passes with dropout are
equally likely predictions: a mixture.

Everywhere, ``concentrations`` is an array (N, A) of one forward pass or (N, A, S) of S passes, with
the answers in the order of ``schema.label_cols``; all is computed in float64. A galaxy whose
concentrations are NaN, because its image could not be read, gives NaN. All functions raise
ValueError for a wrong number of answers and for concentrations that are not above 0.
"""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import betaincinv, betaln, entr, gammaln

from zoobot.schemas import Schema
from zoobot.system.errors import UserError

TABLE_CELLS = 1_000_000  # of one probability table in float64: 8 MB, and a few alike beside it
MAX_TEMPERATURE = 100


def fractions(concentrations, schema: Schema) -> np.ndarray:
    """The expected fraction of a question's volunteers who give each answer.

    The mean of the Dirichlet distribution, a / A, averaged over passes.

    Returns:
        (N, A), each question's answers summing to 1.
    """
    return _fractions_of_passes(_check_concentrations(concentrations, schema), schema).mean(axis=2)


def fraction_intervals(concentrations, schema: Schema, level=0.9) -> tuple[np.ndarray, np.ndarray]:
    """The central interval that holds the volunteers' fraction with probability ``level``.

    The quantiles (1 - level) / 2 and (1 + level) / 2 of Beta(a, A - a), their medians over passes.

    Returns:
        Lower and upper ends, (N, A) each.

    Raises:
        ValueError: if ``level`` is not between 0 and 1.
    """
    tails = _tails(level)
    a = _check_concentrations(concentrations, schema)
    b = _totals(a, schema) - a
    lower, upper = (np.median(betaincinv(a, b, tail), axis=2) for tail in tails)
    return lower, upper


def proportion_asked(concentrations, schema: Schema) -> np.ndarray:
    """The share of volunteers expected to be asked each question: (N, Q), 1 for first questions."""
    expected = fractions(concentrations, schema)
    unreadable = np.isnan(expected).any(axis=1, keepdims=True)
    return np.where(unreadable, np.nan, schema.proportion_asked(expected))


def expected_votes(concentrations, schema: Schema, num_volunteers) -> np.ndarray:
    """The number of votes expected for each answer when volunteers walk down the tree.

    ``num_volunteers``, a number or (N,), is how many look at each galaxy.

    Returns:
        (N, A), in votes.

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


def fraction_variance(concentrations, schema: Schema) -> np.ndarray:
    """The variance of the volunteers' fraction, (N, A).

    By the law of total variance: the mean over passes of the Beta variance m (1 - m) / (A + 1),
    where m = a / A, plus the variance of m over passes.
    """
    a = _check_concentrations(concentrations, schema)
    means = _fractions_of_passes(a, schema)
    within = means * (1 - means) / (_totals(a, schema) + 1)
    return within.mean(axis=2) + means.var(axis=2)


def answer_entropy(concentrations, schema: Schema) -> np.ndarray:
    """Entropy of the answer of the next volunteer who is asked each question: (N, Q), in nats."""
    return _sum_questions(entr(fractions(concentrations, schema)), schema)


def mutual_information(concentrations, schema: Schema) -> np.ndarray:
    """Mutual information between the next volunteer's answer and the model's weights.

    The entropy of the mean prediction minus the mean entropy over passes: large where the passes
    disagree, so that more labels would teach the model most (N. Houlsby et al. 2011, "Bayesian
    active learning for classification and preference learning"; for galaxies M. Walmsley et al.
    2020, MNRAS 491, 1554).

    Returns:
        (N, Q), in nats; 0 for a single pass.
    """
    passes = _fractions_of_passes(_check_concentrations(concentrations, schema), schema)
    mean_entropy = _sum_questions(entr(passes), schema).mean(axis=2)
    return _sum_questions(entr(passes.mean(axis=2)), schema) - mean_entropy


def vote_coverage(concentrations, votes, schema: Schema, level=0.9) -> np.ndarray:
    """How much of each observed vote count lies within the central ``level`` of the prediction.

    Vote counts are discrete, so that an interval of whole counts covers more than its level. This
    is the share of [F(k - 1), F(k)] between (1 - level) / 2 and (1 + level) / 2, where F is the
    cumulative Beta-Binomial distribution (averaged over passes) of the k votes for an answer among
    the n on its question: the non-random form of the randomised probability integral transform
    (C. Czado, T. Gneiting & L. Held 2009, Biometrics 65, 1254). Its mean over galaxies is expected
    to be exactly ``level`` if the predictions are calibrated, for any n, and less if they are too
    sure. Memory beyond that of the arguments and the result does not grow with the votes.

    Returns:
        (N, A), from 0 to 1; NaN where the question has no vote.

    Raises:
        ValueError: if ``votes`` are not (N, A) whole numbers, 0 where not asked, or ``level`` is
            not between 0 and 1.
    """
    lower, upper = _tails(level)
    a = _check_concentrations(concentrations, schema)
    votes = _check_votes(votes, a)
    totals, question_of_answer = _sum_questions(a, schema), schema.question_of_answer.numpy()
    votes_on_question = _totals(votes, schema)

    coverage = np.full(votes.shape, np.nan)
    asked = np.flatnonzero(votes_on_question)
    # Answers with few votes first: a table is as wide as the largest count among its rows.
    asked = asked[np.argsort(votes.ravel()[asked], kind="stable")]
    rows = max(1, TABLE_CELLS // (a.shape[2] * (votes.max(initial=0) + 1)))
    for start in range(0, len(asked), rows):
        i, j = np.unravel_index(asked[start : start + rows], votes.shape)
        alpha, beta = a[i, j], totals[i, question_of_answer[j]] - a[i, j]
        below, at = _count_probabilities(votes[i, j], votes_on_question[i, j], alpha, beta)
        at = np.maximum(at, np.finfo(np.float64).tiny)  # where it underflows, all or nothing
        ends = [np.clip((tail - below) / at, 0, 1) for tail in (lower, upper)]
        coverage[i, j] = ends[1] - ends[0]
    return coverage


def _count_probabilities(k, n, alpha, beta) -> tuple[np.ndarray, np.ndarray]:
    """P(count < k) and P(count = k), (M,) each, for k, n (M,) and alpha, beta (M, S)."""
    counts = np.arange(k.max() + 1)
    rest = np.maximum(n[:, None] - counts, 0)
    log_choose = gammaln(n + 1)[:, None] - gammaln(counts + 1) - gammaln(rest + 1)
    log_p = gammaln(alpha[..., None] + counts)  # (M, S, K)
    log_p += gammaln(beta[..., None] + rest[:, None])
    log_p -= (betaln(alpha, beta) + gammaln(alpha + beta + n[:, None]))[..., None]
    log_p += log_choose[:, None]
    # Counts above k are not needed, and above n the formula does not hold.
    log_p = np.where((counts <= k[:, None])[:, None], log_p, -np.inf)
    p = np.exp(log_p, out=log_p).mean(axis=1)
    at = np.take_along_axis(p, k[:, None], axis=1)[:, 0]
    return p.sum(axis=1) - at, at


def fit_temperatures(concentrations, votes, schema: Schema) -> np.ndarray:
    """One factor per question that makes the concentrations fit the votes of a calibration set.

    Minimises the Dirichlet-Multinomial negative log likelihood (see ``zoobot.losses``; averaged
    over passes as a likelihood) of ``votes`` under the concentrations times t: the expected
    fractions stay, their certainty changes. It is the inverse of the temperature that C. Guo et
    al. (2017, "On calibration of modern neural networks") divide logits by.

    Returns:
        (Q,) factors t, from 1/100 to 100. Below 1: the model was too sure. 1 where no galaxy has
        two votes on the question, because a single vote has the same likelihood for every t.

    Raises:
        ValueError: if ``votes`` are not (N, A) whole numbers, 0 where not asked.
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


def _fit_temperature(a, votes) -> float:
    """The best factor for concentrations (N, K, S) and votes (N, K) of one question."""
    total, n, votes = a.sum(axis=1), votes.sum(axis=1)[:, None], votes[..., None]

    def loss(log_t):
        x, x_total = a * np.exp(log_t), total * np.exp(log_t)
        log_likelihood = (gammaln(x + votes) - gammaln(x)).sum(axis=1)
        log_likelihood += gammaln(x_total) - gammaln(x_total + n)
        return -np.logaddexp.reduce(log_likelihood, axis=1).mean()

    bound = np.log(MAX_TEMPERATURE)
    return np.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x)


def recalibrate(concentrations, temperatures, schema: Schema) -> np.ndarray:
    """The concentrations times their question's factor from ``fit_temperatures``.

    Returns:
        float64 of the shape of ``concentrations``.

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


def summary_table(ids, concentrations, schema: Schema) -> pd.DataFrame:
    """Everything for a catalog: fractions, 90% intervals, and the shares of volunteers asked.

    Returns:
        ``id_str``, from ``ids`` (N,); for each answer ``{answer}_fraction``,
        ``{answer}_90pc-lower`` and ``{answer}_90pc-upper``; then for each question
        ``{question}_proportion-asked``. float32.

    Raises:
        ValueError: if there is not one id for each galaxy.
    """
    intervals = fraction_intervals(concentrations, schema, level=0.9)
    of_answers = np.stack((fractions(concentrations, schema), *intervals), axis=2)
    of_answers = of_answers.reshape(len(of_answers), 3 * len(schema.label_cols))
    kinds = ("fraction", "90pc-lower", "90pc-upper")
    columns = [f"{answer}_{kind}" for answer in schema.label_cols for kind in kinds]
    columns += [f"{question.text}_proportion-asked" for question in schema.questions]
    values = np.hstack((of_answers, proportion_asked(concentrations, schema)))
    return _table(ids, values, columns)


def friendly_table(ids, concentrations, schema: Schema, min_asked=0.5) -> pd.DataFrame:
    """The fractions that mean something: NaN where few volunteers would be asked the question.

    A fraction is shown if the expected share of volunteers asked is at least ``min_asked``.

    Returns:
        ``id_str``, from ``ids`` (N,), then ``{answer}_fraction`` for each answer, float32.

    Raises:
        ValueError: if there is not one id for each galaxy.
    """
    asked = np.repeat(proportion_asked(concentrations, schema), schema.question_sizes, axis=1)
    shown = np.where(asked >= min_asked, fractions(concentrations, schema), np.nan)
    return _table(ids, shown, [f"{answer}_fraction" for answer in schema.label_cols])


def _table(ids, values, columns) -> pd.DataFrame:
    ids = np.asarray(ids)  # an index, if they have one, must not reorder the rows
    if ids.shape != (len(values),):
        raise UserError(f"ids have shape {ids.shape}: pass one for each of {len(values)} galaxies")
    table = pd.DataFrame(values.astype(np.float32), columns=columns)
    table.insert(0, "id_str", ids)
    return table


def _check_concentrations(concentrations, schema) -> np.ndarray:
    """The concentrations as float64 (N, A, S)."""
    a = np.asarray(concentrations, np.float64)
    if a.ndim not in (2, 3) or a.shape[2:] == (0,):
        raise UserError(
            f"concentrations have shape {a.shape}: "
            "pass (galaxies, answers) or (galaxies, answers, passes)"
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


def _check_votes(votes, a) -> np.ndarray:
    """The votes as int64 (N, A)."""
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


def _tails(level) -> tuple[float, float]:
    if not 0 < level < 1:
        raise UserError(f"level is {level}; it must be between 0 and 1, such as 0.9 for 90%")
    return (1 - level) / 2, (1 + level) / 2


def _fractions_of_passes(a, schema) -> np.ndarray:
    return a / _totals(a, schema)


def _totals(values, schema) -> np.ndarray:
    """Each answer's question total, for values (N, A, ...) the same shape."""
    return np.repeat(_sum_questions(values, schema), schema.question_sizes, axis=1)


def _sum_questions(values, schema) -> np.ndarray:
    """Sums over each question's answers: (N, A, ...) -> (N, Q, ...)."""
    starts = [first for first, _ in schema.question_index_groups]
    return np.add.reduceat(values, starts, axis=1)
