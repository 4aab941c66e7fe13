"""The guard: all that scores of images are computed with, and what it makes of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from goodnet.arrays import FloatArray, IntArray
from goodnet.defenses.calibration import share_out
from goodnet.defenses.detectors import all_scores, chosen_depths
from goodnet.defenses.discriminant import Discriminant, Look, fit_rows, rows_of
from goodnet.defenses.fine_tuning import TunedAnswers
from goodnet.defenses.seam import CleanPass, Evidence, Scores
from goodnet.pruning.activation_cache import ActivationCache
from goodnet.pruning.counts import Counts
from goodnet.pruning.frontier import Frontier
from goodnet.pruning.sweep import choose_expert, margins_at
from goodnet.threads import mapped, one_blas_thread

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Seen:
    """What was made of n images.

    Attributes:
        scores: all that are joined.
        nearest: the nearest class by the discriminant at each depth, (n,) each, by layer; nothing
            where classes have too few images.
        tuned: the answers of the fine-tuned net, if there is one.
        instead: the class of the second opinion, which is not the one that B answers, (n,); None
            without such an opinion.
    """

    scores: Scores
    nearest: dict[str, IntArray]
    tuned: IntArray | None
    instead: IntArray | None


@dataclass(frozen=True, eq=False)
class Guard:
    """All that scores of images are computed with, but for the fine-tuned net.

    Attributes:
        order: all channels in prune order.
        expert: the k of the expert E_k whose margin is a score.
        discriminants: of all depths of B, the first first.
    """

    order: tuple[int, ...]
    expert: int
    discriminants: tuple[Discriminant, ...]

    @property
    def second_opinion(self) -> Discriminant | None:
        """The one that answers where B is not believed, if there is no fine-tuned net."""
        return _second_opinion(self.discriminants)

    def look(
        self,
        cache: ActivationCache,
        frontier: Frontier,
        tuned: TunedAnswers | None = None,
        *,
        blocks: range | None = None,
    ) -> Seen:
        """Return what is made of the images of a set, in their order.

        Args:
            cache: of the first pass of B over the set.
            frontier: of B.
            tuned: what the fine-tuned net makes of them, if there is one.
            blocks: the blocks whose images are meant, or all.
        """
        blocks = range(cache.num_blocks) if blocks is None else blocks
        margins = both_margins(cache, frontier, order=self.order, expert=self.expert, blocks=blocks)
        _, every = cache.answers()
        rows = cache.rows_of(blocks)
        predictions = every[rows.start : rows.stop]
        looks = _each(
            self.discriminants,
            lambda fitted: look_at(cache.features(fitted.depth, blocks), predictions, fitted),
        )
        return _seen(margins, looks, self.discriminants, tuned)


class FittedDepth(NamedTuple):
    """Class statistics at one depth, and what is made with others of the images that calibrate."""

    discriminant: Discriminant
    look: Look


def join_seen(parts: Sequence[Seen]) -> Seen:
    """Reduce: put together what was made of the images of the parts of a set, in their order."""
    first = parts[0]
    tuned, instead = (
        [found for part in parts if (found := getattr(part, name)) is not None]
        for name in ("tuned", "instead")
    )
    return Seen(
        {name: np.concatenate([part.scores[name] for part in parts]) for name in first.scores},
        {name: np.concatenate([part.nearest[name] for part in parts]) for name in first.nearest},
        np.concatenate(tuned) if tuned else None,
        np.concatenate(instead) if instead else None,
    )


def fit_guard(
    clean: CleanPass,
    order: Sequence[int],
    experts: Counts,
    tuned: TunedAnswers | None = None,
    *,
    depths: Sequence[FittedDepth] | None = None,
) -> tuple[Guard, Seen]:
    """Fit the scores to clean validation.

    Args:
        clean: B and its pass over clean validation.
        order: all channels in prune order.
        experts: how the experts answer clean validation.
        tuned: what nets that were fine-tuned without them make of the images that calibrate.
        depths: what `fit_depth` gave for each depth of B, if that is known by now.

    Returns:
        The guard, and what is made of the images that calibrate, none of which was among those that
        class statistics or a fine-tuned net were fitted to.
    """
    expert = choose_expert(1 - experts.flagged / experts.images)
    labels, _ = clean.cache.answers()
    calibrating = share_out(labels).calibrating
    every = both_margins(clean.cache, clean.frontier, order=order, expert=expert)
    held = Margins(every.whole[calibrating], every.expert[calibrating])
    if depths is None:
        layers = enumerate(depth.layer for depth in clean.frontier.depths)
        depths = _each(layers, lambda one: fit_depth(clean.cache, *one))
    discriminants, looks = [one.discriminant for one in depths], [one.look for one in depths]
    guard = Guard(tuple(order), expert, tuple(discriminants))
    return guard, _seen(held, looks, discriminants, tuned)


def _each(items: Iterable[Item], function: Callable[[Item], Result]) -> list[Result]:
    """Return what a function gives for each item, on two cores."""
    # Two small products at once are faster than one after the other, each on two threads.
    with one_blas_thread():
        return list(mapped(function, items))


class _SeenDepth(NamedTuple):
    """A depth as detectors see it."""

    layer: str
    tells_classes_apart: bool
    distance: FloatArray
    nearer: FloatArray


def _seen(
    margins: Margins,
    looks: Sequence[Look],
    discriminants: Sequence[Discriminant],
    tuned: TunedAnswers | None,
) -> Seen:
    """Put together what B, discriminants and the fine-tuned net make of images."""
    by_depth = list(zip(discriminants, looks, strict=True))
    depths = [
        _SeenDepth(fitted.layer, fitted.tells_classes_apart, look.distance, look.nearer)
        for fitted, look in by_depth
    ]
    by_tuned = None if tuned is None else tuned.margins
    scores = all_scores(Evidence(margins.whole, margins.expert, by_tuned, depths))
    nearest = {
        fitted.layer: look.nearest for fitted, look in by_depth if fitted.tells_classes_apart
    }
    if tuned is not None:
        return Seen(scores, nearest, tuned.answers, tuned.others)
    opinion = _second_opinion(discriminants)
    return Seen(scores, nearest, None, None if opinion is None else looks[opinion.depth].other)


def _second_opinion(discriminants: Sequence[Discriminant]) -> Discriminant | None:
    """Return the one at the middle depth, if it tells classes apart.

    Deeper ones are more accurate. That B's class is left out keeps the attacker's away from it.
    """
    middle = chosen_depths(discriminants)[:2][-1:]
    return next((fitted for fitted in middle if fitted.tells_classes_apart), None)


def fit_depth(cache: ActivationCache, depth: int, layer: str) -> FittedDepth:
    """Fit a discriminant, and look at the images that calibrate with one that has not seen them.

    Args:
        cache: of B's pass over clean validation.
        depth: the number of a depth of B.
        layer: the layer there.
    """
    labels, predictions = cache.answers()
    folds = share_out(labels)
    fitted = fit_rows(cache, depth, layer, folds.final)
    distance, nearer = np.zeros((2, len(labels)), np.float32)
    nearest, other = np.zeros((2, len(labels)), np.int64)
    for part in folds.parts:
        same = part.fit is folds.final
        without = fitted if same else fit_rows(cache, depth, layer, part.fit)
        rows = part.held_out
        found = look_at(rows_of(cache, depth, rows), predictions[rows], without)
        distance[rows], nearer[rows], nearest[rows], other[rows] = found
    held = folds.calibrating
    return FittedDepth(fitted, Look(distance[held], nearer[held], nearest[held], other[held]))


class Margins(NamedTuple):
    """By how much the class that B answers exceeds the best other one, (n,) each."""

    whole: FloatArray
    expert: FloatArray


def both_margins(
    cache: ActivationCache,
    frontier: Frontier,
    *,
    order: Sequence[int],
    expert: int,
    blocks: range | None = None,
) -> Margins:
    """Return the margin of B's class in B itself, the control, and in an expert.

    Args:
        cache: of a set.
        frontier: of B.
        order: all channels in prune order.
        expert: how many of them the expert keeps.
        blocks: numbers of blocks, or all.
    """
    steps = [len(order), expert]
    found = margins_at(cache, frontier=frontier, order=order, steps=steps, blocks=blocks)
    return Margins(*found)


def look_at(features: Iterable[FloatArray], predictions: IntArray, fitted: Discriminant) -> Look:
    """Return what a discriminant makes of images.

    Args:
        features: (n, F) of each block.
        predictions: B's answers to the images of all blocks.
        fitted: the discriminant of that depth.
    """
    found, first = [], 0
    for block in features:
        found.append(fitted.look(block, predictions[first : first + len(block)]))
        first += len(block)
    return Look(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
