"""Notebooks: both files of a pair are the same, without outputs, and begin with title, badge and install cell."""

from pathlib import Path

import jupytext
import nbformat
import pytest

from speech_jax.core.version import REPOSITORY

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted({path.stem for path in ROOT.glob("notebooks/[0-9]*")})
INSTALL = f"""# Install speech_jax, if it is not here yet (on Colab: takes a minute).
import importlib.util, os, subprocess, sys
if importlib.util.find_spec("speech_jax") is None:
    package = os.environ.get("SPEECH_JAX_PACKAGE", "speech_jax[synthetic] @ git+{REPOSITORY}")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)"""
each = pytest.mark.parametrize("name", NOTEBOOKS)


def contents(notebook: nbformat.NotebookNode) -> list[tuple[str, str, list[str]]]:
    return [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]


@each
def test_both_files_are_the_same(name):
    notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)
    text = jupytext.read(ROOT / f"notebooks/{name}.md")
    assert contents(notebook) == contents(text), "`make notebook-pairs` copies the newer one into the other"


@each
def test_no_outputs_are_committed(name):
    notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        assert cell.cell_type != "code" or (cell.outputs == [] and cell.execution_count is None), cell.source


@each
def test_first_cells(name):
    title, install = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4).cells[:2]
    path = REPOSITORY.removeprefix("https://github.com/")
    badge = f"https://colab.research.google.com/github/{path}/blob/main/notebooks/{name}.ipynb)"
    assert title.source.startswith("# ") and badge in title.source
    assert install.source == INSTALL


@each
def test_a_failing_command_fails_its_cell(name):
    """Shell cells begin with `%%bash -e`; lines with `!` fail without anybody noticing."""
    for cell in nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            lines = cell.source.splitlines()
            assert not [line for line in lines if line.startswith(("!", "%%sh", "%%bash")) and line != "%%bash -e"]
