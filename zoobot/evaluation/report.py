"""``Report``: collects an evaluation's headlines, figures and tables, and writes the page."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from zoobot.evaluation import run_figures
from zoobot.evaluation.page import write_page
from zoobot.system.files import write_text


class Report:
    """Collects headlines, figures and tables, and writes them into a folder.

    Attributes:
        numbers: everything that ``metrics.json`` will contain.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.headlines: list[dict] = []
        self.sections: list[dict] = []
        self.numbers: dict = {}

    def headline(self, label: str, value: float, detail: str) -> None:
        """Add a number to the top of the page, with its label and a short explanation."""
        shown = "\N{EN DASH}" if math.isnan(value) else f"{value:.3f}"
        self.headlines.append({"label": label, "value": shown, "detail": detail})
        self.numbers[label] = value

    def section(
        self,
        title: str,
        text: str,
        drawn: dict[str, tuple[Figure, str]],
        tables: Sequence[dict] = (),
    ) -> None:
        """Add a section to the page, and save its figures.

        Args:
            text: paragraphs, separated by empty lines.
            drawn: file name -> (figure, caption).
            tables: each with ``caption``, ``columns`` and ``rows``.
        """
        shown = []
        for name, (figure, caption) in drawn.items():
            run_figures.save(figure, self.folder / name)
            png = (self.folder / name).read_bytes()
            shown.append({"file": name, "png": png, "caption": caption})
        self.sections.append(
            {"title": title, "text": text, "figures": shown, "tables": list(tables)}
        )
        self.numbers |= {t["caption"]: {"columns": t["columns"], "rows": t["rows"]} for t in tables}

    def write(self, page: dict) -> Path:
        """Write ``report.html`` and ``metrics.json``.

        Args:
            page: the contents of the page besides headlines and sections; see ``page.write_page``.

        Returns:
            The path of ``report.html``.
        """
        path = self.folder / "report.html"
        write_page(path, page | {"headlines": self.headlines, "sections": self.sections})
        text = json.dumps(_without_nan(self.numbers), indent=2)
        write_text(self.folder / "metrics.json", text + "\n")
        return path


def _without_nan(value: Any) -> Any:
    """The value with None instead of NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
