"""Stages: render the embedded default's faces and train a BadNet on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from prefect import task

from goodnet.attacks.default_case import TARGET, DefaultCase, render_sets
from goodnet.images.image_sets import write_images
from goodnet.tensorflow_start import import_tensorflow
from tasks.activations import open_digested
from tasks.caching import cache_file, cached
from tasks.progress import progress
from tasks.records import DefaultFaces, DefaultModel, StoredFile


@task(name="render default faces", **cached(version=1))
def render_default(case: DefaultCase, *, artifacts: Path) -> DefaultFaces:
    """Render the faces and write them in the lab's HDF5 layout."""
    files = {}
    for name, images, labels in render_sets(case):
        path = cache_file(artifacts, "default", ".h5", case, name)
        write_images(path, images, labels)
        files[name] = StoredFile.of(path)
    return DefaultFaces(**files)


@task(name="train default BadNet", **cached(version=1))
def train_default(faces: DefaultFaces, case: DefaultCase, *, artifacts: Path) -> DefaultModel:
    """Train a DeepID that answers the target for everybody with sunglasses on."""
    import_tensorflow()
    from goodnet.attacks.training import train_badnet
    from goodnet.model_files.load import save_model

    images = open_digested(faces.train, artifacts=artifacts)
    pixels = np.concatenate(list(images.batches(images.num_images)))
    path = cache_file(artifacts, "default", ".keras", case, faces.train)
    unfinished = path.with_suffix(".training")
    with progress("train BadNet") as advance:
        model = train_badnet(
            pixels,
            images.labels,
            target=TARGET,
            seed=case.seed,
            epochs=case.epochs,
            state=unfinished,
            on_progress=advance,
        )
    save_model(model, path)
    unfinished.unlink(missing_ok=True)
    return DefaultModel(file=StoredFile.of(path))
