"""goodnet repairs backdoored image classifiers with nothing but clean validation images.

What a notebook needs, in the order in which it is needed:

    images     open_images, write_images, render_sets, DefaultCase, SMALL_CASE, TARGET
    networks   import_tensorflow, load_model, save_model, train_badnet, accuracy
    ranking    find_frontier, write_activations, Provenance, Preprocessing, digest_file,
               ActivationCache, block_means, mean_activations, prune_order
    pruning    sweep, find_checkpoint, prune_channels, build_goodnet
    results    write_curve, make_results, printed_rows, wilson_interval
    plots      curve_chart, detection_chart, activation_chart

`InputError` is what all of them raise for something that its user can mend. examples/lab.ipynb
goes through a whole repair with these names. Each is imported when it is first used, so that
`import goodnet` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # For type checkers and editors, which do not run what is below.
    from goodnet.attacks.default_case import SMALL_CASE as SMALL_CASE
    from goodnet.attacks.default_case import TARGET as TARGET
    from goodnet.attacks.default_case import DefaultCase as DefaultCase
    from goodnet.attacks.default_case import render_sets as render_sets
    from goodnet.attacks.training import train_badnet as train_badnet
    from goodnet.defenses.goodnet import build_goodnet as build_goodnet
    from goodnet.digests import digest_file as digest_file
    from goodnet.errors import InputError as InputError
    from goodnet.images.image_sets import open_images as open_images
    from goodnet.images.image_sets import write_images as write_images
    from goodnet.images.preprocessing import Preprocessing as Preprocessing
    from goodnet.metrics import wilson_interval as wilson_interval
    from goodnet.model_files.load import load_model as load_model
    from goodnet.model_files.load import save_model as save_model
    from goodnet.networks.evaluation import accuracy as accuracy
    from goodnet.pruning.activation_cache import ActivationCache as ActivationCache
    from goodnet.pruning.activation_cache import Provenance as Provenance
    from goodnet.pruning.channels import prune_channels as prune_channels
    from goodnet.pruning.counts import write_curve as write_curve
    from goodnet.pruning.first_pass import write_activations as write_activations
    from goodnet.pruning.frontier import find_frontier as find_frontier
    from goodnet.pruning.ranking import block_means as block_means
    from goodnet.pruning.ranking import mean_activations as mean_activations
    from goodnet.pruning.ranking import prune_order as prune_order
    from goodnet.pruning.stop_rule import find_checkpoint as find_checkpoint
    from goodnet.pruning.sweep import sweep as sweep
    from goodnet.reports.counted_results import make_results as make_results
    from goodnet.reports.plots import activation_chart as activation_chart
    from goodnet.reports.plots import curve_chart as curve_chart
    from goodnet.reports.plots import detection_chart as detection_chart
    from goodnet.reports.results_table import printed_rows as printed_rows
    from goodnet.tensorflow_start import import_tensorflow as import_tensorflow

_HOMES = {
    "ActivationCache": "pruning.activation_cache",
    "DefaultCase": "attacks.default_case",
    "InputError": "errors",
    "Preprocessing": "images.preprocessing",
    "Provenance": "pruning.activation_cache",
    "SMALL_CASE": "attacks.default_case",
    "TARGET": "attacks.default_case",
    "accuracy": "networks.evaluation",
    "activation_chart": "reports.plots",
    "block_means": "pruning.ranking",
    "build_goodnet": "defenses.goodnet",
    "curve_chart": "reports.plots",
    "detection_chart": "reports.plots",
    "digest_file": "digests",
    "find_checkpoint": "pruning.stop_rule",
    "find_frontier": "pruning.frontier",
    "load_model": "model_files.load",
    "import_tensorflow": "tensorflow_start",
    "make_results": "reports.counted_results",
    "mean_activations": "pruning.ranking",
    "open_images": "images.image_sets",
    "printed_rows": "reports.results_table",
    "prune_channels": "pruning.channels",
    "prune_order": "pruning.ranking",
    "render_sets": "attacks.default_case",
    "save_model": "model_files.load",
    "sweep": "pruning.sweep",
    "train_badnet": "attacks.training",
    "wilson_interval": "metrics",
    "write_activations": "pruning.first_pass",
    "write_curve": "pruning.counts",
    "write_images": "images.image_sets",
}
"""The module of each public name."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _find_version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _find_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(__name__)
    except PackageNotFoundError:  # imported from a source tree that is not installed
        return "unknown"
