"""What an evaluation prints: warnings, headlines with what a constant reaches, and scores."""

import math
from typing import Any

from zoobot.evaluation.report import Report

SCORES = {  # caption of a table -> the columns that a terminal has room for
    "Protocol of GZ DECaLS": ("question", "galaxies", "accuracy", "random", "constant"),
    "Protocol of GZ DECaLS, confident volunteers": (
        "question",
        "galaxies",
        "accuracy",
        "random",
        "constant",
    ),
    "Protocol of GZ Evo": (
        "question",
        "galaxies",
        "MAE",
        "random MAE",
        "constant MAE",
        "RMSE",
        "random RMSE",
        "constant RMSE",
    ),
    "Worth in volunteers": ("question", "galaxies", "volunteers", "90%", "random", "constant"),
    "Scores by question": (
        "question",
        "galaxies with a vote",
        "accuracy",
        "90%",
        "always majority",
    ),
    "Losses and fractions by question": ("question", "loss", "constant", "true RMSE"),
    "Intervals by question": ("question", "coverage", "temperature", "90%"),
    "Scores by class": ("class", "galaxies", "precision", "recall", "recall 90%"),
}


def summary(out: Report) -> str:
    """The warnings, headlines and main tables of a report as plain text."""
    parts = [f"warning: {warning}" for warning in out.warnings]
    parts.append(
        text_table(
            ["", "", ""],
            [[each["label"], each["value"], each["detail"]] for each in out.headlines],
        )
    )
    for section in out.sections:
        for table in section["tables"]:
            if table["caption"] in SCORES:
                chosen = [table["columns"].index(name) for name in SCORES[table["caption"]]]
                rows = [[row[i] for i in chosen] for row in table["rows"]]
                names = [table["columns"][i] for i in chosen]
                parts.append(f"{table['caption']}\n{text_table(names, rows)}")
    return "\n\n".join(part for part in parts if part)


def text_table(columns: list[str], rows: list[list]) -> str:
    """A table with aligned columns; numbers to the right."""
    cells = [columns, *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    is_number = [any(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        ).rstrip()
        for row in cells
    ]
    return "\n".join(line for line in lines if line)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3f}".replace("inf", "\N{INFINITY}")
    return str(value)
