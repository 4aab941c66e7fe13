"""Which file of a run to use, in a word and a sentence, from rules in one place."""

from __future__ import annotations

from goodnet.metrics import percent, wilson_interval
from goodnet.reports.results import (
    RATES,
    DetectorRates,
    Recommendation,
    RepairedNet,
    Results,
    measured,
)
from goodnet.reports.verdict import attack_doubt, grade, is_ruined, shows_no_backdoor
from goodnet.storage.run_folder import GOODNET_FILE, REPAIRED_FILE

NO_SIGN = "no sign of a backdoor"
NET_RUINED = "network ruined"


def recommend(
    results: Results, method: str | None, *, clean_tests: int | None = None
) -> Recommendation | None:
    """Return what to use; None in runs that have no calibrated GoodNet.

    Args:
        results: of a run.
        method: the repair whose net for the least budget is the one to use, if there is one.
        clean_tests: how many clean test images were counted, if that is known.
    """
    if not results.detectors:
        return None
    joined = results.detectors[-1]
    verdict, said = _judge(results, joined)
    repaired = next((one for one in results.repaired_nets if one.method == method), None)
    if verdict == NO_SIGN:
        repaired = None  # nothing to repair
    return Recommendation(
        # Whatever the verdict: pruning leaves most attacks as they are (docs/methods.md).
        goodnet=GOODNET_FILE,
        repaired=None if repaired is None else REPAIRED_FILE,
        method=None if repaired is None else repaired.method,
        verdict=verdict,
        why=said + _held(joined, clean_tests) + _instead(results, repaired),
    )


def _instead(results: Results, repaired: RepairedNet | None) -> str:
    """Return what the repaired net is worth beside B, in a sentence."""
    if repaired is None:
        return ""
    before, after = results.baseline, repaired.b_prime
    said = (
        f" {REPAIRED_FILE} ({repaired.title}) answers without a class more: right on "
        f"{percent(after.clean_accuracy)} of the {RATES[f'{before.clean_set}_accuracy'].title} "
        f"images, B on {percent(before.clean_accuracy)}"
    )
    if after.attack_success_rate is None or attack_doubt(results) is not None:
        return f"{said}."
    return (
        f"{said}; attack success {percent(after.attack_success_rate)}, "
        f"B's {percent(before.attack_success_rate)}."
    )


def _judge(results: Results, joined: DetectorRates) -> tuple[str, str]:
    alarms = (
        ""
        if joined.false_alarm_rate is None
        else f"; it flags {percent(joined.false_alarm_rate)} of the clean test images"
    )
    if results.baseline.attack_success_rate is None:
        return "not measured", (
            f"{GOODNET_FILE} is the GoodNet to use, but no poisoned images were given, so that "
            f"nothing can be said of attacks{alarms}."
        )
    if attack_doubt(results) is not None:
        return "not measured", (
            f"{GOODNET_FILE} is the GoodNet to use, but these poisoned images do not measure an "
            f"attack{alarms}."
        )
    if shows_no_backdoor(results):
        return NO_SIGN, (
            f"These images show no backdoor; {GOODNET_FILE} flags "
            f"{percent(joined.detection_rate)} of the poisoned ones and "
            f"{percent(joined.false_alarm_rate)} of the clean ones."
        )
    through = measured(joined.goodnet.attack_success_rate)
    # A detector is worth what it adds to what anybody has without a repair.
    control = next((one for one in results.detectors if one.control), joined)
    # One that flags most images lets no attack through either.
    ruined = is_ruined(results.baseline, joined.goodnet)
    return NET_RUINED if ruined else grade(through), (
        f"{GOODNET_FILE} lets {percent(through)} of the poisoned images through and flags "
        f"{percent(joined.detection_rate)} of them{alarms}; B's margin alone would flag "
        f"{percent(control.detection_rate)}."
    )


def _held(joined: DetectorRates, clean_tests: int | None) -> str:
    """Return what the threshold holds, and that it is not what was asked for or what was seen."""
    budget = f"{100 * joined.false_alarm_budget:g} %"
    if joined.held_budget <= joined.false_alarm_budget:
        said = (
            f" Its threshold holds {budget} of false alarms with 95 % confidence, by "
            f"{joined.images:,} clean validation images."
        )
    else:
        said = (
            f" {joined.images:,} clean validation images are too few to hold {budget} of false "
            f"alarms with 95 % confidence: its threshold holds {percent(joined.held_budget)}."
        )
    if _is_broken(joined, clean_tests):
        said += (
            " The clean test images are not like these, or of other classes: chance does not "
            "explain so many alarms among them."
        )
    return said


def _is_broken(joined: DetectorRates, clean_tests: int | None) -> bool:
    """Return whether clean test has surely more alarms than the threshold holds."""
    if clean_tests is None or joined.false_alarm_rate is None:
        return False
    flagged = round(joined.false_alarm_rate * clean_tests)
    return wilson_interval(flagged, clean_tests, confidence=0.99)[0] > joined.held_budget
