"""The notebooks of docs/notebooks run from top to bottom, and are kept with small outputs.

``python tests/scripts/test_notebooks.py`` runs them and keeps their outputs.
"""

import os
import re
import tempfile
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks are run with [docs] alone")
nbclient = pytest.importorskip("nbclient", reason="notebooks are run with [docs] alone")
pytest.importorskip("ipykernel", reason="notebooks are run with [docs] alone")

REPO = Path(__file__).parents[2]
NOTEBOOKS = sorted((REPO / "docs" / "notebooks").glob("*.ipynb"))


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return [o for o in outputs if "image/png" in o.get("data", {})]


def run(notebook, folder):
    """Run all cells in a folder; an error in one is raised."""
    where = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=where).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_an_empty_folder(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    notebook = nbformat.read(path, as_version=4)
    kept = len(pictures(notebook))
    for cell in code_cells(notebook):  # what a model learns is not looked at here
        cell.source = re.sub(r"max_epochs=\d+", "max_epochs=2", cell.source)
    run(notebook, tmp_path)
    assert len(pictures(notebook)) == kept >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_as_it_ran_without_warnings_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    first, *others = code_cells(notebook)
    assert "google.colab" in first.source
    assert "pip install" in first.source
    for cell in others:
        assert cell.execution_count, f"not run: {cell.source:.60}"
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text
    assert path.stat().st_size < 400_000


if __name__ == "__main__":
    os.environ |= {"PYTHONWARNINGS": "ignore", "TQDM_DISABLE": "1", "PYTHONPATH": str(REPO)}
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            run(notebook, folder)
        nbformat.write(notebook, path)
