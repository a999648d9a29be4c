import nbformat
import pytest
from nbclient import NotebookClient


@pytest.fixture
def executed(readme, tmp_path, monkeypatch):
    """The quickstart with the numbers of its parameters cell made small, executed cell by cell."""
    notebook = nbformat.read(readme.checkout / "notebooks/01-quickstart.ipynb", as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source += "\nsteps, photos = 2, 2\n"
    monkeypatch.setenv("PYTHONPATH", str(readme.checkout))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the notebook makes its folder
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.slow
def test_the_quickstart_trains_shows_a_picture_and_reads_the_metrics(executed):
    shown = [output for cell in code_cells(executed) for output in cell.outputs]
    printed = "".join(output.text for output in shown if output.get("name") == "stdout")
    assert "2 steps" in printed and "eval/dense_f1@0.5" in printed and "->" in printed
    assert sum("image/png" in output.get("data", {}) for output in shown) == 1


def test_the_notebooks_are_stored_without_outputs(readme):
    paths = list((readme.checkout / "notebooks").glob("*.ipynb"))
    assert paths
    for path in paths:
        cells = code_cells(nbformat.read(path, as_version=4))
        assert all(cell.outputs == [] and cell.execution_count is None for cell in cells), path
