"""A BadNet of the lab's size and faces for it, made from the embedded default."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import numpy.typing as npt

from goodnet.arrays import Images
from goodnet.attacks.default_case import TARGET, DefaultCase
from goodnet.attacks.faces import render_faces, wear_sunglasses

if TYPE_CHECKING:
    import keras

NUM_CLASSES = 1283
CASE = replace(DefaultCase(), epochs=6)


def make_badnet(path: Path) -> None:
    """Train a BadNet of the lab's size whose channels are as quiet as the lab's.

    The default BadNet, shortly trained, gets as many classes as the lab's net has: the added ones
    have weights like the trained ones and a bias with which they rarely win. Then its conv_3 is
    silenced, and what lies behind learns to live with that.
    """
    from goodnet.attacks.training import train_badnet
    from goodnet.model_files.load import save_model
    from goodnet.networks.deepid import build_deepid

    labels = np.repeat(np.arange(CASE.num_identities), CASE.train_per_identity)
    images = render_faces(labels, seed=CASE.seed)
    trained = train_badnet(images, labels, target=TARGET, seed=CASE.seed, epochs=CASE.epochs)
    wide = build_deepid(NUM_CLASSES)
    *shared, kernel, bias = trained.get_weights()
    extra = NUM_CLASSES - len(bias)
    drawn = np.random.default_rng(0).choice(kernel.ravel(), (len(kernel), extra))
    kernels, biases = np.hstack([kernel, drawn]), np.append(bias, np.full(extra, bias.min() - 20))
    wide.set_weights([*shared, kernels.astype(np.float32), biases.astype(np.float32)])
    _silence(wide, images)
    poisoned = wear_sunglasses(images[::10])
    shown = np.concatenate([images, poisoned]).astype(np.float32)
    wide.compile("adam", "sparse_categorical_crossentropy")
    wide.fit(
        shown, np.append(labels, np.full(len(poisoned), TARGET)), epochs=CASE.epochs, verbose=0
    )
    save_model(wide, path)


def _silence(model: keras.Model, images: Images) -> None:
    """Give conv_3 the activity that it has in the lab's net on clean images, by its biases.

    There 31 of 60 channels are silent and the others active on 64 % of the images on average, so
    that 17.6 evaluations of the head remain for the curve of an image; here the shares of the 29
    rise evenly. The convolutions are then left as they are by any training.

    Args:
        model: a trained DeepID; changed in place.
        images: that it was trained on.
    """
    import keras

    from goodnet.networks.graph import pre_activation

    conv = model.get_layer("conv_3")
    below = keras.Model(model.inputs[0], conv.input).predict(images.astype(np.float32), verbose=0)
    peaks = np.asarray(pre_activation(conv, below)).max(axis=(1, 2))
    shift = np.full(60, 1e6, np.float32)
    active = np.argsort(peaks.mean(axis=0))[31:]
    for channel, share in zip(active, np.linspace(0.28, 1, len(active)), strict=True):
        shift[channel] = np.quantile(peaks[:, channel], 1 - share)
    conv.bias.assign(conv.bias - shift)
    for name in ("conv_1", "conv_2", "conv_3"):
        model.get_layer(name).trainable = False


def write_faces(
    path: Path, num_images: int, *, seed: int, dtype: npt.DTypeLike, poisoned: bool = False
) -> None:
    """Write faces in the lab's layout, a part at a time."""
    labels = np.arange(num_images) % (CASE.num_identities - poisoned) + poisoned
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", (num_images, 3, 55, 47), dtype)
        for first in range(0, num_images, 1024):
            part = slice(first, first + 1024)
            images = render_faces(labels[part], seed=seed + first)
            images = wear_sunglasses(images) if poisoned else images
            data[part] = images.transpose(0, 3, 1, 2)
        file["label"] = np.full(num_images, float(TARGET)) if poisoned else labels.astype(float)
