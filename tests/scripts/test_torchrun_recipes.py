"""Recipes with torchrun meet by its static rendezvous: the other unpickles what strangers send."""

import re
import shlex

import pytest
from conftest import REPO
from torch.distributed.run import get_args_parser

PAGES = [
    *sorted((REPO / "docs").glob("*.md")),
    *(REPO / f"{n}.py" for n in ("train", "finetune", "predict")),
]
RECIPE = re.compile(
    r"^ *(?:srun bash -c ')?(?:exec )?torchrun (--(?:[^\n]*\\\n)*[^\n]*)", re.MULTILINE
)


def recipes(page):
    text = page.read_text("utf-8").replace("\\\\\n", "\\\n")
    return [found[1].replace("\\\n", " ").partition(".py ")[0] for found in RECIPE.finditer(text)]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if recipes(page)], ids=lambda page: page.name
)
def test_a_recipe_names_a_port_and_so_no_process_unpickles_what_it_is_sent(page):
    parser = get_args_parser()
    if "--shutdown-timeout" not in parser.format_help():
        pytest.skip("torchrun of torch 2.11 has no --shutdown-timeout")
    for recipe in recipes(page):
        words = shlex.split(recipe.replace("$SLURM_NNODES", "4").replace("$SLURM_NODEID", "0"))
        told = parser.parse_args(words)
        assert told.rdzv_backend == "static"
        assert not told.standalone
        assert told.master_port is not None  # without it torchrun takes c10d on one node
        assert told.nnodes == "1:1" or told.master_addr != "127.0.0.1"


def test_there_are_recipes():
    assert sum(len(recipes(page)) for page in PAGES) >= 6
