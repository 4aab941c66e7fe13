import ast
import inspect
import pkgutil
import pydoc
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import goodnet

REPOSITORY = Path(__file__).resolve().parents[1]
ROOMS = sorted(path.parent.name for path in REPOSITORY.glob("goodnet/*/__init__.py"))


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


PACKAGES = ["goodnet", *(f"goodnet.{room}" for room in ROOMS)]


def stub_homes(package):
    """The module of each public name of a package, as type checkers read it."""
    path = Path(import_module(package).__file__).with_suffix(".pyi")
    return {
        alias.asname: f"{package}.{node.module}"
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there_and_listed(package):
    module, homes = import_module(package), stub_homes(package)
    assert sorted(module.__all__) == sorted(homes)
    assert set(homes) <= set(dir(module))
    everything: dict = {}
    exec(f"from {package} import *", everything)  # noqa: S102
    for name, home in homes.items():
        found = everything[name]
        assert found is getattr(module, name) is getattr(import_module(home), name)
        # A module of that name would take the place of what it holds once it is imported.
        assert not isinstance(found, ModuleType)
        assert f"{package}.{name}" not in sys.modules


@pytest.mark.slow
def test_mypy_knows_the_types_of_public_names(tmp_path):
    names = [f"{package}.{name}" for package in PACKAGES for name in stub_homes(package)]
    imports = [f"import {package}" for package in PACKAGES]
    source = [*imports, *(f"reveal_type({name})" for name in [*names, "goodnet.__version__"])]
    (tmp_path / "user.py").write_text("\n".join(source))
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", tmp_path / "user.py"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    types = re.findall(r'note: Revealed type is "(.*)"', found.stdout)
    known = dict(zip([*names, "version"], types, strict=True))
    assert known["goodnet.open_images"].endswith("ImageSet")
    assert known["goodnet.accuracy"].endswith("-> float")
    assert known["version"] == "str"
    assert "Any" not in known.values()


def test_no_public_signature_says_any():
    signatures = {name: str(inspect.signature(one)) for name, one in public_functions()}
    assert "-> 'pandas.DataFrame | pa.Table'" in signatures["Repair.table"]
    assert not {name: found for name, found in signatures.items() if "Any" in found}


def public_functions():
    for name in goodnet.__all__:
        found = getattr(goodnet, name)
        if isinstance(found, FunctionType):
            yield name, found
        elif isinstance(found, type):
            yield name, found.__init__
            for part, its in vars(found).items():
                its = its.fget if isinstance(its, property) else getattr(its, "__func__", its)
                if isinstance(its, FunctionType) and not part.startswith("_"):
                    yield f"{name}.{part}", its


def test_the_version_is_that_of_the_project():
    assert goodnet.__version__ in ("unknown", version("goodnet"))
    assert "__version__" in dir(goodnet)


def test_no_public_name_hides_a_module():
    modules = {module.name for module in pkgutil.iter_modules(goodnet.__path__)}
    assert "pruning" in modules
    assert not modules & set(goodnet.__all__)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_text_or_a_path(kind, tmp_path):
    import keras
    import numpy as np
    from keras import layers

    keras.utils.set_random_seed(4)
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(4, 2, activation="relu", name="conv")(image)
    net = keras.Model(image, layers.Dense(3, activation="softmax")(layers.Flatten()(x)))
    net_file, images_file, cache_file, curves_file = (
        kind(tmp_path / name) for name in ("net.keras", "set.h5", "cache.parquet", "curves.parquet")
    )
    goodnet.save_model(net, net_file)
    goodnet.write_images(images_file, np.zeros((6, 4, 4, 3), np.uint8), np.arange(6) % 3)
    images = goodnet.open_images(images_file)
    found = goodnet.load_model(net_file)
    frontier = goodnet.find_frontier(found, layer="conv", rank_at="conv")
    provenance = goodnet.Provenance(
        model=goodnet.digest_file(net_file).sha256,
        images=goodnet.digest_file(images_file).sha256,
        layer="conv",
        rank_at="conv",
        preprocessing=goodnet.Preprocessing(),
        num_classes=3,
    )
    written = goodnet.write_activations(
        cache_file, frontier=frontier, images=images, provenance=provenance
    )
    cache = goodnet.ActivationCache(cache_file)
    assert cache == written
    counts = goodnet.sweep(cache, frontier=frontier, order=[2, 0, 1, 3])
    goodnet.write_curves(
        curves_file, "clean_valid", {"pruned": counts}, order=[2, 0, 1, 3], means=np.zeros(4)
    )
    assert Path(curves_file).is_file()


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="No goodnet attribute no_such_thing"):
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
