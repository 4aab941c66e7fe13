"""Who may import what, and when: read from the source, and seen in a fresh process."""

import ast
import re
import subprocess
import sys
from itertools import pairwise
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
FLOWS_ALONE = {"prefect", "fastapi", "sqlalchemy", "psutil", "pydantic", "rich", "uvicorn"}
"""What the extra `flows` of pyproject.toml installs."""
FORBIDDEN = {
    "goodnet": {"tasks", "flows", *FLOWS_ALONE},
    "tasks": {"flows"},
    "flows": {"keras", "h5py", "tensorflow"},
}
HEAVY = {"tensorflow", "keras"}
FLOOR = {
    "storage": 1,
    "images": 2,
    "networks": 3,
    "attacks": 4,
    "model_files": 4,
    "pruning": 5,
    "defenses": 6,
    "reports": 7,
}
"""Each room of goodnet imports from the floors below its own."""
GROUND = {
    "arrays",
    "errors",
    "heavy_imports",
    "metrics",
    "progress",
    "stop_signals",
    "tensorflow_start",
    "threads",
}
"""Modules at the root that every room may import; the others there may import every room."""
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


def rooms_in(module):
    """Yield what a module of goodnet imports from it: the names behind `goodnet.`."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "goodnet":
            _, *path = node.module.split(".")
            yield from path[:1] or (alias.name for alias in node.names)


def test_rooms_import_from_the_floors_below():
    rooms = {path.name for path in (ROOT / "goodnet").iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(FLOOR)
    for room in rooms:
        for module in (ROOT / "goodnet" / room).glob("*.py"):
            above = {
                name
                for name in set(rooms_in(module)) - GROUND - {room}
                if FLOOR.get(name, len(FLOOR)) >= FLOOR[room]
            }
            assert not above, f"{room}/{module.name} imports {above}"


def test_the_picture_of_the_rooms_is_true():
    """Its arrows lead to floors below, and to everything that a room imports."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    picture = re.sub(r'\[".*?"\]', "", page.split("```mermaid")[1].split("```")[0])
    arrows = {pair for line in picture.splitlines() for pair in pairwise(line.split(" --> "))}
    arrows = {(above.strip(), below.strip()) for above, below in arrows}
    reached = {room: {below for above, below in arrows if above == room} for room in FLOOR}
    for room in sorted(FLOOR, key=FLOOR.get):
        reached[room] |= {far for near in reached[room] & set(FLOOR) for far in reached[near]}
    for room, found in reached.items():
        assert found - {"ground"} <= {below for below in FLOOR if FLOOR[below] < FLOOR[room]}
        for module in (ROOT / "goodnet" / room).glob("*.py"):
            assert set(rooms_in(module)) - GROUND - {room} <= found, module


def test_the_ground_imports_no_room():
    for name in GROUND:
        found = set(rooms_in(ROOT / "goodnet" / f"{name}.py"))
        assert found <= GROUND, name


@pytest.mark.parametrize("package", FORBIDDEN)
def test_tensorflow_is_imported_inside_functions_only(package):
    for module in (ROOT / package).rglob("*.py"):
        tree = ast.parse(module.read_text("utf-8"))
        assert not HEAVY & set(imports_of(tree.body)), module.name


@pytest.mark.parametrize("statement", ["import goodnet", "import flows.run", "import flows.repair"])
@pytest.mark.slow
def test_importing_loads_no_tensorflow(statement):
    probe = f"{statement}; import sys; print('tensorflow' in sys.modules, 'keras' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["False", "False"]


def test_every_command_has_the_parser_that_escapes_what_it_complains_of():
    sources = [ROOT / "eval.py"]
    for package in (*FORBIDDEN, "benchmarks"):
        sources += (ROOT / package).rglob("*.py")
    for source in sources:
        assert "ArgumentParser(" not in source.read_text("utf-8"), source


def test_selection_is_never_handed_another_set():
    clean_test = EvaluationSet(role="clean_test", file=FILE, num_images=1)
    with pytest.raises(TypeError, match="clean validation only, not a EvaluationActivations"):
        rank_channels.fn(EvaluationActivations(images=clean_test, parts=(FILE,)))
    with pytest.raises(TypeError, match="clean validation only, not a EvaluationSweep"):
        find_checkpoints.fn(EvaluationSweep(role="poisoned_test", file=FILE), (2.0,), ())


def test_an_evaluation_set_cannot_pass_for_clean_validation():
    with pytest.raises(ValueError, match="role"):
        CleanValidation(role="clean_test", file=FILE, num_images=1)
    with pytest.raises(ValueError, match="role"):
        CleanValidationSweep(role="poisoned_test", file=FILE)
    with pytest.raises(ValueError, match="CleanValidation"):
        CleanValidationActivations(
            images=EvaluationSet(role="clean_test", file=FILE, num_images=1), parts=(FILE,)
        )


def test_every_cached_stage_counts_for_the_versions():
    """An audit repairs a net again when one of them has changed."""
    import pkgutil
    from importlib import import_module

    from prefect import Task

    import tasks
    from tasks.caching import StageInputs
    from tasks.versions import CACHED_STAGES, stage_versions

    modules = [import_module(f"tasks.{one.name}") for one in pkgutil.iter_modules(tasks.__path__)]
    found = {
        value.name
        for module in modules
        for value in vars(module).values()
        if isinstance(value, Task) and isinstance(value.cache_policy, StageInputs)
    }
    assert found == {stage.name for stage in CACHED_STAGES} == set(stage_versions())
