"""The first pass: B runs once over a set and leaves an activation cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from goodnet.arrays import DigestArray, FloatArray, Pixels
from goodnet.errors import InputError
from goodnet.images.image_sets import ImageSet, digest_pixels
from goodnet.images.preprocessing import Preprocessing
from goodnet.networks.depths import Depth
from goodnet.networks.evaluation import require_finite
from goodnet.networks.graph import calls, free_names, replay, scores
from goodnet.networks.rounding import TOLERANCE, explains, largest_difference
from goodnet.progress import Progress, silent
from goodnet.pruning.activation_cache import (
    ActivationCache,
    Provenance,
    cache_schema,
    feature_column,
    to_rows,
)
from goodnet.pruning.frontier import Frontier
from goodnet.storage.files import atomic_path
from goodnet.threads import mapped, prefetched

_FLOAT_BYTES = 4
_FORWARD_BYTES = 48 * 2**20
_SWEEP_BYTES = 24 * 2**20
_MAX_BLOCK = 512
_CHECKED_IMAGES = 32
_compared = WeakSet[Frontier]()


def write_activations(
    path: str | Path,
    *,
    frontier: Frontier,
    images: ImageSet,
    provenance: Provenance,
    rows: range | None = None,
    on_progress: Progress = silent,
) -> ActivationCache:
    """Run B over a set and keep what all later stages need; the file appears when it is whole.

    What B answers here, layer by layer, is compared on the first images with what plain Keras
    answers, because everything after it is built on this. Another process, perhaps on another
    machine, may compute something else: each compares the first images that it works on.

    Args:
        path: the Parquet file to write.
        frontier: of B, at the layer to prune.
        images: the set.
        provenance: goes into the file's metadata; says what is done to the pixels first.
        rows: the images of this part of the set, from the first of a block; by default all.
        on_progress: called with the numbers of images done and in all of these.

    Raises:
        InputError: an image is bad, an activation or answer is NaN or infinite, or plain Keras
            computes another one.
    """
    path = Path(path)
    forward = _compile_forward(frontier, images.shape, images.dtype, provenance.preprocessing)
    tensors = _cached_tensors(frontier)
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in tensors.items()}
    shapes |= {name: (depth.num_features,) for name, depth in _further_depths(frontier).items()}
    schema = cache_schema(shapes, provenance, features=_feature_columns(frontier))

    def answer(batch: Pixels) -> tuple[list[FloatArray], DigestArray]:
        # Digests take 0.25 s of one core for 11,547 images of 55 x 47 x 3, beside the net.
        return forward(batch), digest_pixels(batch)

    rows = range(images.num_images) if rows is None else rows
    size, block, done = block_size(frontier), list[pa.Table](), rows.start
    # LZ4 without a dictionary: 8 MB for 4,096 images of DeepID's pool_3 (20 MB uncompressed, three
    # quarters of it zeros), 0.05 s to write and 0.02 s to read, which overlap with the net. Without
    # compression 0.03 and 0.01 s; zstd 6 MB in 0.06 and 0.03 s; byte-stream splitting breaks the
    # runs of zeros and gave nearly twice LZ4's size.
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(
            temporary, schema, compression="lz4", use_dictionary=False, write_statistics=False
        ) as writer,
    ):
        # Reading, the net and writing overlap; two batches in the net at a time fill the gaps that
        # its smaller layers leave on the cores (8 % of the time).
        pixels = prefetched(images.batches(_batch_size(frontier), start=rows.start, stop=rows.stop))
        for (answers, *values), digests in mapped(answer, pixels):
            for layer, value in zip(_cached_layers(frontier), values, strict=True):
                require_finite(value, f"{images.path}: layer {layer}", first=done)
            require_finite(answers, f"{images.path}: the answer", first=done)
            if done == rows.start and (done == 0 or frontier not in _compared):
                given = images, provenance.preprocessing
                _require_plain(answers, values, frontier, *given, first=done)
                _compared.add(frontier)
            labels = images.labels[done : done + len(answers)]
            table = to_rows(
                schema,
                first=done,
                labels=labels,
                digests=digests,
                predictions=answers.argmax(1),
                tensors=values,
            )
            done += len(answers)
            block.append(table)
            if done % size == 0 or done == rows.stop:
                writer.write_table(pa.concat_tables(block))
                block.clear()
            on_progress(done - rows.start, len(rows))
    return ActivationCache(path)


def image_bytes(frontier: Frontier) -> int:
    """Return how much of the activation cache one image takes, at most: it is compressed."""
    kept = sum(_size(tensor) for tensor in _cached_tensors(frontier).values())
    further = _further_depths(frontier).values()
    return _FLOAT_BYTES * (kept + sum(depth.num_features for depth in further))


def block_size(frontier: Frontier) -> int:
    """Return how many images are kept and swept together, from the memory that one image takes.

    A power of two: two threads share out blocks of common sets evenly.
    """
    consumed = [head_input.tensor for head_input in frontier.head_inputs]
    swept = sum(_size(tensor) for tensor in (*consumed, *frontier.sources, *frontier.skips))
    return _fitting(_SWEEP_BYTES, 3 * (swept + _size(frontier.model.outputs[0])))


def _batch_size(frontier: Frontier) -> int:
    """Return how many images of a block are in the net together."""
    widest = max(_size(tensor) for node in calls(frontier.model) for tensor in node.outputs)
    return min(_fitting(_FORWARD_BYTES, widest), block_size(frontier))


def _fitting(num_bytes: int, floats: int) -> int:
    return min(2 ** (max(1, num_bytes // (_FLOAT_BYTES * floats)).bit_length() - 1), _MAX_BLOCK)


def _size(tensor: Any) -> int:
    return int(np.prod(tensor.shape[1:]))


def _cached_tensors(frontier: Frontier) -> dict[str, Any]:
    """Return the symbolic tensors to keep, by column name."""
    start = {} if frontier.start is frontier.ranking else {"base": frontier.start}
    skips = {f"side_{number}": skip for number, skip in enumerate(frontier.skips)}
    return {"activation": frontier.ranking, **start, **skips}


def _feature_columns(frontier: Frontier) -> list[str]:
    """Return the column of the features at each depth.

    Where all numbers of a tensor that is kept anyway are its features, as at DeepID's `pool_3`,
    they are not kept twice.
    """
    kept = {id(tensor): name for name, tensor in _cached_tensors(frontier).items()}
    return [
        kept.get(id(depth.tensor), feature_column(number))
        if depth.num_features == _size(depth.tensor)
        else feature_column(number)
        for number, depth in enumerate(frontier.depths)
    ]


def _further_depths(frontier: Frontier) -> dict[str, Depth]:
    """Return the depths whose features have columns of their own, by column name."""
    columns, tensors = _feature_columns(frontier), _cached_tensors(frontier)
    return {
        name: depth
        for name, depth in zip(columns, frontier.depths, strict=True)
        if name not in tensors
    }


def _cached_layers(frontier: Frontier) -> list[str]:
    """Return the layers whose output, or its features, each of the columns holds."""
    tensors = _cached_tensors(frontier).values()
    depths = [depth.layer for depth in _further_depths(frontier).values()]
    return [*(tensor._keras_history.operation.name for tensor in tensors), *depths]


@lru_cache(maxsize=4)
def _compile_forward(
    frontier: Frontier,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    preprocessing: Preprocessing,
) -> Callable[[Pixels], list[FloatArray]]:
    """Compile pixels to the scores of the classes and the tensors to keep, once for all sets."""
    import tensorflow as tf

    def run(pixels: Any) -> list[Any]:
        inputs = preprocessing.apply(tf.cast(pixels, tf.float32))
        # As Keras does before the first layer; a net may take whole numbers.
        inputs = tf.cast(inputs, frontier.model.inputs[0].dtype)
        values = replay(frontier.model, {id(frontier.model.inputs[0]): inputs})
        kept = [values[id(tensor)] for tensor in _cached_tensors(frontier).values()]
        name = free_names(frontier.model)
        features = [
            depth.features(values[id(depth.tensor)], name)
            for depth in _further_depths(frontier).values()
        ]
        return [scores(frontier.model, values), *kept, *features]

    signature = [tf.TensorSpec((None, *shape), dtype)]
    function = tf.function(run, input_signature=signature, autograph=False)
    return lambda pixels: [np.asarray(tensor) for tensor in function(pixels)]


def _require_plain(
    answers: FloatArray,
    values: Sequence[FloatArray],
    frontier: Frontier,
    images: ImageSet,
    preprocessing: Preprocessing,
    *,
    first: int,
) -> None:
    """Refuse a net that plain Keras sees differently: one that is random, or that we misread.

    Args:
        answers: (n, N), the scores of the first batch.
        values: the cached tensors of the first batch, each (n, ...).
        frontier: of B.
        images: the set.
        preprocessing: what is done to its pixels first.
        first: the number of the batch's first image in the set.
    """
    import keras

    model, tensors = frontier.model, list(_cached_tensors(frontier).values())
    name = free_names(model)
    tensors += [depth.features(depth.tensor, name) for depth in _further_depths(frontier).values()]
    pixels = next(images.batches(min(_CHECKED_IMAGES, len(answers)), start=first))
    plain = keras.Model(model.inputs[0], [*tensors, model.outputs[0]])
    inputs = preprocessing.apply(pixels.astype(np.float32))
    *expected, plain_answers = map(np.asarray, plain(inputs, training=False))
    answers, *values = (value[: len(pixels)] for value in (answers, *values))
    sample = f"on the first {len(pixels)} images of {images.path}"
    if first:
        sample = f"on images {first} to {first + len(pixels) - 1} of {images.path}"
    for layer, value, plain_value in zip(_cached_layers(frontier), values, expected, strict=True):
        difference = largest_difference(value, plain_value)
        if difference > TOLERANCE:
            raise InputError(
                f"layer `{layer}` gives {sample} up to "
                f"{difference:.2%} of its largest value more or less than the same layer in plain "
                f"Keras, expected {TOLERANCE:.2%} or less; please report this net"
            )
    wrong = ~explains(answers, answers.argmax(1), plain_answers)
    if wrong.any():
        raise InputError(
            f"{sample}, B's answer differs from that of plain Keras on {np.count_nonzero(wrong)}, "
            f"by more than rounding, behind layer `{frontier.layer}`; please report this net"
        )
