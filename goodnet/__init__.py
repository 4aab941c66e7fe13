"""goodnet repairs backdoored image classifiers with nothing but clean validation images.

What a notebook needs, in the order in which it is needed:

    images     open_images, write_images, render_sets, DefaultCase, SMALL_CASE, TARGET
    networks   import_tensorflow, load_model, save_model, train_badnet, accuracy
    ranking    find_frontier, write_activations, Provenance, digest_file, ActivationCache,
               block_means, mean_activations, prune_order
    pruning    goodnet.pruning.sweep.sweep, find_checkpoint, prune_channels, build_goodnet
    results    write_curve, make_results, printed_rows, wilson_interval
    plots      curve_chart, detection_chart, activation_chart

`InputError` is what all of them raise for something that its user can mend. examples/lab.ipynb
goes through a whole repair with these names. Each is imported when it is first used, so that
`import goodnet` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "ActivationCache": "pruning.activation_cache",
    "DefaultCase": "attacks.default_case",
    "InputError": "errors",
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
    "make_results": "reports.results",
    "mean_activations": "pruning.ranking",
    "open_images": "images.image_sets",
    "printed_rows": "reports.results",
    "prune_channels": "pruning.channels",
    "prune_order": "pruning.ranking",
    "render_sets": "attacks.default_case",
    "save_model": "model_files.load",
    "train_badnet": "attacks.training",
    "wilson_interval": "metrics",
    "write_activations": "pruning.first_pass",
    "write_curve": "pruning.counts",
    "write_images": "images.image_sets",
}
"""The module of each public name. A name that is also a module's, as `sweep`, cannot be here."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
