import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "lab.ipynb"


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook where it lies, with this interpreter and nothing of the user's."""
    kernel = folder / "kernels" / "tested" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": start, "display_name": "", "language": "python"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        patch.delenv("PYTHONPATH", raising=False)
        for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
            patch.setenv(name, str(folder / name))
        where = {"metadata": {"path": str(NOTEBOOK.parent)}}
        NotebookClient(notebook, kernel_name="tested", timeout=300, resources=where).execute()
    return notebook


LESS_TRAINING = """
from goodnet.defenses import fine_tuning

fine_tuning.FEWEST_EPOCHS = fine_tuning.MOST_EPOCHS = 2
"""
"""A cell before the first: what is shown holds of any fine-tuned net."""


def train_less(notebook: nbformat.NotebookNode) -> None:
    notebook.cells.insert(0, nbformat.v4.new_code_cell(LESS_TRAINING))


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> nbformat.NotebookNode:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    train_less(notebook)
    return execute(notebook, tmp_path_factory.mktemp("jupyter"))


def outputs_of(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def texts_of(notebook: nbformat.NotebookNode, kind: str) -> str:
    return "\n".join(output.get("data", {}).get(kind, "") for output in outputs_of(notebook))


def table_of(notebook: nbformat.NotebookNode) -> dict[str, list[float]]:
    """The rates of each net, in points, as the first table shows them."""
    rows = re.findall(r"<tr><td>(.*?)</td>(.*?)</tr>", texts_of(notebook, "text/html"))
    return {net: [float(x) for x in re.findall(r"([\d.]+) %", cells)] for net, cells in rows}


@pytest.mark.slow
def test_the_badnet_is_good_and_backdoored(executed):
    clean_valid, clean_test, attack = table_of(executed)["B"]
    assert min(clean_valid, clean_test) >= 90
    assert attack >= 90


@pytest.mark.slow
def test_its_sentences_say_what_its_table_says(executed):
    table, said = table_of(executed), texts_of(executed, "text/markdown")
    goodnets = {net: rates for net, rates in table.items() if net.startswith("G budget")}
    assert len(goodnets) >= 2
    for net, (_, _, attack, detection, false_alarms) in goodnets.items():
        points = re.findall(r"[\d.]+", net)[0]
        (found,) = re.findall(rf"^- At budget {points} points G lets (.*)$", said, re.MULTILINE)
        rates = [float(rate) for rate in re.findall(r"([\d.]+)%", found)]
        assert rates == pytest.approx([attack, detection, false_alarms], abs=0.051)
    (loaded,) = re.findall(r"the loaded G flags (.*)$", said, re.MULTILINE)
    flagged, low, high, alarms = (float(rate) for rate in re.findall(r"([\d.]+)%", loaded))
    assert [flagged, alarms] == pytest.approx([detection, false_alarms], abs=0.051)
    assert low <= flagged <= high


@pytest.mark.slow
def test_every_plot_and_picture_is_there_and_nothing_else_is_said(executed):
    outputs = outputs_of(executed)
    assert [output for output in outputs if output.output_type in ("stream", "error")] == []
    kinds = [kind for output in outputs for kind in output.data]
    assert kinds.count("image/svg+xml") == 5
    assert kinds.count("image/png") >= 4


@pytest.mark.slow
def test_ones_own_files_can_be_put_in(faces_case, tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert cell.source.startswith("MODEL = None")
    files = [faces_case.model, faces_case.clean_valid, faces_case.clean_test]
    cell.source = (
        "MODEL, CLEAN_VALID, CLEAN_TEST, POISONED_TEST = "
        f"{[str(path) for path in (*files, faces_case.poisoned_test)]}\n"
        "OPTIONS = {'architecture': 'deepid'}"
    )
    train_less(notebook)
    executed = execute(notebook, tmp_path)
    assert "B" in table_of(executed)
    assert [output for output in outputs_of(executed) if output.output_type == "error"] == []


def test_committed_notebook_is_whole_and_names_no_machine():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert {output.output_type for output in outputs_of(notebook)} == {"execute_result"}
    assert sum(len(cell.outputs) for cell in code) >= len(code) - 3
    assert max(len(cell.source.splitlines()) for cell in code) <= 26
    assert not re.search(r"/(home|root|Users|work|tmp)/", NOTEBOOK.read_text())
