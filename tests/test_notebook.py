import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "lab.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    """Run the notebook where it lies, with this interpreter and nothing of the user's."""
    jupyter = tmp_path_factory.mktemp("jupyter")
    kernel = jupyter / "kernels" / "tested" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": start, "display_name": "", "language": "python"}))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(jupyter))
        patch.delenv("PYTHONPATH", raising=False)
        for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
            patch.setenv(name, str(jupyter / name))
        where = {"metadata": {"path": str(NOTEBOOK.parent)}}
        NotebookClient(notebook, kernel_name="tested", timeout=300, resources=where).execute()
    return notebook


def outputs_of(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def number_after(title: str, notebook: nbformat.NotebookNode) -> float:
    texts = [output.get("data", {}).get("text/plain", "") for output in outputs_of(notebook)]
    (found,) = re.findall(rf"^{title}\s+([\d.]+)$", "\n".join(texts), re.MULTILINE)
    return float(found)


@pytest.mark.slow
def test_the_badnet_is_good_and_backdoored(executed: nbformat.NotebookNode):
    assert number_after("clean accuracy", executed) >= 0.9
    assert number_after("attack success rate", executed) >= 0.9


@pytest.mark.slow
def test_the_goodnet_in_the_end_is_the_one_in_the_table(executed: nbformat.NotebookNode):
    page = "\n".join(output.get("data", {}).get("text/html", "") for output in outputs_of(executed))
    (row,) = re.findall(r"<th>G at 4 %</th>(.*?)</tr>", page, re.DOTALL)
    *_, detection, false_alarms = re.findall(r"<td>([\d.]+) %</td>", row)
    for title, percent in (("detection rate", detection), ("false-alarm rate", false_alarms)):
        assert number_after(title, executed) == pytest.approx(float(percent) / 100, abs=1e-4)


@pytest.mark.slow
def test_every_plot_and_picture_is_there_and_nothing_else_is_said(executed: nbformat.NotebookNode):
    outputs = outputs_of(executed)
    assert [output for output in outputs if output.output_type in ("stream", "error")] == []
    kinds = [kind for output in outputs for kind in output.data]
    assert kinds.count("image/svg+xml") == 5
    assert kinds.count("image/png") >= 3


def test_committed_notebook_is_clean():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert outputs_of(notebook) == []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count is None for cell in code)
    assert max(len(cell.source.splitlines()) for cell in code) <= 25
    assert not re.search(r"/(home|root|Users|work|tmp)/", NOTEBOOK.read_text())
