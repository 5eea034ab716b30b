"""README and docs/: every block of Python or commands runs, or says why it does not."""

import importlib
import shutil

import huggingface_hub.constants
import matplotlib
import pytest
from conftest import REPO

pytest.importorskip("astropy", reason="pages show FITS files too")
from documented_blocks import Block, blocks, commands, make_files, our_script

PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
LANGUAGES = {"", "bash", "python", "json", "yaml", "text", "diff"}
BLOCKS = {page: blocks(page) for page in PAGES}
RUN = [page for page in PAGES if any(b.is_code and b.not_run is None for b in BLOCKS[page])]


def name(page):
    return str(page.relative_to(REPO))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files that readers have, made once; a test works on a copy."""
    folder = tmp_path_factory.mktemp("reader")
    make_files(folder)
    return folder


@pytest.fixture
def reader(files, tmp_path, monkeypatch):
    """The folder in which a page's blocks run, with the hub's cache, and without a network."""
    folder = tmp_path / "reader"
    shutil.copytree(files, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(matplotlib, "use", lambda *_: None)
    return folder


@pytest.mark.parametrize("page", RUN, ids=name)
def test_the_blocks_of_a_page_run_one_after_another(page, reader):
    names = {"__name__": "__main__"}
    for block in BLOCKS[page]:
        if block.is_code and block.not_run is None:
            block.run(names)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_in_commands_are_known_and_what_does_not_run_says_why(page):
    for block in BLOCKS[page]:
        assert block.language in LANGUAGES, f"{block}: what language is {block.language!r}?"
        assert block.not_run is None or len(block.not_run) > 10, f"{block}: say why it is not run"
        if block.language == "python":
            compile(block.code, str(block), "exec")
        elif block.is_code:
            check_options(block)


def check_options(block: Block):
    for words in commands(block.code):
        script, arguments = our_script(words)
        if script is not None:
            if "--config" in arguments:  # a file of the reader's
                del arguments[(at := arguments.index("--config")) : at + 2]
            importlib.import_module(script).parse(arguments)
