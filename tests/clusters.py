"""A scheduler of Dask and workers, each a process of its own here, and a tiny net for them."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 150


def tiny_case(num_images: int, *, hidden: int = 0) -> tuple[Any, np.ndarray, np.ndarray]:
    """Make a net, images of 8 x 8 for it, and the labels that it gives them.

    Args:
        num_images: every fifth is bright, those behind it darker.
        hidden: units of a layer that is another depth.
    """
    from goodnet.tensorflow_start import import_tensorflow

    import_tensorflow()
    import keras

    keras.utils.set_random_seed(1)
    net = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(6, 3, activation="relu", name="conv"),
            keras.layers.MaxPooling2D(name="pool"),
            keras.layers.Flatten(),
            *([keras.layers.Dense(hidden, activation="relu")] if hidden else []),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )
    images = np.random.default_rng(1).integers(0, 256, (num_images, 8, 8, 3), np.uint8)
    images //= (1 + np.arange(num_images) % 5).astype(np.uint8)[:, None, None, None]
    labels = net.predict(images.astype("float32"), verbose=0, batch_size=1000).argmax(1)
    return net, images, labels


def wait_for(look):
    deadline = time.monotonic() + SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


class Machines(NamedTuple):
    """A scheduler, and processes that stand for machines with a worker each."""

    folder: Path
    scheduler: subprocess.Popen
    nannies: list[subprocess.Popen]

    @property
    def address(self):
        known = self.folder / "scheduler.json"
        wait_for(lambda: known.exists() and known.read_text().endswith("}"))  # it is written late
        return json.loads(known.read_text())["address"]

    def start_worker(self, *options, **where):
        given = ["--nthreads", "1", "--memory-limit", "0", "--local-directory", self.folder]
        return start_dask("worker", self.address, *given, *options, **where)

    def add_worker(self):
        self.nannies.append(self.start_worker())

    def workers(self):
        return [one for nanny in self.nannies for one in children(nanny.pid, "spawn_main")]

    def repairs(self):
        return [one for worker in self.workers() for one in children(worker.pid, "repair_process")]


def children(pid, word):
    with_word = []
    for child in psutil.Process(pid).children():
        try:
            with_word += [child] if word in " ".join(child.cmdline()) else []
        except psutil.NoSuchProcess:
            continue
    return with_word


def start_dask(kind, *options, checkout=ROOT):
    return subprocess.Popen(
        [
            sys.executable, "-m", f"distributed.cli.dask_{kind}", *map(str, options),
            "--host", "127.0.0.1", "--no-dashboard",
        ],
        cwd=checkout,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


@contextmanager
def running(folder, *, workers):
    folder.mkdir(exist_ok=True)
    scheduler = start_dask(
        "scheduler", "--port", "0", "--scheduler-file", folder / "scheduler.json"
    )
    machines = Machines(folder, scheduler, [])
    try:
        for _ in range(workers):
            machines.add_worker()
        yield machines
    finally:
        for process in (scheduler, *machines.nannies):
            process.terminate()
        for process in (scheduler, *machines.nannies):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:  # one without a scheduler waits for it
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(SECONDS)
