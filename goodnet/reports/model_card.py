"""MODEL_CARD.md: what whoever is handed goodnet.keras alone should know of it.

After Mitchell et al., "Model Cards for Model Reporting", FAT* 2019.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from goodnet.errors import printable
from goodnet.images.preprocessing import AS_STORED
from goodnet.metrics import percent
from goodnet.reports.about import About
from goodnet.reports.results import SETS, GoodNetRates, Rates, Recommendation, Results
from goodnet.reports.results_table import printed_rates
from goodnet.reports.tables import format_markdown
from goodnet.reports.verdict import remarks
from goodnet.storage.files import atomic_path
from goodnet.storage.run_folder import RunFolder


def write_model_card(folder: RunFolder, *, results: Results, about: About) -> None:
    """Write the card of the GoodNet that a run recommends; none where there is none.

    Args:
        folder: of the run.
        results: what it found.
        about: what it was given.
    """
    if results.recommended is None:
        return
    text = "\n\n".join(_paragraphs(results, results.recommended, about)) + "\n"
    with atomic_path(folder.model_card) as temporary:
        temporary.write_text(text, "utf-8")


def _paragraphs(results: Results, recommended: Recommendation, about: About) -> Iterator[str]:
    joined = results.detectors[-1]
    b = about.inputs.get("model")
    yield f"# Model card: {_escaped(recommended.goodnet)}"
    yield (
        f"A GoodNet: it answers the {results.classes:,} classes of the net B that it was made of, "
        f'and class {results.classes:,}, "backdoored", for images that should not be believed.'
    )
    yield "## What B was"
    if b is not None:
        yield f"{_code(Path(b.path).name)}, {b.size:,} bytes, SHA-256 {_code(b.sha256)}."
    yield "Whether it is backdoored is not known. B is in this file whole, nothing of it changed."
    yield "## What was measured"
    yield format_markdown(_rates(results, recommended, joined.goodnet), escape=_escaped)
    yield f"**{_escaped(recommended.verdict)}**: {_escaped(recommended.why)}"
    yield "## On what"
    yield format_markdown(_sets(about), escape=_escaped)
    yield "## Limits"
    yield "\n".join(f"- {line}" for line in _limits(results))
    yield "## How it is used"
    yield (
        "It takes the same pixels as B"
        f"{_pixels(about)}. Plain Keras loads it, with no goodnet installed:"
    )
    yield (
        "```python\n"
        f'answers = keras.saving.load_model("{recommended.goodnet}").predict(images).argmax(1)\n'
        f"believed = answers < {results.classes}\n"
        "```"
    )
    made = f"Made by run {_code(about.run)}"
    yield made + (f" at commit {_code(about.git_commit)}." if about.git_commit else ".")


def _rates(
    results: Results, recommended: Recommendation, goodnet: GoodNetRates
) -> list[dict[str, str]]:
    nets: dict[str, Rates] = {"B": results.baseline, recommended.goodnet: goodnet}
    # Recovery is what repaired nets are for: this G answers as B does, or with class N.
    names = [name for name in results.rate_names if name != "recovery_rate"]
    return [{"net": net, **printed_rates(rates, names)} for net, rates in nets.items()]


def _sets(about: About) -> list[dict[str, str]]:
    return [
        {
            "set": f"{title}: {_use(role)}",
            "file": Path(given.path).name,
            "images": "" if given.images is None else f"{given.images:,}",
            "SHA-256": given.sha256,
        }
        for role, title in SETS.items()
        if (given := about.inputs.get(role)) is not None
    ] or [{"set": "not known", "file": "", "images": "", "SHA-256": ""}]


def _use(role: str) -> str:
    return "all that the repair saw" if role == "clean_valid" else "for evaluation only"


def _limits(results: Results) -> Iterator[str]:
    joined = results.detectors[-1]
    yield (
        f"Its threshold holds {percent(joined.held_budget)} of false alarms with 95 % confidence, "
        f"by {joined.images:,} clean validation images, and for images like those only."
    )
    if results.baseline.attack_success_rate is None:
        yield "No poisoned images were given: nothing is known of what it does to an attack."
    else:
        yield "What it does to these poisoned images says nothing of triggers that are not in them."
    yield "An attacker who knows of the defence can hide a backdoor from it."
    yield "It flags images and repairs none: class N is a question for somebody to answer."
    for remark in remarks(results):
        yield _escaped(remark)


def _pixels(about: About) -> str:
    """Return what is done to them before, where the run says so."""
    usual = AS_STORED.parameters()
    given = {name: about.parameters.get(name, usual[name]) for name in usual}
    chosen = [
        f"{name.replace('_', ' ')} {_numbers(value)}"
        for name, value in given.items()
        if _numbers(value) != _numbers(usual[name])
    ]
    return (
        f", prepared as for B ({_escaped(', '.join(chosen))})" if chosen else ", raw from 0 to 255"
    )


def _numbers(value: object) -> str:
    """Return one number, several, or a word, as a command takes them."""
    several = value if isinstance(value, (list, tuple)) else [value]
    return " ".join(f"{one:g}" if isinstance(one, (int, float)) else str(one) for one in several)


def _escaped(text: str) -> str:
    """Return Markdown that shows a text as it is, and is itself no worse to read."""
    return re.sub(r"([\\`*_\[\]<>|#!~])", r"\\\1", printable(text))


def _code(text: str) -> str:
    return f"`{printable(text).replace('`', chr(39))}`"
