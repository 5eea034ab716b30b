"""Pages of the site that are no Markdown files in docs/: the README and its like, and notebooks.

MkDocs calls the functions that begin with ``on_`` (``mkdocs.yml``, ``hooks``). Links are written
such that a code host follows them. Here those that leave ``docs/`` are changed to the site's.
"""

import base64
import json
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

REPO = Path(__file__).parent.parent
# Files beside docs/ -> what they are called in the site.
BESIDE_DOCS = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "tests/README.md": "tests.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "LICENSE.txt",
    "CITATION.cff": "CITATION.cff",
}
COLAB = "https://colab.research.google.com/github"
LINK = re.compile(r"(\]\(|src=\")([^)\s\"#:]+)(?=[)#\"])")
FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def on_config(config):
    """Leave pages out of the navigation that are not there."""
    config.nav = _present(config.nav)
    return config


def _present(items: list) -> list:
    kept = []
    for item in items:
        ((title, target),) = item.items()
        if isinstance(target, list):
            kept.append({title: _present(target)})
        elif (REPO / _source(target)).exists():
            kept.append(item)
    return kept


def _source(site_path: str) -> str:
    """The file, relative to the repository, from which a page of the site is made."""
    beside = {site: repo for repo, site in BESIDE_DOCS.items()}
    if site_path in beside:
        return beside[site_path]
    if posixpath.dirname(site_path) == "notebooks":
        site_path = site_path.removesuffix(".md") + ".ipynb"
    return f"docs/{site_path}"


def on_files(files, config):
    """Add the files beside docs/, and a page for each notebook."""
    for repo_path, site_path in BESIDE_DOCS.items():
        if (REPO / repo_path).exists():
            files.append(File.generated(config, site_path, abs_src_path=str(REPO / repo_path)))
    for notebook in sorted((REPO / "docs/notebooks").glob("*.ipynb")):
        text, pictures = notebook_page(notebook, config.repo_url)
        page = f"notebooks/{notebook.stem}.md"
        files.append(File.generated(config, page, content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """Change the links that leave docs/ to those of the site."""
    return site_links(markdown, _source(page.file.src_uri), page.file.src_uri)


def site_links(markdown: str, source: str, site_path: str) -> str:
    """``markdown`` of the repository's file ``source`` with links that hold in the site."""

    def change(match: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        if target in BESIDE_DOCS:
            target = BESIDE_DOCS[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
            if source != f"docs/{target}":  # a notebook's own page links to the file
                target = re.sub(r"^(notebooks/.*)\.ipynb$", r"\1.md", target)
        else:
            return match[0]
        return match[1] + posixpath.relpath(target, posixpath.dirname(site_path) or ".")

    parts = FENCE.split(markdown)
    return "".join(p if p.startswith("```") else LINK.sub(change, p) for p in parts)


def notebook_page(path: Path, repo_url: str | None) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by name. It is shown as it was last run.

    With ``repo_url``, on GitHub, it has a link that opens it in Colab.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts, pictures = [], {}
    for cell in cells:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", ()):
            shown = output.get("data", {})
            if "image/png" in shown:
                name = f"{path.stem}-{len(pictures)}.png"
                pictures[name] = base64.b64decode("".join(shown["image/png"]))
                parts.append(f"![Output of the cell above]({name})")
            elif output.get("name") == "stderr":
                continue
            elif text := "".join(output.get("text", shown.get("text/plain", ()))).rstrip():
                parts.append(f"```text\n{text}\n```")
    note = f"This page is a notebook: [download it]({path.name})"
    if repo_url and "github.com/" in repo_url:
        repo = repo_url.partition("github.com/")[2].strip("/")
        note += f", or [open it in Colab]({COLAB}/{repo}/blob/main/docs/notebooks/{path.name})"
    title, *rest = parts
    return "\n\n".join([title, f"{note}.", *rest]) + "\n", pictures
