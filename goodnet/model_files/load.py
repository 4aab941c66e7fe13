"""Loading checked model files into Keras, and saving a model as the same bytes each time."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from goodnet.errors import InputError
from goodnet.model_files.archives import WEIGHTS_MEMBER, extract_weights
from goodnet.model_files.build import build_model
from goodnet.model_files.deepid_weights import load_deepid
from goodnet.model_files.describe import (
    ModelDescription,
    ModelKind,
    StoredModel,
    describe_model,
    errors_about,
    require_model_file,
)
from goodnet.model_files.inference_config import fix_channel_axis
from goodnet.model_files.limits import DEFAULT_LIMITS, ModelLimits
from goodnet.model_files.measuring import measure, shorten
from goodnet.model_files.model_needs import NUM_IMAGES, Needs
from goodnet.model_files.two_classes import widen
from goodnet.networks.graph import as_functional, in_float32, set_weights, take_over_weights
from goodnet.networks.rounding import TOLERANCE
from goodnet.storage.files import naming, put_in_place
from goodnet.storage.private_folders import private_folder
from goodnet.tensorflow_start import import_tensorflow

if TYPE_CHECKING:
    import keras

_SUFFIXES: dict[ModelKind, str] = {
    "keras archive": ".keras",
    "hdf5 model": ".h5",
    "hdf5 weights": ".weights.h5",
}
"""What Keras wants a file's name to end with; it takes a file for what its suffix says."""

_FIXED_TIME = (1980, 1, 1, 0, 0, 0)
_FIXED_DATE = "1980-01-01@00:00:00"


def load_model(
    path: str | Path, *, architecture: str | None = None, limits: ModelLimits = DEFAULT_LIMITS
) -> keras.Model:
    """Load an image classifier from a file that need not be trusted, uncompiled.

    The file is copied once into a private folder; what is checked there is what Keras loads.

    Args:
        path: a file that `describe_model` accepts.
        architecture: the network that a file with weights only belongs to.
        limits: how large the file and the model may be.

    Returns:
        A functional model from (None, H, W, C) to (None, classes) that computes in float32,
        whatever the precision of the net in the file. The layers of models in that net stand in
        the model itself, and a net of one answer, the probability of class 1 or its logit, gives
        one for each of the two classes.

    Raises:
        InputError: the file is refused, or Keras cannot build what it describes.
    """
    path = Path(path)
    with _private_copy(path, limits) as copy:
        with errors_about(path, copy):
            description = describe_model(copy, architecture=architecture, limits=limits)
        import_tensorflow()
        private = copy.rename(copy.with_suffix(_SUFFIXES[description.kind]))
        with errors_about(path, private), _build_errors(private):
            model = _load(private, description, limits)
            _require_numbers(model, private)
            _require_classifier(model, private, description.input_shape)
    return as_functional(in_float32(model))


def save_model(model: keras.Model, path: str | Path) -> None:
    """Write `model` to `path` as a Keras archive that any Keras 3 loads.

    The file appears under its name only when it is complete. The same model gives the same bytes:
    times and object ids, which Keras writes along, are replaced by fixed ones.

    Args:
        model: of layers that Keras can save.
        path: of the file, in a folder that is there; a file of that name is replaced.

    Raises:
        InputError: the name does not end in .keras.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise InputError(f"{path}: models are saved as .keras, expected a name that ends so")
    with naming(path), tempfile.TemporaryDirectory(prefix=".saving-", dir=path.parent) as folder:
        written = Path(folder) / "written.keras"
        finished = Path(folder) / "finished.keras"
        model.save(written)
        _rewrite_archive(written, finished)
        put_in_place(finished, path)


@contextmanager
def _private_copy(path: Path, limits: ModelLimits) -> Iterator[Path]:
    require_model_file(path, limits)
    with private_folder() as folder:
        copy = folder / "model"
        shutil.copyfile(path, copy)
        yield copy


def _load(path: Path, description: ModelDescription, limits: ModelLimits) -> keras.Model:
    if description.kind == "hdf5 weights":
        return load_deepid(path, description.num_classes or 0)
    _require_acceptable(path, description, limits)
    if description.stored is None:
        model = build_model(description.config)
        _load_weights(model, path, description)
        return model
    stored = build_model(description.stored.config)
    _load_weights(stored, path, description)
    model = build_model(description.config)
    _copy_weights(stored, model, description.stored)
    _require_same_answers(stored, model, path)
    return model


def _load_weights(model: keras.Model, path: Path, description: ModelDescription) -> None:
    if description.kind == "keras archive":
        # In the archive itself Keras reads them a piece at a time: three times as long.
        weights = path.with_name(WEIGHTS_MEMBER)
        extract_weights(path, weights)
    else:
        weights = path
    try:
        model.load_weights(weights)
    except Exception as error:
        if not description.of_keras_2:
            raise
        raise InputError(
            f"{path}: Keras 3 cannot read the weights as Keras 2 stored them ({shorten(error)}), "
            "expected another format: load the net in that Keras and save it there as .h5"
        ) from error
    take_over_weights(model)


def _copy_weights(stored: keras.Model, model: keras.Model, description: StoredModel) -> None:
    """Give the layers of a model the weights that they have in the model of the file."""
    for layer in model.layers:
        if not layer.weights:
            continue  # A Sequential model does not give out its input layer.
        source = stored
        for name in description.paths.get(layer.name, (layer.name,)):
            source = source.get_layer(name)
        weights = source.get_weights()
        set_weights(layer, widen(weights) if layer.name == description.logit else weights)


def _require_same_answers(stored: keras.Model, model: keras.Model, path: Path) -> None:
    """Refuse a net that answers noise otherwise than the one in the file that it was made of."""
    shape = (NUM_IMAGES, *model.input_shape[1:])
    noise = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    nets = map(as_functional, (stored, model))
    expected, found = (np.asarray(net(noise, training=False)) for net in nets)
    found = found[:, -expected.shape[-1] :]  # Of one value two were made, the last of them it.
    reach = TOLERANCE * np.nan_to_num(np.abs(expected)).max()
    if not np.allclose(found, expected, rtol=0, atol=reach, equal_nan=True):
        raise InputError(
            f"{path}: answers otherwise once the models in it are put into one, expected a net "
            "without models in it"
        )


@contextmanager
def _build_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: Keras cannot build the model ({shorten(error)})") from error


def _require_acceptable(path: Path, description: ModelDescription, limits: ModelLimits) -> None:
    """Refuse nets that would fill memory or time, or that the file holds too few weights for.

    Where the net is made of another one in the file, that is built too.
    """
    needs = _measure(path, description.config, limits)
    if description.stored is not None:
        needs = _measure(path, description.stored.config, limits)
    if needs.num_parameters > description.num_parameters:
        raise InputError(
            f"{path}: holds {description.num_parameters:,} weights, "
            f"its layers need {needs.num_parameters:,}"
        )


def _measure(path: Path, config: dict[str, Any], limits: ModelLimits) -> Needs:
    try:
        needs = measure(config, limits)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if needs.num_made > limits.max_parameters:
        raise InputError(
            f"{path}: its layers declare {needs.num_made:,} parameters, "
            f"expected {limits.max_parameters:,} or less"
        )
    if needs.num_values > limits.max_values:
        raise InputError(
            f"{path}: layer `{needs.widest}` computes {needs.num_values:,} values an image, "
            f"expected {limits.max_values:,} or less"
        )
    if needs.num_live_values > limits.max_live_values:
        raise InputError(
            f"{path}: its layers keep {needs.num_live_values:,} values of an image at once, "
            f"expected {limits.max_live_values:,} or less"
        )
    if needs.num_multiplications > limits.max_multiplications:
        raise InputError(
            f"{path}: takes {needs.num_multiplications:,} multiplications an image, most of them "
            f"in layer `{needs.costliest}`, expected {limits.max_multiplications:,} or less"
        )
    if needs.answers[0] != NUM_IMAGES:
        raise InputError(
            f"{path}: gives {needs.answers[0]} answers to {NUM_IMAGES} images, expected one each"
        )
    return needs


def _require_numbers(model: keras.Model, path: Path) -> None:
    """Refuse weights that make NaN, which a ReLU turns into 0: the channel would pass for quiet."""
    for weight in model.weights:
        values = weight.numpy()
        layer, name = weight.path.split("/")[-2:]
        if not np.isfinite(values).all():
            raise InputError(
                f"{path}: layer `{layer}` has NaN or infinity in its {name}, expected numbers"
            )
        if name.endswith("variance") and (values < 0).any():
            raise InputError(f"{path}: layer `{layer}` has a negative {name}")


def _require_classifier(model: keras.Model, path: Path, input_shape: tuple[int, int, int]) -> None:
    expected = (None, *input_shape)
    if len(model.inputs) != 1 or tuple(model.input_shape) != expected:
        raise InputError(f"{path}: takes input of shape {model.input_shape}, expected {expected}")
    shape = model.output_shape
    if len(model.outputs) != 1 or len(shape) != 2 or shape[0] is not None or (shape[1] or 0) < 2:
        raise InputError(f"{path}: has an output of shape {shape}, expected (None, classes)")


def _rewrite_archive(source: Path, target: Path) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in sorted(old.namelist()):
            member = zipfile.ZipInfo(name, date_time=_FIXED_TIME)
            with old.open(name) as data, new.open(member, "w", force_zip64=True) as out:
                if name == "config.json":
                    out.write(_settle(data.read()))
                elif name == "metadata.json":
                    out.write(json.dumps(json.load(data) | {"date_saved": _FIXED_DATE}).encode())
                else:
                    shutil.copyfileobj(data, out, 2**20)


def _settle(config: bytes) -> bytes:
    """Replace the memory addresses by which Keras marks shared objects with 1, 2, 3 …

    Channels are made to be the last axis wherever the file is loaded, too.
    """
    numbers: dict[Any, int] = {}

    def replace(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {
            key: numbers.setdefault(value, len(numbers) + 1) if key == "shared_object_id" else value
            for key, value in pairs
        }

    value = json.loads(config, object_pairs_hook=replace)
    fix_channel_axis(value)
    return json.dumps(value).encode()
