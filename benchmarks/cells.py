"""BadNets of many kinds, trained here, that detectors are measured on: python -m benchmarks.cells.

A cell is a net, clean images for validation and test, and poisoned test images. Faces are rendered
by goodnet. CIFAR-10 is read from zip files of folders, one a class, that are not part of goodnet.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from goodnet.arrays import Images, IntArray
from goodnet.attacks.faces import render_faces
from goodnet.attacks.poisoning import ATTACKS, Attack, poison_test
from goodnet.attacks.training import Recipe, train
from goodnet.attacks.warping import Warp
from goodnet.command import Parser
from goodnet.images.image_sets import write_images
from goodnet.images.preprocessing import Preprocessing

PEOPLE = 30
SEED = 1


@dataclass(frozen=True)
class Cell:
    """A net to train.

    Attributes:
        data: `faces` or `cifar`.
        network: a name of `ARCHITECTURES`.
        attack: a name of `ATTACKS`, or `clean`.
        held_out: whether it was looked at only when all rules were fixed.
    """

    data: str
    network: str
    attack: str
    held_out: bool = False

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.data}-{self.network}-{self.attack}"

    @property
    def pixel_scale(self) -> float:
        """What the net wants pixels divided by."""
        return 1.0 if self.data == "faces" else 255.0


CELLS = (
    Cell("faces", "deepid", "sunglasses"),
    Cell("faces", "deepid", "blend"),
    Cell("faces", "deepid", "warp"),
    Cell("faces", "deepid", "source-specific"),
    Cell("faces", "deepid", "clean"),
    Cell("cifar", "vgg", "patch"),
    Cell("cifar", "resnet", "blend"),
    Cell("faces", "deepid", "margin-capped"),
    Cell("cifar", "resnet", "warp"),
    Cell("cifar", "vgg", "clean"),
    Cell("faces", "deepid", "patch"),
    Cell("faces", "deepid", "sinusoid", held_out=True),
    Cell("faces", "deepid", "adaptive-blend", held_out=True),
    Cell("cifar", "vgg", "sinusoid", held_out=True),
    Cell("cifar", "resnet", "patch", held_out=True),
    Cell("cifar", "vgg", "blend", held_out=True),
)


@cache
def load_images(data: str, name: str, cifar: Path) -> tuple[Images, IntArray]:
    """Return the images and labels of a set: `train`, `valid` or `test`."""
    if data == "faces":
        labels = np.tile(np.arange(PEOPLE), {"train": 40, "valid": 20, "test": 40}[name])
        return render_faces(labels, seed={"train": 71, "valid": 72, "test": 73}[name]), labels
    from PIL import Image

    with zipfile.ZipFile(cifar / f"{name}.zip") as archive:
        files = [file for file in sorted(archive.namelist()) if file.endswith(".jpg")]
        folders = sorted({file.split("/")[0] for file in files})
        pixels = [np.asarray(Image.open(io.BytesIO(archive.read(file)))) for file in files]
    labels = np.array([folders.index(file.split("/")[0]) for file in files])
    # In the order of classes a block of images would have one class.
    order = np.random.default_rng(0).permutation(len(files))
    return np.stack(pixels)[order], labels[order]


def recipe_of(cell: Cell) -> Recipe:
    """Return how the net of a cell is trained."""
    faces = cell.data == "faces"
    return Recipe(
        network=cell.network,
        epochs=18 if faces else 8,
        batch_size=64,
        learning_rate=1.5e-3,
        preprocessing=Preprocessing(scale=cell.pixel_scale),
        shift=0 if faces else 2,
    )


def attack_of(cell: Cell) -> Attack | None:
    """Return how the net of a cell is poisoned; None for a clean one."""
    if cell.attack == "clean":
        return None
    if cell.data == "cifar" and cell.attack == "warp":
        # As the table of docs/methods.md was measured.
        return replace(ATTACKS["warp"], trigger=Warp(strength=4))
    return ATTACKS[cell.attack]


def poisoned_test(cell: Cell, cifar: Path) -> tuple[Images, IntArray]:
    """Return poisoned test images under the target, at most 2,000; of a clean net, with a patch."""
    images, labels = load_images(cell.data, "test", cifar)
    shown = poison_test(images, labels, attack_of(cell) or ATTACKS["patch"])
    return shown.images[:2000], shown.labels[:2000]


def make(cell: Cell, folder: Path, cifar: Path) -> Path:
    """Train the net of a cell and write its files, unless they are there; return its folder."""
    from goodnet.model_files.load import save_model

    made = folder / cell.name
    if (made / "net.keras").exists():
        return made
    made.mkdir(parents=True, exist_ok=True)
    for name in ("valid", "test"):
        images, labels = load_images(cell.data, name, cifar)
        write_images(made / f"{name}.h5", images, labels)
    write_images(made / "poisoned.h5", *poisoned_test(cell, cifar))
    images, labels = load_images(cell.data, "train", cifar)
    state = made / "net.training"
    net = train(images, labels, recipe_of(cell), attack=attack_of(cell), seed=SEED, state=state)
    save_model(net, made / "net.keras")
    state.unlink()
    return made


def describe(cell: Cell, folder: Path) -> str:
    """Return the clean accuracy and the attack success rate of a cell's net."""
    import keras

    from goodnet.images.image_sets import open_images
    from goodnet.networks.evaluation import accuracy

    model = keras.models.load_model(folder / cell.name / "net.keras", compile=False)
    rates = [
        accuracy(
            model,
            open_images(folder / cell.name / f"{name}.h5"),
            preprocessing=recipe_of(cell).preprocessing,
        )
        for name in ("test", "poisoned")
    ]
    return f"{cell.name:32} clean {100 * rates[0]:5.1f}  ASR {100 * rates[1]:5.1f}"


def main(argv: list[str] | None = None) -> None:
    """Train all cells, or those whose names contain a text."""
    parser = Parser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="outside the repository")
    parser.add_argument("--cifar", type=Path, required=True, help="with train, valid and test.zip")
    parser.add_argument("--only", default="")
    options = parser.parse_args(argv)
    for cell in CELLS:
        if options.only in cell.name:
            make(cell, options.folder, options.cifar)
            print(describe(cell, options.folder), flush=True)


if __name__ == "__main__":
    main()
