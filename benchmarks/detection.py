"""What detectors are worth on the nets of benchmarks.cells: python -m benchmarks.detection.

Scores of a cell are kept beside its net, so that rules of joining them can be compared in seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.cells import CELLS, Cell
from goodnet.arrays import BoolArray, FloatArray, IntArray
from goodnet.command import Parser
from goodnet.defenses.calibration import calibrate, share_out
from goodnet.defenses.discriminant import Discriminant, fit_discriminant
from goodnet.defenses.guard import chosen_depths
from goodnet.pruning.activation_cache import ActivationCache, Provenance
from goodnet.pruning.ranking import block_means, mean_activations, prune_order
from goodnet.pruning.sweep import choose_expert, sweep_experts

if TYPE_CHECKING:
    from goodnet.pruning.frontier import Frontier

SETS = ("valid", "test", "poisoned")
SHARES = (0.05, 0.1, 0.2, 0.3)
Scores = dict[str, dict[str, FloatArray]]
"""By name of the score and of the set, (n,) each."""


def pass_over(cell: Cell, folder: Path) -> tuple[Frontier, dict[str, ActivationCache]]:
    """Run a cell's net over its sets, unless that was done before."""
    from goodnet.images.image_sets import open_images
    from goodnet.images.preprocessing import Preprocessing
    from goodnet.model_files.describe import describe_model
    from goodnet.model_files.load import load_model
    from goodnet.networks.graph import as_functional
    from goodnet.pruning.first_pass import write_activations
    from goodnet.pruning.frontier import find_frontier
    from goodnet.pruning.layer_choice import choose_layers

    file = folder / cell.name / "net.keras"
    layer, rank_at = choose_layers(describe_model(file), layer=None, rank_at=None)
    frontier = find_frontier(as_functional(load_model(file)), layer=layer, rank_at=rank_at)
    provenance = Provenance(
        "",
        "",
        layer,
        rank_at,
        Preprocessing(scale=cell.pixel_scale),
        frontier.model.output_shape[1],
    )
    caches = {}
    for name in SETS:
        path = folder / cell.name / f"{name}.parquet"
        images = open_images(folder / cell.name / f"{name}.h5")
        caches[name] = (
            ActivationCache(path)
            if path.exists()
            else write_activations(path, frontier=frontier, images=images, provenance=provenance)
        )
    return frontier, caches


def expert_scores(frontier: Frontier, caches: dict[str, ActivationCache]) -> Scores:
    """Return B's margin, the experts' margins in sum and one by one, and where they agree."""
    order = prune_order(mean_activations(block_means(caches["valid"])))
    counts, _ = sweep_experts(caches["valid"], frontier=frontier, order=order)
    steps = [choose_expert(counts, share=share) for share in SHARES]
    found: Scores = {}
    for name, cache in caches.items():
        _, margins = sweep_experts(
            cache, frontier=frontier, order=order, steps=[*steps, len(order)]
        )
        *chosen, own = margins.chosen
        found.setdefault("margin", {})[name] = own
        found.setdefault("expert sum", {})[name] = margins.total.astype(np.float32)
        found.setdefault("expert count", {})[name] = margins.agreeing.astype(np.float32)
        for share, values in zip(SHARES, chosen, strict=True):
            found.setdefault(f"expert {share:.0%}", {})[name] = values
    return found


def _fit(
    features: FloatArray, labels: IntArray, rows: BoolArray, *, depth: int, num_classes: int
) -> Discriminant:
    return fit_discriminant(
        lambda: [features[rows]], labels[rows], depth=depth, num_classes=num_classes
    )


def discriminant_scores(
    frontier: Frontier, caches: dict[str, ActivationCache]
) -> tuple[Scores, dict[str, FloatArray]]:
    """Return both scores at each depth, and what B' answers there by depth and set."""
    labels, predictions = caches["valid"].answers()
    folds = share_out(labels)
    num_classes = frontier.model.output_shape[1]
    found: Scores = {}
    rates = {}
    for depth, where in enumerate(frontier.depths):
        features = {
            name: np.concatenate(list(cache.features(depth))) for name, cache in caches.items()
        }

        def fit(
            rows: BoolArray, depth: int = depth, images: FloatArray = features["valid"]
        ) -> Discriminant:
            return fit_discriminant(
                lambda: [images[rows]], labels[rows], depth=depth, num_classes=num_classes
            )

        names = f"own {depth}", f"other {depth}"
        pooled = np.zeros((2, len(labels)), np.float32)
        right = np.zeros(len(labels), bool)
        for part in folds.parts:
            out = part.held_out
            fitted = fit(part.fit)
            pooled[:, out] = fitted.scores(features["valid"][out], predictions[out])
            right[out] = fitted.answers(features["valid"][out]) == labels[out]
        final = fit(folds.final)
        held = folds.calibrating
        for name, values in zip(names, pooled, strict=True):
            found.setdefault(name, {})["valid"] = values[held]
        accuracies = [right[held].mean()]
        for name in ("test", "poisoned"):
            for score, values in zip(
                names, final.scores(features[name], caches[name].answers()[1]), strict=True
            ):
                found.setdefault(score, {})[name] = values
            accuracies.append((final.answers(features[name]) == caches[name].answers()[0]).mean())
        rates[where.layer] = np.array(accuracies)
    return found, rates


def score(cell: Cell, folder: Path) -> tuple[Scores, dict[str, FloatArray]]:
    """Return all scores of a cell and the rates of B' at each depth; what is known is read."""
    file = folder / cell.name / "scores.npz"
    if not file.exists():
        start = time.perf_counter()
        frontier, caches = pass_over(cell, folder)
        passed = time.perf_counter()
        scores = expert_scores(frontier, caches)
        swept = time.perf_counter()
        held = share_out(caches["valid"].answers()[0]).calibrating
        for values in scores.values():
            values["valid"] = values["valid"][held]
        found, rates = discriminant_scores(frontier, caches)
        print(
            f"{cell.name}: pass {passed - start:.1f} s, experts {swept - passed:.1f} s, "
            f"discriminant {time.perf_counter() - swept:.1f} s"
        )
        arrays = {
            f"{name}|{part}": values
            for name, parts in (scores | found).items()
            for part, values in parts.items()
        }
        labels = {f"answers|{name}": np.array(caches[name].answers()) for name in SETS}
        kept: dict[str, Any] = {f"rates|{name}": values for name, values in rates.items()}
        np.savez(file, **kept | arrays | labels)
    scores, rates = {}, {}
    with np.load(file) as content:
        for key in content.files:
            name, part = key.split("|")
            if name == "rates":
                rates[part] = content[key]
            elif name != "answers":
                scores.setdefault(name, {})[part] = content[key]
    return scores, rates


def joined_names(scores: Scores) -> list[str]:
    """Return the names of the scores that `goodnet.defenses.guard` joins."""
    depths = chosen_depths(sum(name.startswith("own") for name in scores))
    owns = [f"own {depth}" for depth in depths[-2:]]
    return ["margin", "expert 20%", *owns, *(f"other {depth}" for depth in depths[:2])]


def rates_of(scores: Scores, names: Sequence[str], baited: BoolArray) -> tuple[float, float, float]:
    """Return false alarms, and detection of all poisoned images and of those that B falls for."""
    found = calibrate({name: scores[name]["valid"] for name in names})
    flagged = {
        part: found.join({name: scores[name][part] for name in names}) > np.float32(found.threshold)
        for part in ("test", "poisoned")
    }
    detected = flagged["poisoned"]
    caught = detected[baited].mean() if baited.any() else np.nan
    return float(flagged["test"].mean()), float(detected.mean()), float(caught)


def print_table(title: str, cells: Sequence[Cell], folder: Path) -> None:
    """Print false alarms and detection in percent, a row a cell and a column a way to detect."""
    columns: dict[str, Callable[[Scores], list[str]]] = {
        "control": lambda scores: ["margin"],
        "expert sum": lambda scores: ["expert sum"],
        "expert": lambda scores: ["expert 20%"],
        "own first": lambda scores: ["own 0"],
        "own middle": lambda scores: [joined_names(scores)[2]],
        "own last": lambda scores: [joined_names(scores)[3]],
        "other first": lambda scores: [joined_names(scores)[4]],
        "other middle": lambda scores: [joined_names(scores)[5]],
        "**joined**": joined_names,
        "all but control": lambda scores: joined_names(scores)[1:],
        "all but expert": lambda scores: [x for x in joined_names(scores) if "expert" not in x],
        "all but own": lambda scores: [x for x in joined_names(scores) if "own" not in x],
        "all but other": lambda scores: [x for x in joined_names(scores) if "other" not in x],
    }
    print(f"| {title} | B clean / ASR |", " | ".join(columns), "|")
    print("|---|---|" + "---|" * len(columns))
    rows = []
    for cell in cells:
        scores, _ = score(cell, folder)
        answers = {
            name: np.load(folder / cell.name / "scores.npz")[f"answers|{name}"] for name in SETS
        }
        clean, bait = (np.equal(*answers[name]) for name in ("test", "poisoned"))
        bait &= cell.attack != "clean"
        row = [rates_of(scores, names(scores), bait) for names in columns.values()]
        rows.append(row)
        shown = (
            f"{100 * alarms:.1f} / {100 * caught:.1f}" if bait.any() else f"{100 * alarms:.1f}"
            for alarms, _, caught in row
        )
        print(
            f"| {cell.name} | {100 * clean.mean():.1f} / {100 * bait.mean():.1f} |",
            " | ".join(shown),
            "|",
        )
    found = 100 * np.array(rows)
    for name, pick in (("mean", np.nanmean), ("worst", np.nanmin)):
        alarms = found[..., 0].max(axis=0) if name == "worst" else found[..., 0].mean(axis=0)
        shown = (
            f"{x:.1f} / {y:.1f}" for x, y in zip(alarms, pick(found[..., 2], axis=0), strict=True)
        )
        print(f"| {name} | |", " | ".join(shown), "|")


def main(argv: list[str] | None = None) -> None:
    """Print what each score and all together detect, and what B' at each depth answers."""
    parser = Parser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="of benchmarks.cells")
    options = parser.parse_args(argv)
    there = [cell for cell in CELLS if (options.folder / cell.name / "net.keras").exists()]
    for held_out, title in ((False, "seen"), (True, "held out")):
        cells = [cell for cell in there if cell.held_out == held_out]
        if cells:
            print_table(title, cells, options.folder)
    for cell in there:
        _, rates = score(cell, options.folder)
        shown = (
            f"{name} {100 * clean:.1f} / {100 * attack:.1f}"
            for name, (_, clean, attack) in rates.items()
        )
        print(f"{cell.name}: B' at", ", ".join(shown))


if __name__ == "__main__":
    main()
