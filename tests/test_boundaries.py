"""Who may import what, and when: read from the source, and seen in a fresh process."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.checkpoints import find_checkpoints
from tasks.ranking import rank_channels
from tasks.records import (
    CleanValidation,
    CleanValidationActivations,
    CleanValidationSweep,
    EvaluationActivations,
    EvaluationSet,
    EvaluationSweep,
    StoredFile,
)

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "goodnet": {"prefect", "tasks", "flows"},
    "tasks": {"flows"},
    "flows": {"keras", "h5py", "tensorflow"},
}
HEAVY = {"tensorflow", "keras"}
FILE = StoredFile(path=Path("file"), size=1, sha256="0" * 64)


def imports_of(nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_go_one_way(package):
    modules = list((ROOT / package).rglob("*.py"))
    assert modules
    for module in modules:
        tree = ast.parse(module.read_text("utf-8"))
        assert not FORBIDDEN[package] & set(imports_of(ast.walk(tree))), module.name


@pytest.mark.parametrize("package", FORBIDDEN)
def test_tensorflow_is_imported_inside_functions_only(package):
    for module in (ROOT / package).rglob("*.py"):
        tree = ast.parse(module.read_text("utf-8"))
        assert not HEAVY & set(imports_of(tree.body)), module.name


@pytest.mark.parametrize("statement", ["import goodnet", "import flows.run", "import flows.repair"])
def test_importing_loads_no_tensorflow(statement):
    probe = f"{statement}; import sys; print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["False", "False"]


def test_selection_is_never_handed_another_set():
    clean_test = EvaluationSet(role="clean_test", file=FILE, num_images=1)
    with pytest.raises(TypeError, match="clean validation only, not a EvaluationActivations"):
        rank_channels.fn(EvaluationActivations(images=clean_test, file=FILE))
    with pytest.raises(TypeError, match="clean validation only, not a EvaluationSweep"):
        find_checkpoints.fn(EvaluationSweep(role="poisoned_test", file=FILE), (2.0,))


def test_an_evaluation_set_cannot_pass_for_clean_validation():
    with pytest.raises(ValueError, match="role"):
        CleanValidation(role="clean_test", file=FILE, num_images=1)
    with pytest.raises(ValueError, match="role"):
        CleanValidationSweep(role="poisoned_test", file=FILE)
    with pytest.raises(ValueError, match="CleanValidation"):
        CleanValidationActivations(
            images=EvaluationSet(role="clean_test", file=FILE, num_images=1), file=FILE
        )
