"""The engine beside what it replaces, in one process, turn by turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from goodnet.arrays import Pixels

NUM_IMAGES = 4096
BATCH = 512
ROUNDS = 9


class Comparison(NamedTuple):
    """A line of the printed table."""

    what: str
    measured: str
    bar: str


def compare_engine(folder: Path, badnet: Path, faces: Path) -> Iterator[Comparison]:
    """Yield the comparisons on 4,096 faces, whose pixels are in memory.

    Args:
        folder: for caches.
        badnet: DeepID with 1,283 classes.
        faces: the images, float32 HDF5.
    """
    import tensorflow as tf

    from goodnet.defenses.goodnet import build_goodnet
    from goodnet.images.image_sets import ImageSet, open_images
    from goodnet.images.preprocessing import AS_STORED
    from goodnet.model_files.load import load_model
    from goodnet.pruning.activation_cache import ActivationCache, Provenance
    from goodnet.pruning.first_pass import write_activations
    from goodnet.pruning.frontier import find_frontier
    from goodnet.pruning.ranking import block_means, mean_activations, prune_order
    from goodnet.pruning.sweep import sweep, sweep_both_ends

    model = load_model(badnet)
    on_disk = open_images(faces)
    pixels = np.concatenate(list(on_disk.batches(BATCH)))
    images = ImageSet(
        faces, len(pixels), on_disk.shape, on_disk.labels, pixels.dtype, partial(_read, pixels)
    )
    frontier = find_frontier(model, layer="conv_3", rank_at="pool_3")
    provenance = Provenance("B", "faces", "conv_3", "pool_3", AS_STORED, model.output_shape[-1])
    path = folder / "bench.parquet"

    def first_pass() -> ActivationCache:
        return write_activations(path, frontier=frontier, images=images, provenance=provenance)

    cache = first_pass()
    order = prune_order(mean_activations(block_means(cache)))
    moved = np.concatenate([block.start.any(axis=(1, 2)) for block in cache.blocks()])
    # B's own answers are known, and those without any channel are the same for all images.
    evaluations = float(np.maximum(moved.sum(axis=1) - 1, 0).mean())
    kernel, bias = model.get_layer("conv_3").weights
    saved = kernel.numpy(), bias.numpy()

    def prune_one() -> None:
        kernel.assign(np.where(np.arange(60) == order[0], 0, saved[0]))
        bias.assign(np.where(np.arange(60) == order[0], 0, saved[1]))
        forward()
        kernel.assign(saved[0])
        bias.assign(saved[1])

    forward = compiled(tf, model, pixels)
    goodnet = compiled(tf, build_goodnet(model, "conv_3", order[:50]), pixels)
    timed = interleaved(
        {
            "first pass": first_pass,
            "sweep": lambda: sweep(cache, frontier=frontier, order=order),
            "both ends": lambda: sweep_both_ends(cache, frontier=frontier, order=order),
            "direct step": prune_one,
            "forward": forward,
            "predict": lambda: model.predict(pixels, verbose=0),
            "G": goodnet,
            "products": partial(_multiply, model, round(evaluations * NUM_IMAGES)),
        }
    )
    both, twice = (
        [a + b for a, b in zip(timed["first pass"], timed[name], strict=True)]
        for name in ("sweep", "both ends")
    )
    direct = [(len(order) + 1) * step for step in timed["direct step"]]
    yield Comparison(
        "61 direct evaluations of the pruned net, compiled (one timed, times 61) / the sweep",
        f"{ratio(direct, timed['sweep']):.0f}",
        "at least 100",
    )
    yield Comparison(
        "first pass and sweep / model.predict",
        f"{ratio(both, timed['predict']):.2f}",
        "at most 0.9",
    )
    yield Comparison(
        "first pass and sweep / one compiled forward pass of B",
        f"{ratio(both, timed['forward']):.2f}",
        "at most 1.45",
    )
    yield Comparison(
        "... and both ends swept",
        f"{ratio(twice, timed['forward']):.2f}",
        "",
    )
    yield Comparison(
        "images a second, G / B, compiled",
        f"{ratio(timed['forward'], timed['G']):.2f}",
        "at least 0.87",
    )
    limit = [a + b for a, b in zip(timed["products"], timed["forward"], strict=True)]
    yield Comparison(
        "the floor: a forward pass and the products of the evaluations of the head that remain / a "
        "forward pass",
        f"{ratio(limit, timed['forward']):.2f} ({evaluations:.1f} of 60)",
        "",
    )
    yield Comparison(
        "... 61 direct evaluations / those products", f"{ratio(direct, timed['products']):.0f}", ""
    )
    for name in timed:
        yield Comparison(
            f"{name}, 4,096 images, median", f"{statistics.median(timed[name]):.3f} s", ""
        )


def _read(pixels: Pixels, slices: Iterable[slice]) -> Generator[Pixels, None, None]:
    yield from (pixels[where] for where in slices)


def compiled(tf: Any, model: Any, pixels: Any) -> Callable[[], None]:
    """Return what lets a compiled net answer all pixels, batch by batch."""
    answer = tf.function(
        lambda batch: tf.argmax(model(batch, training=False), 1),
        input_signature=[tf.TensorSpec((None, *pixels.shape[1:]), tf.float32)],
    )

    def run() -> None:
        for first in range(0, len(pixels), BATCH):
            answer(pixels[first : first + BATCH])

    return run


def _multiply(model: Any, num_rows: int) -> None:
    """Compute the products of DeepID's head, and nothing else, with a core for each thread."""
    hidden, answer = (model.get_layer(name).get_weights()[0] for name in ("fc_2", "output"))
    activations = np.ones((256, len(hidden)), np.float32)

    def multiply(_: int) -> None:
        (activations @ hidden) @ answer

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(2) as threads:
        list(threads.map(multiply, range(num_rows // len(activations))))


def interleaved(
    functions: dict[str, Callable[[], object]], *, rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Run all functions in turn, once to warm up and then `rounds` times; return seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - began)
    return {name: values[1:] for name, values in seconds.items()}


def ratio(numerator: list[float], denominator: list[float]) -> float:
    """Return the median ratio of two lists of seconds, taken round by round."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))
