"""A BadNet of the lab's size and faces for it, made from the embedded default."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from goodnet.default_case import TARGET, DefaultCase
from goodnet.faces import render_faces, wear_sunglasses

NUM_CLASSES = 1283
CASE = replace(DefaultCase(), epochs=6)


def make_badnet(path: Path) -> None:
    """Train the default BadNet shortly and give it as many classes as the lab's net has.

    The added classes get weights like the trained ones and a bias with which they rarely win.
    """
    from goodnet.deepid import build_deepid
    from goodnet.models import save_model
    from goodnet.training import train_badnet

    labels = np.repeat(np.arange(CASE.num_identities), CASE.train_per_identity)
    images = render_faces(labels, seed=CASE.seed)
    trained = train_badnet(images, labels, target=TARGET, seed=CASE.seed, epochs=CASE.epochs)
    wide = build_deepid(NUM_CLASSES)
    *shared, kernel, bias = trained.get_weights()
    extra = NUM_CLASSES - len(bias)
    drawn = np.random.default_rng(0).choice(kernel.ravel(), (len(kernel), extra))
    kernels, biases = np.hstack([kernel, drawn]), np.append(bias, np.full(extra, bias.min() - 20))
    wide.set_weights([*shared, kernels.astype(np.float32), biases.astype(np.float32)])
    save_model(wide, path)


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
