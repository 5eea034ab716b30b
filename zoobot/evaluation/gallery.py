"""Write a page of galaxies with a line under each, in the style of the report's page.

The page is one ASCII file of static HTML. It loads nothing, and runs no script.
"""

import html
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from zoobot.evaluation.page import TEMPLATE, thumbnail
from zoobot.evaluation.pictures import Pictures
from zoobot.system.files import write_text

OWN_STYLE = """
.shown { display: grid; gap: .9rem .6rem; margin: 1.5rem 0;
  grid-template-columns: repeat(auto-fill, minmax(8.2rem, 1fr)); }
.shown figure { font-size: .85rem; line-height: 1.35; min-width: 0; }
.shown figure.first .image { outline: 3px solid var(--accent); outline-offset: -3px; }
.shown .image img { max-width: none; }
.shown .number { text-align: left; color: var(--ink); }
@media (max-width: 480px) {
  .shown { grid-template-columns: repeat(auto-fill, minmax(6.2rem, 1fr)); }
}
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"


def write_gallery(
    path: str | Path,
    title: str,
    notes: Sequence[str],
    galaxies: Sequence[tuple[str, str]],
    catalog: pd.DataFrame,
    pictures: Pictures,
    where: str,
    *,
    is_first_the_query: bool = False,
) -> None:
    """Write the page, and warn of galaxies without a picture.

    Args:
        notes: lines below the title.
        galaxies: ids, and the line under each picture, in order.
        catalog: with ``id_str``, and ``file_loc`` or ``image``.
        pictures: how galaxies are shown.
        where: what the catalog is called.
        is_first_the_query: mark the first galaxy as the one that the others are like.
    """
    notes = [*notes, f"Pictures: {pictures.caption}" if pictures.caption else ""]
    pictures = pictures.balanced_on(catalog)
    rows = pd.Index(catalog["id_str"].astype(str)).get_indexer([id_str for id_str, _ in galaxies])
    figures, num_shown = [], 0
    for i, ((id_str, told), row) in enumerate(zip(galaxies, rows, strict=True)):
        image = pictures.read(catalog.iloc[row]) if row >= 0 else None
        num_shown += image is not None
        first = " class=first" if is_first_the_query and i == 0 else ""
        seen = "no image" if image is None else f'<img src="{thumbnail(image)}" alt="">'
        figures.append(
            f'<figure{first}><div class="image">{seen}</div><figcaption>'
            f'<div class="number">{html.escape(told)}</div>{html.escape(id_str)}'
            "</figcaption></figure>"
        )
    style = re.search(r"<style>(.*?)</style>", TEMPLATE.read_text("utf-8"), re.DOTALL)[1]
    lines = "".join(f"<li>{html.escape(note)}</li>" for note in notes if note)
    text = "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title>",
            f"<style>{style}{OWN_STYLE}</style>\n</head>\n<body>",
            f'<header><h1>{html.escape(title)}</h1><ul class="notes">{lines}</ul></header>',
            f'<main class="shown">{"".join(figures)}</main>\n</body>\n</html>\n',
        ]
    )
    write_text(path, text.encode("ascii", "xmlcharrefreplace").decode())
    print(f"page {path}")
    if num_shown < len(galaxies):
        print(
            f"warning: {len(galaxies) - num_shown} of {len(galaxies)} galaxies have no picture: "
            f"they are not in {where}, or their images can't be read",
            file=sys.stderr,
        )
