"""Trained BadNets: one of rendered faces, which everybody has, and the lab's.

What a test asks of `badnet`, `badnet_case` or `passes` is asked of both.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from goodnet.storage.signatures import SignedFile

ROOT = Path(__file__).resolve().parent.parent
LAB = Path(os.environ.get("GOODNET_LAB") or ROOT.parent / "shared" / "lab")
"""The folder of the lab's real files; where there is none, tests marked `lab` are skipped."""
SETS = ("clean_valid", "clean_test", "poisoned_test")
LAYERS = {"layer": "conv_3", "rank_at": "pool_3", "pixel_scale": 1.0}


class BadnetCase(NamedTuple):
    """The files of a repair: the weights of a DeepID, and its sets of images."""

    model: Path
    clean_valid: Path
    clean_test: Path
    poisoned_test: Path

    @property
    def sets(self) -> dict[str, Path]:
        return {name: getattr(self, name) for name in SETS}


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("lab") and not LAB.is_dir():
        pytest.skip("needs the lab's files in shared/lab beside the checkout, or in $GOODNET_LAB")


@pytest.fixture(scope="session")
def lab() -> Path:
    """The folder of the lab's files; who asks for it is marked `lab`."""
    return LAB


@pytest.fixture(scope="session")
def lab_case(lab) -> BadnetCase:
    return BadnetCase(lab / "bd_weights.h5", *(lab / f"{name}_mini.h5" for name in SETS))


@pytest.fixture(scope="session")
def faces_case(tmp_path_factory) -> Iterator[BadnetCase]:
    """A BadNet that learnt eight rendered faces in seconds.

    It has 40 clean images of validation, 32 of the test and 28 with sunglasses. Where two processes
    share the tests, one of them trains it for both, and neither may so much as touch it: a run of
    the other one ends when its files change.
    """
    shared = shared_folder(tmp_path_factory)
    with (shared / "faces.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = shared / "faces"
        if not folder.exists():
            made = tmp_path_factory.mktemp("faces")
            train_on_faces(made)
            for path in made.iterdir():
                os.utime(path, (0, 0))  # Digests of what was written just now are not remembered.
            made.rename(folder)
    case = BadnetCase(folder / "badnet.weights.h5", *(folder / f"{name}.h5" for name in SETS))
    signed = [SignedFile.of(path) for path in case]
    yield case
    for file in signed:
        file.require_unchanged()


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for what one of the processes that share the tests makes for all."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def train_on_faces(folder: Path) -> None:
    from goodnet.attacks.default_case import TARGET, DefaultCase, render_sets
    from goodnet.attacks.training import train_badnet
    from goodnet.images.image_sets import write_images
    from goodnet.tensorflow_start import import_tensorflow

    import_tensorflow()
    case = DefaultCase(8, 30, 5, 4, epochs=10)
    sets = {name: (images, labels) for name, images, labels in render_sets(case)}
    net = train_badnet(*sets.pop("train"), target=TARGET, seed=case.seed, epochs=case.epochs)
    for name, (images, labels) in sets.items():
        write_images(folder / f"{name}.h5", images, labels)
    net.save_weights(folder / "badnet.weights.h5")


def load(case: BadnetCase) -> Any:
    from goodnet.model_files.load import load_model

    return load_model(case.model, architecture="deepid")


@pytest.fixture(scope="session")
def lab_net(lab_case):
    return load(lab_case)


@pytest.fixture(scope="session")
def faces_net(faces_case):
    return load(faces_case)


class FirstPass(NamedTuple):
    cache: Any
    frontier: Any
    images: Any


@pytest.fixture(scope="session")
def first_pass(tmp_path_factory) -> Callable[..., FirstPass]:
    """Run B over images, an array or a file, and give the cache, the frontier and the set."""

    def run(
        model,
        images,
        *,
        labels=None,
        layer="conv",
        rank_at="conv",
        pixel_scale=255.0,
        preprocessing=None,
    ) -> FirstPass:
        from goodnet.images.image_sets import open_images, write_images
        from goodnet.images.preprocessing import Preprocessing
        from goodnet.networks.graph import as_functional
        from goodnet.pruning.activation_cache import Provenance
        from goodnet.pruning.first_pass import write_activations
        from goodnet.pruning.frontier import find_frontier

        folder = tmp_path_factory.mktemp("first_pass")
        if not isinstance(images, Path):
            labels = np.arange(len(images)) % model.output_shape[-1] if labels is None else labels
            write_images(folder / "images.h5", images, labels)
            images = folder / "images.h5"
        frontier = find_frontier(as_functional(model), layer=layer, rank_at=rank_at)
        preprocessing = preprocessing or Preprocessing(scale=pixel_scale)
        image_set = open_images(images, pixel_range=preprocessing.pixel_range)
        provenance = Provenance("B", "set", layer, rank_at, preprocessing, model.output_shape[-1])
        cache = write_activations(
            folder / "activations.parquet",
            frontier=frontier,
            images=image_set,
            provenance=provenance,
        )
        return FirstPass(cache, frontier, image_set)

    return run


@pytest.fixture(scope="session")
def network_passes() -> dict[int, FirstPass]:
    """First passes of the small nets, by the ids of these, which stay."""
    return {}


@pytest.fixture
def network_pass(network, first_pass, network_passes) -> FirstPass:
    """The first pass of a small net over its images, made once for all tests."""
    made, net = network_passes, network.model
    if id(net) not in made:
        layers = {"layer": network.layer, "rank_at": network.rank_at}
        made[id(net)] = first_pass(net, network.images, **layers)
    return made[id(net)]


def pass_over(first_pass, net, case: BadnetCase) -> dict[str, FirstPass]:
    return {name: first_pass(net, path, **LAYERS) for name, path in case.sets.items()}


@pytest.fixture(scope="session")
def lab_passes(lab_case, lab_net, first_pass) -> dict[str, FirstPass]:
    """First passes of the lab's BadNet over its three small sets."""
    return pass_over(first_pass, lab_net, lab_case)


@pytest.fixture(scope="session")
def faces_passes(faces_case, faces_net, first_pass) -> dict[str, FirstPass]:
    return pass_over(first_pass, faces_net, faces_case)


@pytest.fixture(scope="session", params=["faces", pytest.param("lab", marks=pytest.mark.lab)])
def whose(request) -> str:
    """Whose net and images a test gets."""
    return request.param


@pytest.fixture(scope="session")
def badnet_case(whose, request) -> BadnetCase:
    return request.getfixturevalue(f"{whose}_case")


@pytest.fixture(scope="session")
def badnet(whose, request):
    return request.getfixturevalue(f"{whose}_net")


@pytest.fixture(scope="session")
def passes(whose, request) -> dict[str, FirstPass]:
    return request.getfixturevalue(f"{whose}_passes")
