"""The documentation's site: built without a warning, links that lead somewhere, nothing fetched."""

import base64
import importlib.util
import json
import posixpath
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from conftest import REPO
from once import made_once

pytest.importorskip("mkdocs", reason="the site is built with [docs] alone")
pytest.importorskip("material", reason="the site is built with [docs] alone")
pytest.importorskip("mkdocstrings", reason="the site is built with [docs] alone")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site's folder."""
    return made_once(tmp_path_factory, "site", build_site)


def build_site(folder):
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    config = load_config(str(REPO / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)


@pytest.fixture(scope="module")
def pages():
    """docs/site_pages.py as a module."""
    spec = importlib.util.spec_from_file_location("site_pages", REPO / "docs" / "site_pages.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Links(HTMLParser):
    """What a page links to, what it loads, and the names within it that can be linked to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.names = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.names |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon"):
            self.loaded.append(given["href"])
        elif given.get("src"):
            self.loaded.append(given["src"])


def test_links_lead_to_a_page_and_a_place_in_it_and_nothing_is_fetched(site):
    parsed = {
        str(path.relative_to(site)): Links(path.read_text(encoding="utf-8"))
        for path in site.rglob("*.html")
        if path.name != "404.html"  # its links are from the server's root
    }
    assert {"index.html", "faq.html", "api/data.html", "changelog.html"} <= parsed.keys()
    lost = []
    for page, found in parsed.items():
        for link in found.links + found.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in found.loaded:
                    lost.append(f"{page} fetches {link}")
                continue
            target = posixpath.normpath(
                posixpath.join(posixpath.dirname(page), unquote(parts.path))
            )
            target = page if not parts.path else target
            if not (site / target).exists():
                lost.append(f"{page} -> {link}")
            elif parts.fragment and target in parsed:
                if unquote(parts.fragment) not in parsed[target].names:
                    lost.append(f"{page} -> {link}")
    assert not lost, "\n".join(lost)


def test_links_that_leave_docs_are_those_of_the_site(pages):
    text = (
        "[a](../README.md#results) [b](docs/x.md) `[c](../README.md)`\n```\n[d](../README.md)\n```"
    )
    changed = pages.site_links(text, "docs/results.md", "results.md")
    assert changed.startswith("[a](index.md#results) [b](docs/x.md)")
    assert changed.endswith("[d](../README.md)\n```")
    assert (
        pages.site_links("[a](docs/api/data.md#x)", "README.md", "index.md") == "[a](api/data.md#x)"
    )
    linked = pages.site_links("[n](notebooks/a.ipynb)", "docs/faq.md", "faq.md")
    assert linked == "[n](notebooks/a.md)"


def test_a_notebook_is_shown_as_it_was_last_run(pages, tmp_path):
    png = base64.b64encode(b"picture").decode()
    outputs = [
        {"data": {"image/png": png, "text/plain": ["<Figure>"]}},
        {"text": ["one\n", "two\n"]},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {"cell_type": "code", "source": ["draw()"], "outputs": outputs},
    ]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    text, pictures = pages.notebook_page(path, None)
    assert text.startswith("# Title\n\nThis page is a notebook: [download it](a.ipynb).\n")
    assert "```python\ndraw()\n```\n\n![Output of the cell above](a-0.png)" in text
    assert "```text\none\ntwo\n```" in text
    assert pictures == {"a-0.png": b"picture"}
    text, _ = pages.notebook_page(path, "https://github.com/someone/galaxies")
    assert "(https://colab.research.google.com/github/someone/galaxies/blob/main/docs/" in text
