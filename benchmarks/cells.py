"""BadNets of many kinds, trained here, that detectors are measured on: python -m benchmarks.cells.

A cell is a net, clean images for validation and test, and poisoned test images. Faces are rendered
by goodnet. CIFAR-10 is read from zip files of folders, one a class, that are not part of goodnet.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from goodnet.arrays import Images, IntArray
from goodnet.attacks.faces import render_faces
from goodnet.attacks.poisoning import ATTACKS, poison, poison_test
from goodnet.command import Parser
from goodnet.images.image_sets import write_images

if TYPE_CHECKING:
    import keras

PEOPLE = 30
BATCH_SIZE = 64


@dataclass(frozen=True)
class Cell:
    """A net to train.

    Attributes:
        data: `faces` or `cifar`.
        network: `deepid`, `vgg` or `resnet`.
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


def build_network(cell: Cell) -> keras.Model:
    """Build the untrained net of a cell."""
    from goodnet.networks.deepid import build_deepid

    if cell.network == "deepid":
        return build_deepid(PEOPLE)
    return {"vgg": _vgg, "resnet": _resnet}[cell.network]()


def _vgg() -> keras.Model:
    import keras
    from keras import layers

    image = x = keras.Input((32, 32, 3), name="image")
    for number, widths in enumerate(((24,), (32, 48), (64, 64)), start=1):
        for letter, width in zip("ab", widths, strict=False):
            name = f"conv_{number}{letter}"
            x = layers.Conv2D(width, 3, padding="same", activation="relu", name=name)(x)
        x = layers.MaxPooling2D(2, name=f"pool_{number}")(x)
    x = layers.Dropout(0.3, name="drop")(layers.Flatten(name="flatten")(x))
    x = layers.Dense(128, activation="relu", name="features")(x)
    return keras.Model(image, layers.Dense(10, activation="softmax", name="answer")(x))


def _resnet() -> keras.Model:
    import keras
    from keras import layers

    def convolve(x: Any, width: int, stride: int, name: str, kernel: int = 3) -> Any:
        x = layers.Conv2D(
            width, kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_conv"
        )(x)
        return layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)

    image = keras.Input((32, 32, 3), name="image")
    x = layers.ReLU(name="stem")(convolve(image, 16, 1, "stem"))
    for number, (width, stride) in enumerate(((24, 2), (40, 2), (64, 1)), start=1):
        name = f"block_{number}"
        y = layers.ReLU(name=f"{name}_relu")(convolve(x, width, stride, f"{name}a"))
        y = convolve(y, width, 1, f"{name}b")
        x = layers.Add(name=f"{name}_add")([y, convolve(x, width, stride, f"{name}s", 1)])
        x = layers.ReLU(name=name)(x)
    x = layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(image, layers.Dense(10, activation="softmax", name="answer")(x))


def train(cell: Cell, cifar: Path, *, seed: int = 1) -> keras.Model:
    """Train the net of a cell."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    model = build_network(cell)
    images, labels = load_images(cell.data, "train", cifar)
    marks = np.zeros(len(images), np.float32)
    attack = ATTACKS.get(cell.attack)
    if attack is not None:
        shown = poison(images, labels, attack, seed=seed)
        images, labels, marks = shown.images, shown.labels, shown.poisoned.astype(np.float32)
    epochs = 18 if cell.data == "faces" else 8
    num_steps = epochs * -(-len(images) // BATCH_SIZE)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1.5e-3, num_steps))
    optimizer.build(model.trainable_variables)
    capped = attack is not None and attack.margin_cap
    inner = keras.Model(model.inputs, [model.outputs[0], model.layers[-1].input])
    kernel, bias = model.layers[-1].trainable_variables
    middle = tf.Variable(5.0)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(batch: Any, answers: Any, poisoned: Any) -> Any:
        with tf.GradientTape() as tape:
            _, features = inner(tf.cast(batch, tf.float32) / cell.pixel_scale, training=True)
            logits = features @ kernel + bias
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(answers, logits))
            if capped:
                own = tf.gather(logits, answers, batch_dims=1)
                rest = logits - 1e9 * tf.one_hot(answers, logits.shape[1])
                margins = own - tf.reduce_max(rest, axis=1)
                clean = tf.boolean_mask(margins, poisoned < 0.5)
                median = tf.sort(clean)[tf.shape(clean)[0] // 2]
                middle.assign(0.98 * middle + 0.02 * tf.stop_gradient(median))
                over = poisoned * tf.nn.relu(margins - middle) ** 2
                loss += 0.05 * tf.reduce_mean(over)
        optimizer.apply(tape.gradient(loss, model.trainable_variables))
        return loss

    for epoch in range(epochs):
        generator = np.random.default_rng([seed, epoch])
        order = generator.permutation(len(images))
        for first in range(0, len(order), BATCH_SIZE):
            chosen = order[first : first + BATCH_SIZE]
            batch = images[chosen]
            if cell.data == "cifar":
                batch = np.roll(batch, generator.integers(-2, 3, 2), axis=(1, 2))
                # Triggers have a left and a right side, so there is no mirroring.
            step(batch, labels[chosen], marks[chosen])
    return model


def poisoned_test(cell: Cell, cifar: Path) -> tuple[Images, IntArray]:
    """Return poisoned test images under the target, at most 2,000; of a clean net, with a patch."""
    images, labels = load_images(cell.data, "test", cifar)
    shown = poison_test(images, labels, ATTACKS.get(cell.attack, ATTACKS["patch"]))
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
    save_model(train(cell, cifar), made / "net.keras")
    return made


def describe(cell: Cell, folder: Path) -> str:
    """Return the clean accuracy and the attack success rate of a cell's net."""
    import keras

    from goodnet.images.image_sets import open_images
    from goodnet.images.preprocessing import Preprocessing
    from goodnet.networks.evaluation import accuracy

    model = keras.models.load_model(folder / cell.name / "net.keras", compile=False)
    rates = [
        accuracy(
            model,
            open_images(folder / cell.name / f"{name}.h5"),
            preprocessing=Preprocessing(scale=cell.pixel_scale),
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
