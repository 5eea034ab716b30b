"""``Report``: collects an evaluation's headlines, figures and tables, and writes the page."""

import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from zoobot.evaluation import run_figures
from zoobot.evaluation.figures import NARROW, WIDE
from zoobot.evaluation.page import write_page
from zoobot.system.files import write_text

NARROW_DPI = 100  # for a phone


class Report:
    """Collects headlines, figures and tables, and writes them into a folder.

    Attributes:
        warnings: sentences for the top of the page: why its numbers mislead.
        numbers: everything that ``metrics.json`` will contain.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.warnings: list[str] = []
        self.headlines: list[dict] = []
        self.sections: list[dict] = []
        self.numbers: dict = {}

    def headline(
        self, label: str, value: float, detail: str, is_weak: bool = False, digits: int = 3
    ) -> None:
        """Add a number to the top of the page, with its label and a short explanation.

        Args:
            is_weak: it is no better than that of a constant prediction.
            digits: after the point.
        """
        shown = "\N{INFINITY}" if math.isinf(value) else f"{value:.{digits}f}"
        shown = "\N{EN DASH}" if math.isnan(value) else shown
        self.headlines.append(
            {"label": label, "value": shown, "detail": detail, "is_weak": is_weak}
        )
        self.numbers[label] = value

    def section(
        self,
        title: str,
        text: str,
        drawn: dict[str, tuple[Callable[[int], Figure], str]],
        tables: Sequence[dict] = (),
    ) -> None:
        """Add a section to the page, and save its figures.

        Args:
            text: paragraphs, separated by empty lines.
            drawn: file name -> (figure, caption). The figure is a function of the number of panels
                in a row: ``figures.WIDE`` for the file and wide pages, ``NARROW`` for phones.
            tables: each with ``caption``, ``columns`` and ``rows``.
        """
        shown = []
        for name, (draw, caption) in drawn.items():
            run_figures.save(draw(WIDE), self.folder / name)
            png, narrow = (self.folder / name).read_bytes(), _png(draw(NARROW))
            shown.append({"file": name, "png": png, "narrow": narrow, "caption": caption})
        self.sections.append(
            {"title": title, "text": text, "figures": shown, "tables": list(tables)}
        )
        self.numbers |= {t["caption"]: {"columns": t["columns"], "rows": t["rows"]} for t in tables}

    def write(self, page: dict) -> Path:
        """Write ``report.html`` and ``metrics.json``.

        Args:
            page: the contents of the page besides warnings, headlines and sections; see
                ``page.write_page``.

        Returns:
            The path of ``report.html``.
        """
        path = self.folder / "report.html"
        headed = {"warnings": self.warnings, "headlines": self.headlines}
        write_page(path, page | headed | {"sections": self.sections})
        self.numbers |= {"warnings": self.warnings, "about": dict(page["about"])}
        text = json.dumps(_without_nan(self.numbers), indent=2)
        write_text(self.folder / "metrics.json", text + "\n")
        return path


def _png(figure: Figure) -> bytes:
    """A figure for a phone."""
    width, height = figure.get_size_inches()
    file = io.BytesIO()
    dpi = min(NARROW_DPI, math.sqrt(run_figures.MAX_FIGURE_PIXELS / (width * height)))
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def _without_nan(value: Any) -> Any:
    """The value with None instead of NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
