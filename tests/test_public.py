import ast
import pkgutil
import pydoc
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import goodnet

REPOSITORY = Path(__file__).resolve().parents[1]


def test_import_loads_nothing_heavy():
    code = (
        "import sys, goodnet; dir(goodnet); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    loaded = set(found.stdout.split())
    assert "goodnet" in loaded
    assert not loaded & {"tensorflow", "keras", "altair", "h5py", "pyarrow", "numpy", "PIL"}


def test_every_public_name_is_there_and_listed():
    assert len(goodnet.__all__) == len(set(goodnet.__all__)) > 20
    assert set(goodnet.__all__) <= set(dir(goodnet))
    everything: dict = {}
    exec("from goodnet import *", everything)  # noqa: S102
    for name in goodnet.__all__:
        home = import_module(f"goodnet.{goodnet._HOMES[name]}")
        assert everything[name] is getattr(goodnet, name) is getattr(home, name)


def test_type_checkers_see_the_names_that_are_there():
    tree = ast.parse(Path(goodnet.__file__).read_text("utf-8"))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module.removeprefix("goodnet.")
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == goodnet._HOMES


def test_mypy_knows_the_types_of_public_names(tmp_path):
    source = "import goodnet\nreveal_type(goodnet.open_images)\nreveal_type(goodnet.accuracy)\n"
    (tmp_path / "user.py").write_text(source)
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", tmp_path / "user.py"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "ImageSet" in found.stdout
    assert "-> float" in found.stdout


def test_the_version_is_that_of_the_project():
    assert goodnet.__version__ in ("unknown", version("goodnet"))


def test_no_public_name_hides_a_module():
    modules = {module.name for module in pkgutil.iter_modules(goodnet.__path__)}
    assert "pruning" in modules
    assert not modules & set(goodnet.__all__)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'goodnet' has no attribute 'no_such_thing'"):
        _ = goodnet.no_such_thing
    with pytest.raises(ImportError):
        exec("from goodnet import no_such_thing")  # noqa: S102


def test_pydoc_shows_every_name_with_its_description():
    page = pydoc.plain(pydoc.render_doc(goodnet))
    overview = goodnet.__doc__ or ""
    for name in goodnet.__all__:
        assert name in overview, "the overview names all"
        assert name in page.partition(overview.splitlines()[-1])[2]
    assert "Find how the channels of `layer` reach the answer of `model`." in page
