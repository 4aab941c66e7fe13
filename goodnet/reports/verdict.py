"""One honest sentence on what a repair is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from goodnet.metrics import percent, points
from goodnet.pruning.poisoned import Attack
from goodnet.reports.results import RATES, Checkpoint, Rates, Results, Unreached, measured

STOPPED = 0.05
"""Up to this attack success rate the attack counts as stopped; cheaper then beats lower.

The leaderboard of a benchmark counts a net as repaired up to the same rate.
"""

WEAKENED = 0.5
"""From this attack success rate on, the attack counts as not stopped.

The cells of BackdoorBench that the leaderboard compares with are those that show so much before.
"""

FOLLOWED = 0.95
"""From this share of answers on, B follows the labels of poisoned images: they name the attack."""

RUINED = 0.5
"""A GoodNet that keeps less than this share of B's clean accuracy is of no use to anybody."""

Grade = Literal["stopped", "weakened", "not stopped"]
_DOES: Mapping[Grade, str] = {
    "stopped": "stops",
    "weakened": "weakens",
    "not stopped": "does not stop",
}


def grade(attack_success_rate: float) -> Grade:
    """Return what became of an attack by what is left of it.

    Args:
        attack_success_rate: of a repaired net, 0 to 1.
    """
    if attack_success_rate <= STOPPED:
        return "stopped"
    return "weakened" if attack_success_rate < WEAKENED else "not stopped"


def is_ruined(baseline: Rates, goodnet: Rates) -> bool:
    """Return whether a GoodNet keeps so little of B's clean accuracy that it is of no use."""
    return goodnet.clean_accuracy < RUINED * baseline.clean_accuracy


def verdict(results: Results) -> str:
    """Say what to use and what that is worth; of runs without a calibrated GoodNet, of pruning."""
    found = results.recommended
    return (
        pruning_verdict(results) if found is None else f"{found.verdict.capitalize()}: {found.why}"
    )


def pruning_verdict(results: Results) -> str:
    """Say in one sentence what pruning is worth.

    The checkpoint it speaks of is the one that lets least of the attack through and still works;
    among those that stop the attack, the cheapest.
    """
    baseline = results.baseline
    attack = baseline.attack_success_rate
    reached = sorted(results.reached, key=_depth)
    doubt = attack_doubt(results)
    if doubt is not None:
        return doubt
    if not reached:
        asked = [one.drop for one in results.checkpoints if isinstance(one, Unreached)]
        return _nothing_reached(asked)
    if attack is None:
        return (
            "The attack could not be measured, because no poisoned images were given: all that is "
            f"known is that {_costs(baseline, reached)}."
        )
    if shows_no_backdoor(results):
        return (
            f"B gives only {percent(attack)} of the poisoned images the attacker's label"
            f"{_answers_instead(results)}: these images show no backdoor that a repair could "
            "remove, which does not mean that there is none, while "
            f"{_costs(baseline, reached)}."
        )
    if not any(checkpoint.goodnet.detection_rate for checkpoint in reached):
        return (
            "The repair does not stop the attack: no GoodNet flags a single poisoned image, and "
            f"{percent(reached[0].goodnet.attack_success_rate)} of them get through, "
            f"although {_costs(baseline, reached)}."
        )
    return _judge(baseline, reached)


def attack_doubt(results: Results) -> str | None:
    """Say it if B gives one class to poisoned images whose labels, or the target, name others.

    The attack success rate then counts something else than the attack, and a low one is no good
    news. In doubt is an answer that is more than half-way from what its share would be without an
    attack to all of the images. Without one it would be the share of its label where labels are
    from before the trigger; else all classes but the label are alike, so that with two classes
    the other one is no surprise. One label for all images may also be the attacker's, given beside
    another target: nobody can tell, and a net is not to pass for that.
    """
    attack, rate = results.attack, results.baseline.attack_success_rate
    if attack is None or rate is None or rate >= FOLLOWED:
        return None
    by_image = attack.target is None and attack.num_labels > 1
    wanted = attack.label if attack.target is None else attack.target
    if attack.answer == wanted and not by_image:
        return None
    known = by_image or (attack.original_labels and attack.num_labels > 1)
    usual = attack.labelled / attack.images if known else 1 / (results.classes - 1)
    if attack.answered / attack.images <= (1 + usual) / 2:
        return None
    answer = results.describe_class(attack.answer)
    shown = attack.original_labels and attack.answer == attack.label
    instead = f", or images of other classes too if it is class {answer} that they show"
    return (
        f"B answers class {answer} to {_of(attack)} poisoned images; {_named(attack, results)}. "
        "So the attack success rates say nothing of the attack that these images show: give "
        f"{attack.answer} as the target to measure it{instead if shown else ''}."
    )


def _named(attack: Attack, results: Results) -> str:
    if attack.target is not None:
        return f"the target given is class {results.describe_class(attack.target)}"
    if attack.num_labels > 1:
        return f"these labels name {attack.num_labels} classes"
    return f"these labels name class {results.describe_class(attack.label)}"


def _answers_instead(results: Results) -> str:
    attack = results.attack
    if attack is None:
        return ""
    answer = results.describe_class(attack.answer)
    return f" and answers class {answer} most often ({_of(attack)})"


def _of(attack: Attack) -> str:
    return f"{attack.answered} of {attack.images}"


def remarks(results: Results) -> list[str]:
    """Return what whoever reads the rates should know besides the verdict, a sentence each."""
    attack, lines = results.attack, list(results.remarks)
    if attack is None:
        return lines
    by_image = attack.target is None and attack.num_labels > 1
    if by_image and attack_doubt(results) is None:
        lines.append(
            f"The labels of the poisoned images name {attack.num_labels} classes and count as "
            "the attacker's; if they are those from before the trigger, give his as the target."
        )
    if attack.original_labels and attack.target is not None:
        target = results.describe_class(attack.target)
        lines.append(
            f"The labels of the poisoned images are those from before the trigger: counted are the "
            f"{attack.images:,} that were not of class {target} already."
        )
    return lines


def shows_no_backdoor(results: Results) -> bool:
    """Return whether B answers poisoned images with the attacker's label hardly ever."""
    attack = results.baseline.attack_success_rate
    return attack is not None and attack <= _chance(results.classes)


def best_checkpoint(results: Results) -> Checkpoint | None:
    """Return the checkpoint that the verdict speaks of, or None if no step drops that far.

    Where no poisoned images were given, it is the cheapest.
    """
    return _best(results.baseline, results.reached) if results.reached else None


def _best(baseline: Rates, reached: Sequence[Checkpoint]) -> Checkpoint:
    if baseline.attack_success_rate is None:
        return min(reached, key=_depth)
    return min(reached, key=lambda checkpoint: _rank(baseline, checkpoint))


def _chance(classes: int) -> float:
    """Return the attack success rate that a net without a backdoor may well show.

    Of two classes it may be that of guessing, but not more.
    """
    # Guessing gives one label to 1 of N images, and a trigger that hides what is shown may make a
    # clean net lean to it: twice that. Of many classes that is next to nothing, while a clean net
    # was seen to give 2.4 % (docs/methods.md): a tenth. Of two it would be every image: half.
    return max(0.1, min(0.5, 2 / classes))


def _nothing_reached(asked: Sequence[float]) -> str:
    drops = [f"{drop:g}" for drop in asked]
    listed = " or ".join([", ".join(drops[:-1]), drops[-1]] if len(drops) > 1 else drops)
    return (
        f"There is no repaired network to judge: no step of the pruning costs {listed or 'any'} "
        "points of clean validation accuracy."
    )


def _judge(baseline: Rates, reached: Sequence[Checkpoint]) -> str:
    best = _best(baseline, reached)
    goodnet = best.goodnet
    remaining = measured(goodnet.attack_success_rate)
    still = "" if grade(remaining) == "stopped" else "still "
    clauses = [
        f"{_found(baseline, best)}: the GoodNet at {best.asked} {still}lets "
        f"{percent(remaining)} of the poisoned images through",
        f"flags {percent(goodnet.detection_rate)} of them",
    ]
    if goodnet.false_alarm_rate is not None:
        alarms = percent(goodnet.false_alarm_rate)
        clauses.append(f"raises false alarms on {alarms} of the clean test images")
    cost = f"costs {points(_cost(baseline, best))} points of {_clean_set(baseline)} accuracy"
    return f"{', '.join(clauses)} and {cost}{_cheapest(best, reached[0])}."


def _cheapest(best: Checkpoint, first: Checkpoint) -> str:
    """Return what the cheapest checkpoint does, unless the sentence is about it already."""
    if first is best:
        return ""
    if not first.goodnet.detection_rate:
        return f"; at {first.asked} it detects nothing"
    through = percent(first.goodnet.attack_success_rate)
    return f"; at {first.asked} it lets {through} through"


def _found(baseline: Rates, checkpoint: Checkpoint) -> str:
    if is_ruined(baseline, checkpoint.goodnet):
        return "The repair ruins the network"
    found = grade(measured(checkpoint.goodnet.attack_success_rate))
    return f"The repair {_DOES[found]} the attack"


def _depth(checkpoint: Checkpoint) -> tuple[int, float]:
    """Return what puts first the checkpoint that prunes least, which is the cheapest."""
    return checkpoint.step, checkpoint.drop or 0


def _rank(baseline: Rates, checkpoint: Checkpoint) -> tuple[bool, float, tuple[int, float]]:
    # A net that answers nothing right lets no attack through either: ruined ones come last.
    remaining = max(STOPPED, measured(checkpoint.goodnet.attack_success_rate))
    return is_ruined(baseline, checkpoint.goodnet), remaining, _depth(checkpoint)


def _costs(baseline: Rates, reached: Sequence[Checkpoint]) -> str:
    costs = sorted(_cost(baseline, checkpoint) for checkpoint in reached)
    low, high = points(costs[0]), points(costs[-1])
    name = _clean_set(baseline)
    if len(reached) == 1:
        return f"the GoodNet costs {high} points of {name} accuracy"
    if low == high:
        return f"each of the GoodNets costs {high} points of {name} accuracy"
    return f"the GoodNets cost {low} to {high} points of {name} accuracy"


def _cost(baseline: Rates, checkpoint: Checkpoint) -> float:
    """Return the clean accuracy that G loses against B, a fraction 0..1."""
    return baseline.clean_accuracy - checkpoint.goodnet.clean_accuracy


def _clean_set(baseline: Rates) -> str:
    return RATES[f"{baseline.clean_set}_accuracy"].title
