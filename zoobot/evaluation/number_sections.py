"""Write the report's headlines, tables and figures about numbers."""

from functools import partial

import numpy as np

from zoobot.evaluation import number_figures
from zoobot.evaluation.class_sections import Describe
from zoobot.evaluation.join import Joined
from zoobot.evaluation.report import Report
from zoobot.evaluation.scores import binned_residuals, regression_scores
from zoobot.evaluation.uncertainty import exact_interval, is_above_zero, mean_error


def report_numbers(out: Report, joined: Joined) -> tuple[np.ndarray, list[dict], Describe]:
    """Add the headlines and sections of a regression; returns as ``report_classes``."""
    truth = joined.table[joined.label_col].to_numpy(dtype=np.float64)
    predicted = joined.predictions.values[:, 0].mean(axis=1)
    _headlines(out, truth, predicted)
    name, binned = joined.label_col, binned_residuals(truth, predicted)
    rows = [
        [float(value) for value in row[:-1]] + [int(row[-1])]
        for row in zip(
            binned.truth, binned.median, binned.error, (binned.high - binned.low) / 2,
            binned.counts, strict=True,
        )
    ]  # fmt: skip
    columns = [f"true {name}", "median residual", "±", "spread (68%)", "galaxies"]
    out.section(
        "Predicted and true values",
        "",
        {
            "scatter.png": (
                partial(number_figures.regression, truth, predicted, name),
                "Predicted against true values.",
            ),
            "residuals.png": (
                partial(number_figures.residuals, truth, predicted, name),
                "Residuals against the true value, and their distribution. Orange: the median in "
                "bins with equal numbers of galaxies, its error, and where 68% of them are.",
            ),
        },
        [{"caption": "Residuals by true value", "columns": columns, "rows": rows}],
    )
    return (
        np.abs(predicted - truth),
        [],
        lambda shown: {"predicted": predicted[shown], "truth": truth[shown]},
    )


def _headlines(out: Report, truth: np.ndarray, predicted: np.ndarray) -> None:
    scores, residual = regression_scores(truth, predicted), predicted - truth
    about_mean, about_median = truth - truth.mean(), np.abs(truth - np.median(truth))
    beats_mean = is_above_zero(about_mean**2 - residual**2)
    beats_median = is_above_zero(about_median - np.abs(residual))
    constant = regression_scores(truth, np.full_like(truth, truth.mean()))
    if not (beats_mean or beats_median):
        out.warnings.append(
            f"This model is no better than a constant. Always predicting the mean, "
            f"{truth.mean():.4g}, has an RMSE of {truth.std():.4g}, the model {scores['rmse']:.4g}."
        )
    square_error = mean_error(residual**2) / (2 * scores["rmse"]) if scores["rmse"] > 0 else 0.0
    out.headline(
        "RMSE",
        scores["rmse"],
        f"± {square_error:.3f}, {len(truth)} galaxies; best constant {constant['rmse']:.3f}",
        not beats_mean,
    )
    out.headline(
        "MAE",
        scores["mae"],
        f"mean absolute error, ± {mean_error(np.abs(residual)):.3f}; best constant "
        f"{about_median.mean():.3f}",
        not beats_median,
    )
    out.headline("bias", scores["bias"], f"mean of predicted - true, ± {mean_error(residual):.3f}")
    out.headline("R²", scores["r2"], "1 is best, 0 is a constant", not beats_mean)
    out.headline(
        "NMAD",
        scores["nmad"],
        f"spread about the median residual {scores['median']:.3f}, which outliers hardly change; "
        f"best constant {constant['nmad']:.3f}",
        not scores["nmad"] < constant["nmad"],
    )
    lower, upper = exact_interval(round(scores["outliers"] * len(truth)), len(truth))
    out.headline(
        "outlier fraction",
        scores["outliers"],
        f"more than 3 NMAD from the median; 90% interval {lower:.3f} to {upper:.3f}; normal "
        "residuals have 0.003",
    )
