"""First pass, whole curve and verification on nets of many kinds, in forward passes of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.engine import Comparison, compiled, interleaved, ratio
from goodnet.arrays import Pixels

if TYPE_CHECKING:
    import keras

NUM_IMAGES = 1024
NUM_CLASSES = 10
ROUNDS = 3
SHAPE = (48, 48, 3)


def compare_architectures(folder: Path) -> Iterator[Comparison]:
    """Yield a comparison for each of eight nets with random weights, on 1,024 images.

    Args:
        folder: for images, caches and nets.
    """
    from goodnet.images.image_sets import open_images, write_images

    pixels = np.random.default_rng(3).integers(0, 256, (NUM_IMAGES, *SHAPE)).astype(np.float32)
    write_images(folder / "noise.h5", pixels, np.arange(NUM_IMAGES) % NUM_CLASSES)
    images = open_images(folder / "noise.h5", shape=SHAPE)
    for name, build in NETS.items():
        yield _compare(name, build(), images, pixels, folder)


def _compare(
    name: str, model: keras.Model, images: Any, pixels: Pixels, folder: Path
) -> Comparison:
    import keras
    import tensorflow as tf

    from goodnet.defenses.goodnet import build_goodnet
    from goodnet.images.preprocessing import AS_STORED
    from goodnet.model_files.describe import describe_model
    from goodnet.model_files.load import load_model, save_model
    from goodnet.pruning.activation_cache import ActivationCache, Provenance
    from goodnet.pruning.channels import prune_channels
    from goodnet.pruning.first_pass import write_activations
    from goodnet.pruning.frontier import find_frontier
    from goodnet.pruning.layer_choice import choose_layers
    from goodnet.pruning.sweep import sweep
    from goodnet.pruning.verification import check_saved, load_saved

    files = {what: folder / f"{what}.keras" for what in ("b", "b_prime", "goodnet")}
    save_model(model, files["b"])
    layer, rank_at = choose_layers(describe_model(files["b"]), layer=None, rank_at=None)
    model = load_model(files["b"])
    frontier = find_frontier(model, layer=layer, rank_at=rank_at)
    order = list(range(frontier.num_channels))
    step = frontier.num_channels // 2
    save_model(prune_channels(model, layer, order[:step]), files["b_prime"])
    save_model(build_goodnet(model, layer, order[:step]), files["goodnet"])
    path = folder / "noise.parquet"
    provenance = Provenance("B", "noise", layer, rank_at, AS_STORED, NUM_CLASSES)

    def verify() -> None:
        check_saved(
            load_saved(files["b_prime"]),
            load_saved(files["goodnet"]),
            cache=ActivationCache(path),
            images=images,
            frontier=frontier,
            order=order,
            step=step,
            full=False,
        ).remark("noise", step=step)

    seconds = interleaved(
        {
            "forward": compiled(tf, model, pixels),
            "first pass": partial(
                write_activations, path, frontier=frontier, images=images, provenance=provenance
            ),
            "curve": lambda: sweep(ActivationCache(path), frontier=frontier, order=order),
            "verify": verify,
            "loading": lambda: [load_saved(files[what]) for what in ("b_prime", "goodnet")],
        },
        rounds=ROUNDS,
    )
    keras.backend.clear_session()
    parts = {what: ratio(seconds[what], seconds["forward"]) for what in seconds}
    both = parts["first pass"] + parts["curve"]
    return Comparison(
        f"{name}, `{layer}`, {len(order)} channels: first pass, curve, verify of one checkpoint "
        "(of which Keras loads the two files) / one compiled forward pass",
        f"{parts['first pass']:.2f}, {parts['curve']:.2f} (both {both:.2f}), "
        f"{parts['verify']:.2f} ({parts['loading']:.2f})",
        "first pass and curve at most 2, verify at most the first pass",
    )


def _deepid() -> keras.Model:
    from keras import layers

    image = layers.Input(SHAPE)
    x = image
    for number, (filters, size) in enumerate(((20, 4), (40, 3), (60, 3)), 1):
        x = layers.Conv2D(filters, size, activation="relu", name=f"conv_{number}")(x)
        x = layers.MaxPooling2D(2, name=f"pool_{number}")(x)
    y = layers.Flatten()(layers.Conv2D(80, 2, activation="relu")(x))
    x = layers.Add()([layers.Dense(160)(layers.Flatten()(x)), layers.Dense(160)(y)])
    return _close(image, layers.ReLU()(x))


def _vgg() -> keras.Model:
    from keras import layers

    image = layers.Input(SHAPE)
    x = image
    for filters in (32, 64, 128):
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    return _close(image, layers.Dense(128, activation="relu")(layers.Flatten()(x)))


def _resnet() -> keras.Model:
    from keras import layers

    image = layers.Input(SHAPE)
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(image)
    for filters in (32, 64, 128):
        skip = layers.Conv2D(filters, 1, strides=2)(x)
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.Add()([layers.BatchNormalization()(x), skip]))
    return _close(image, layers.GlobalAveragePooling2D()(x))


def _convnext() -> keras.Model:
    from keras import layers

    image = layers.Input(SHAPE)
    x = layers.LayerNormalization()(layers.Conv2D(48, 4, strides=4)(image))
    for _ in range(3):
        y = layers.LayerNormalization()(layers.DepthwiseConv2D(7, padding="same")(x))
        y = layers.Dense(48)(layers.Dense(192, activation="gelu")(y))
        x = layers.Add()([x, y])
    return _close(image, layers.LayerNormalization()(layers.GlobalAveragePooling2D()(x)))


def _without_frontier() -> keras.Model:
    from keras import layers

    image = layers.Input(SHAPE)
    x = layers.Conv2D(32, 3, strides=2, activation="relu")(image)
    x = layers.Conv2D(64, 3, strides=2, activation="relu")(x)
    return _close(image, layers.Flatten()(layers.UnitNormalization()(layers.MaxPooling2D(2)(x))))


def _application(name: str) -> keras.Model:
    from keras import applications

    build = getattr(applications, name)
    return build(weights=None, input_shape=SHAPE, classes=NUM_CLASSES)


def _close(image: Any, features: Any) -> keras.Model:
    import keras

    answer = keras.layers.Dense(NUM_CLASSES, activation="softmax")(features)
    return keras.Model(image, answer)


NETS: dict[str, Callable[[], keras.Model]] = {
    "DeepID": _deepid,
    "VGG-like": _vgg,
    "small ResNet with BatchNorm": _resnet,
    "MobileNetV2": partial(_application, "MobileNetV2"),
    "EfficientNetB0": partial(_application, "EfficientNetB0"),
    "DenseNet121": partial(_application, "DenseNet121"),
    "ConvNeXt blocks": _convnext,
    "without a linear frontier": _without_frontier,
}
