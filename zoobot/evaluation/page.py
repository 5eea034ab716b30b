"""Write the HTML report page of an evaluation: numbers, figures, and a gallery of galaxies.

The page is one ASCII file that loads nothing else. It is static HTML, except for the gallery. Its
security policy allows only the page's own script.
"""

import base64
import hashlib
import html
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from zoobot.system.files import write_text

TEMPLATE = Path(__file__).with_name("page.html")
WIDE_PX = 1200  # wider figures take the whole width of the page
PHONE = "(max-width: 640px)"  # the page's style has the same
NO_VALUE = "\N{EN DASH}"


def write_page(path: str | Path, page: dict) -> None:
    """Write the report page.

    Args:
        page: the contents. ``title``, ``subtitle``, ``about`` (pairs of a name and a value),
            ``warnings``, ``notes``, ``headlines`` and ``sections`` (each with ``figures`` and
            ``tables``) become HTML here. The gallery's script shows ``task``
            ("tree", "classification" or "regression"), ``pictures`` (of which bands they
            are, '' where there is nothing to tell), ``questions`` and ``galaxies``.

            A question has ``name``, ``answers``, ``beats_constant`` (whether its answers are better
            than a constant's) and ``asked_after``: the answers that lead to it, as numbers that
            count the answers of all questions in order.

            A galaxy has ``id``, ``image`` (a data URI or None) and ``error`` (larger is worse). For
            trees and classes it has ``fractions``, ``lower`` and ``upper`` with one value per
            answer, and ``asked`` with one value per question. Further it has ``votes`` (tree),
            ``label`` (classification), or ``predicted`` and ``truth`` (regression).
    """
    parts = {
        "TITLE": html.escape(page["title"]),
        "SUBTITLE": html.escape(page["subtitle"]),
        "ABOUT": _about(page["about"]),
        "WARNINGS": "".join(
            f'<p class="warning" role="note">{html.escape(each)}</p>' for each in page["warnings"]
        ),
        "NOTES": _list("notes", [html.escape(note) for note in page["notes"]]),
        "HEADLINES": _headlines(page["headlines"]),
        "CONTENTS": _contents(page["sections"], bool(page["galaxies"])),
        "SECTIONS": "\n".join(_section(i, each) for i, each in enumerate(page["sections"])),
        "DATA": _script_json(
            {key: page[key] for key in ("task", "pictures", "questions", "galaxies")}
        ),
    }
    template = TEMPLATE.read_text("utf-8")
    script = re.search(r"<script>(.*?)</script>", template, re.DOTALL)[1]
    parts["SCRIPT"] = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # All at once: a text like @@TITLE@@ inside the data is not replaced.
    text = re.sub(r"@@([A-Z]+)@@", lambda found: parts[found[1]], template)
    write_text(path, text.encode("ascii", "xmlcharrefreplace").decode())


def thumbnail(image: Image.Image, side_px: int = 160) -> str:
    """The central square of an image, as a small JPEG in a data URI: its pixels and no more."""
    square = ImageOps.fit(image.convert("RGB"), (side_px, side_px), Image.Resampling.LANCZOS)
    file, square = io.BytesIO(), Image.fromarray(np.asarray(square))  # without the image's comment
    square.save(file, format="JPEG", quality=85)
    return _data_uri("image/jpeg", file.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _plain(value: Any) -> Any:
    """The value in JSON types: floats have 5 digits, NaN and infinities become None."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def _script_json(value: Any) -> str:
    """The value as JSON that is safe inside a script element."""
    text = json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _list(css_class: str, items: list[str]) -> str:
    rows = "".join(f"<li>{item}</li>" for item in items)
    return f'<ul class="{css_class}">{rows}</ul>' if rows else ""


def _about(about: list[tuple[str, str]]) -> str:
    rows = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in about
    )
    return f'<dl class="about">{rows}</dl>' if rows else ""


def _headlines(headlines: list[dict]) -> str:
    tiles = "".join(
        f"<div{' class=weak' if tile['is_weak'] else ''}><dt>{html.escape(tile['label'])}</dt>"
        f"<dd>{html.escape(tile['value'])}"
        f"<small>{html.escape(tile['detail'])}</small></dd></div>"
        for tile in headlines
    )
    return f'<dl class="headlines">{tiles}</dl>' if tiles else ""


def _contents(sections: list[dict], gallery: bool) -> str:
    links = ['<a href="#gallery">Look at galaxies</a>'] if gallery else []
    links += [
        f'<a href="#section-{i}">{html.escape(section["title"])}</a>'
        for i, section in enumerate(sections)
    ]
    return f'<nav aria-label="Contents">{_list("contents", links)}</nav>' if links else ""


def _section(index: int, section: dict) -> str:
    paragraphs = [each for each in section["text"].split("\n\n") if each.strip()]
    figures = "".join(_figure(figure) for figure in section["figures"])
    return "\n".join(
        [
            f'<section id="section-{index}">',
            f"<h2>{html.escape(section['title'])}</h2>",
            *(f"<p>{html.escape(each)}</p>" for each in paragraphs),
            f'<div class="figures">{figures}</div>' if figures else "",
            *(_table(table) for table in section["tables"]),
            "</section>",
        ]
    )


def _figure(figure: dict) -> str:
    name = html.escape(Path(figure["file"]).stem.replace("_", " "))
    width, _ = Image.open(io.BytesIO(figure["png"])).size
    wide = " class=wide" if width > WIDE_PX else ""
    image = f'<img src="{_data_uri("image/png", figure["png"])}" alt="{name}">'
    narrow = _data_uri("image/png", figure["narrow"])
    return (
        f'<figure{wide}><picture><source media="{PHONE}" srcset="{narrow}">{image}</picture>'
        f"<figcaption>{html.escape(figure['caption'])}</figcaption></figure>"
    )


def _table(table: dict) -> str:
    rows = [[_shown(value) for value in row] for row in table["rows"]]
    numeric = [any(map(_is_number, column)) for column in zip(*rows, strict=True)]
    numeric = numeric or [False] * len(table["columns"])
    head = _row("th", table["columns"], numeric)
    body = "\n".join(_row("td", row, numeric, table["columns"]) for row in rows)
    caption = html.escape(table["caption"])
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">'
        f"<table><caption>{caption}</caption>\n"
        f"<thead>{head}</thead>\n<tbody>{body}</tbody></table></div>"
    )


def _shown(value: Any) -> Any:
    """The value of a table cell: text, a number, or None."""
    is_infinite = isinstance(value, float) and math.isinf(value)
    return "\N{INFINITY}" if is_infinite else _plain(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _row(tag: str, values: list, numeric: list[bool], names: list[str] | None = None) -> str:
    """A table row of ``td`` or ``th`` cells. Numeric columns get the class "number".

    Args:
        names: of the columns, which a phone shows beside each value.
    """
    cells = []
    for i, (value, right) in enumerate(zip(values, numeric, strict=True)):
        shown = f' data-name="{html.escape(names[i])}"' if names else ""
        right = " class=number" if right else ""
        cells.append(f"<{tag}{right}{shown}>{html.escape(_cell(value))}</{tag}>")
    return f"<tr>{''.join(cells)}</tr>"


def _cell(value: Any) -> str:
    """The text of a table cell."""
    if value is None:
        return NO_VALUE
    return f"{value:.3f}" if isinstance(value, float) else str(value)
