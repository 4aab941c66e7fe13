"""goodnet repairs backdoored image classifiers with nothing but clean validation images.

What a notebook needs, in the order in which it is needed:

    one call   repair, which does all of it and gives a Repair; the steps beneath it:
    images     open_images, write_images, render_sets, DefaultCase, SMALL_CASE, TARGET
    networks   import_tensorflow, load_model, save_model, train_badnet, accuracy
    ranking    find_frontier, write_activations, Provenance, Preprocessing, digest_file,
               ActivationCache, block_means, mean_activations, prune_order
    pruning    sweep, find_checkpoint, prune_channels, build_goodnet
    results    write_curves, make_results, printed_rows, wilson_interval
    plots      curve_chart, detection_chart, activation_chart, as Vega-Lite

`InputError` is what all of them raise for something that its user can mend. examples/lab.ipynb
goes through a whole repair with these names. Each is imported when it is first used, so that
`import goodnet` costs nothing.
"""

from __future__ import annotations

import os
from typing import Any

import lazy_loader

# OpenBLAS's threads wait for their next product at full speed, by default for 2^26 ticks of the
# processor, and what comes between two products does without that core: TensorFlow, files, other
# nets of an audit. They sleep after 2^18, 0.1 ms. OpenBLAS asks for it when NumPy is imported.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "18")

_import_name, _list_names, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __dir__() -> list[str]:
    return [*_list_names(), "__version__"]


def __getattr__(name: str) -> Any:
    return _find_version() if name == "__version__" else _import_name(name)


def _find_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(__name__)
    except PackageNotFoundError:  # imported from a source tree that is not installed
        return "unknown"
