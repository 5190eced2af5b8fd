"""Every notebook runs from the top, and what is stored of it is a clean run.

A notebook that needs a mark says so in its metadata, such as `{"pytest": {"marks": ["slow"]}}`: `slow` for more than
thirty seconds, `real_model` for the embedded model.
"""

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ABSOLUTE_PATH = re.compile(r"""(?:^|[\s"'(=])(?:/|[A-Z]:\\)[\w.-]+[/\\]\w""", re.MULTILINE)


def marked(path):
    names = nbformat.read(path, as_version=4).metadata.get("pytest", {}).get("marks", [])
    return pytest.param(path, id=path.stem, marks=[getattr(pytest.mark, name) for name in names])


@pytest.mark.parametrize("path", [marked(path) for path in NOTEBOOKS])
def test_notebook_runs(path, tmp_path, monkeypatch):
    for folder in ("notebooks", "examples"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(tmp_path / "notebooks" / path.name, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path / "notebooks"}}).execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_a_clean_run(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for output in (output for cell in cells for output in cell.outputs):
        assert output.output_type != "error"
        assert output.get("name") != "stderr"
        shown = output.get("text", "") + "".join(
            output.get("data", {}).get(kind, "") for kind in ("text/plain", "text/html")
        )
        assert not ABSOLUTE_PATH.search(shown)
