"""goodnet repairs backdoored image classifiers with nothing but clean validation images.

What a notebook needs, in the order in which it is needed:

    images     open_images, write_images, render_sets, DefaultCase, SMALL_CASE, TARGET
    networks   import_tensorflow, load_model, save_model, train_badnet, accuracy
    ranking    find_frontier, write_activations, Provenance, digest_file, ActivationCache,
               block_means, mean_activations, prune_order
    pruning    goodnet.sweep.sweep, find_checkpoint, prune_channels, build_goodnet
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
    "ActivationCache": "activations",
    "DefaultCase": "default_case",
    "InputError": "errors",
    "Provenance": "activations",
    "SMALL_CASE": "default_case",
    "TARGET": "default_case",
    "accuracy": "evaluation",
    "activation_chart": "plots",
    "block_means": "ranking",
    "build_goodnet": "detector",
    "curve_chart": "plots",
    "detection_chart": "plots",
    "digest_file": "digests",
    "find_checkpoint": "checkpoints",
    "find_frontier": "frontier",
    "load_model": "models",
    "import_tensorflow": "tensorflow_start",
    "make_results": "results",
    "mean_activations": "ranking",
    "open_images": "images",
    "printed_rows": "results",
    "prune_channels": "pruning",
    "prune_order": "ranking",
    "render_sets": "default_case",
    "save_model": "models",
    "train_badnet": "training",
    "wilson_interval": "metrics",
    "write_activations": "first_pass",
    "write_curve": "curves",
    "write_images": "images",
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
