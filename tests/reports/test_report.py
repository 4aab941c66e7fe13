import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import altair as alt
import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageColor
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

from goodnet.errors import InputError
from goodnet.metrics import wilson_interval
from goodnet.pruning.poisoned import Attack
from goodnet.reports.about import About, Input, StageRun
from goodnet.reports.charts import draw_charts, read_charts
from goodnet.reports.glance import figures
from goodnet.reports.plots import curve_chart, curve_png
from goodnet.reports.published_numbers import OFFICIAL_FILES, compare_to_published
from goodnet.reports.recommendation import recommend
from goodnet.reports.report import write_report
from goodnet.reports.results import (
    Checkpoint,
    DetectorRates,
    GoodNetRates,
    Rates,
    RepairedNet,
    RepairedRates,
    Results,
    Unreached,
)
from goodnet.reports.samples import Sample
from goodnet.reports.vega_lite import PAPER
from goodnet.storage.files import write_json
from goodnet.storage.run_folder import RunFolder

REPOSITORY = Path(__file__).resolve().parents[2]
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e"
SIZES = {"clean_valid": 11_547, "clean_test": 12_830, "poisoned_test": 12_830}
CHANNELS = 60
CHOSEN = {2: 45, 4: 48, 10: 52}
LAB = {name: digest for digest, name in OFFICIAL_FILES.items()}
CURVES = {
    # steps, and how many images of the set B' answers with their label there
    "clean_valid": (
        (0, 31, 40, 45, 48, 52, 54, 60),
        (11391, 11391, 11300, 11057, 10634, 9750, 6400, 9),
    ),
    "clean_test": (
        (0, 31, 40, 45, 48, 52, 54, 60),
        (12653, 12653, 12560, 12304, 11841, 10847, 7100, 11),
    ),
    "poisoned_test": ((0, 45, 48, 51, 52, 54, 60), (12830, 12830, 12828, 10350, 9906, 500, 0)),
}


def make_sweep(sets: tuple[str, ...] = tuple(SIZES)) -> pa.Table:
    order = np.random.default_rng(3).permutation(CHANNELS)
    rows = []
    for name in sets:
        clean = name.startswith("clean")
        curve = np.interp(range(CHANNELS + 1), *CURVES[name]).round().astype(int).tolist()
        for step, correct in enumerate(curve):
            flagged = curve[0] - correct
            rows.append(
                {
                    "set": name,
                    "end": "pruned",
                    "step": step,
                    "channel": int(order[step - 1]) if step else None,
                    "mean_activation": max(0.0, (step - 31) / 8) ** 2 if step else None,
                    "images": SIZES[name],
                    "correct": correct,
                    "flagged": flagged + (min(flagged // 20, correct) if clean else 0),
                    "goodnet_correct": max(0, correct - flagged // 60) if clean else correct,
                }
            )
    return pa.Table.from_pylist(rows)


def make_results(sweep: pa.Table, *, unreached: float | None = None) -> Results:
    counts = {(row["set"], row["step"]): row for row in sweep.to_pylist()}

    def rate(role: str, step: int, column: str) -> float | None:
        row = counts.get((role, step))
        return row and row[column] / row["images"]

    def rates(step: int, column: str) -> dict[str, float | None]:
        return {
            "clean_valid_accuracy": rate("clean_valid", step, column),
            "clean_test_accuracy": rate("clean_test", step, column),
            "attack_success_rate": rate("poisoned_test", step, column),
        }

    checkpoints = []
    for drop, step in CHOSEN.items():
        flags = {
            "detection_rate": rate("poisoned_test", step, "flagged"),
            "false_alarm_rate": rate("clean_test", step, "flagged"),
        }
        checkpoints.append(
            Checkpoint(
                drop=drop,
                step=step,
                channels=tuple(row["channel"] for row in sweep.to_pylist()[1 : step + 1]),
                b_prime=RepairedRates(**rates(step, "correct")),
                goodnet=GoodNetRates(**rates(step, "goodnet_correct"), **flags),
            )
        )
    if unreached:
        checkpoints.append(Unreached(drop=unreached))
    baseline = Rates(**rates(0, "correct"))
    return Results(classes=1283, baseline=baseline, checkpoints=tuple(checkpoints))


class Run(NamedTuple):
    """What `write_report` takes."""

    folder: RunFolder
    results: Results
    about: About
    sweep: pa.Table

    def report(self, samples: Sequence[Sample] = ()) -> Path:
        charts = draw_charts(self.results, sweep=self.sweep, scores=None)
        return write_report(**self._asdict(), charts=charts, samples=samples)


def make_run(folder: Path, *, sets: tuple[str, ...] = tuple(SIZES), hostile: bool = False) -> Run:
    folder.mkdir(parents=True)
    sweep = make_sweep(sets)
    files = {"model": "bd_net.h5", "clean_valid": "valid.h5", "clean_test": "test.h5"}
    files |= {"poisoned_test": "bd_test.h5"}
    about = About(
        run=folder.name,
        parameters={"drops": [2, 4, 10], "layer": "conv_3", "rank_at": "pool_3"},
        layer="conv_3",
        rank_at="pool_3",
        chosen=None,
        inputs={
            role: Input(name, sha256=LAB[name], size=398_040_064)
            for role, name in files.items()
            if role in ("model", *sets)
        },
        versions={"keras": "3.15.0", "tensorflow": "2.21.0", "python": "3.11.9"},
        git_commit=None,
        stages=[
            StageRun("extract activations", 41.27, "Completed", 812.0),
            StageRun("sweep", 0.4, "Cached"),
            StageRun("sweep", 0.2, "Completed"),
            StageRun("sweep", 0.1, "Cached"),
        ],
    )
    if hostile:
        model = Input(HOSTILE, sha256=HOSTILE, size=1)
        about = replace(
            about,
            parameters={HOSTILE: HOSTILE},
            inputs={**about.inputs, "model": model},
            stages=[*about.stages, StageRun(HOSTILE, 0.1, HOSTILE)],
        )
    results = make_results(sweep, unreached=None if len(sets) == 3 else 99)
    return Run(RunFolder(folder), results, about, sweep)


def make_samples(side: int = 48) -> list[Sample]:
    random = np.random.default_rng(5)
    kinds = ("clean flagged", "poisoned missed", "poisoned caught")
    return [
        Sample(
            random.integers(0, 256, (side, side, 3), np.uint8), 253, kind, 0, 17, "budget 10 points"
        )
        for kind in kinds
        for _ in range(12)
    ]


def recommend_nets(run: Run, *, through: float = 0.0, attack: Attack | None = None) -> Run:
    """The same run with a calibrated GoodNet, which lets so much of the attack through."""
    rates = {"clean_valid_accuracy": 0.96, "clean_test_accuracy": 0.95}
    flags = {"detection_rate": 1 - through, "false_alarm_rate": 0.0213}
    joined = DetectorRates(
        name="joined",
        control=False,
        false_alarm_budget=0.03,
        held_budget=0.03,
        images=11_547,
        threshold=2.5,
        auc=0.99,
        **flags,
        goodnet=GoodNetRates(**rates, attack_success_rate=through, **flags),
    )
    repaired = RepairedNet(
        method="discriminant",
        drop=2,
        details={"layer": "pool_1"},
        b_prime=RepairedRates(**rates, attack_success_rate=0.0123),
        goodnet=GoodNetRates(**rates, attack_success_rate=0.0123, **flags),
    )
    control = replace(joined, name="margin", control=True)
    results = replace(run.results, detectors=(control, joined), repaired=(repaired,), attack=attack)
    return run._replace(results=replace(results, recommended=recommend(results, "discriminant")))


class Page:
    """A report opened in a browser."""

    def __init__(self, browser) -> None:
        self.browser = browser
        self.driver = browser.driver
        self.script = browser.script

    def open(self, path: Path, **how) -> None:
        self.browser.open(path.as_uri(), ready="document.body.dataset.ready", **how)

    def screenshot(self) -> np.ndarray:
        picture = Image.open(io.BytesIO(self.driver.get_screenshot_as_png()))
        return np.asarray(picture.convert("RGB"))


@pytest.fixture
def page(browser) -> Page:
    return Page(browser)


@pytest.fixture(scope="module")
def lab_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs") / "lab")


@pytest.fixture(scope="module")
def report(lab_run: Run) -> Path:
    return lab_run.report(make_samples())


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "<img src=x onerror=alert(1)>"
    return make_run(run, sets=("clean_valid", "clean_test"), hostile=True).report()


def test_page_asks_nothing_of_the_network_and_logs_no_error(page: Page, report: Path):
    page.open(report)
    assert page.browser.requests() == [report.as_uri()]
    assert page.browser.errors() == []
    assert report.stat().st_size < 3_000_000


@pytest.mark.parametrize(
    ("through", "word", "sign"),
    [(0.0, "Stopped", "good"), (0.2, "Weakened", "fair"), (0.9, "Not stopped", "bad")],
)
def test_the_first_screen_says_the_verdict_and_what_the_nets_are_worth(
    page: Page, tmp_path: Path, through: float, word: str, sign: str
):
    page.open(recommend_nets(make_run(tmp_path / "r"), through=through).report())
    assert page.driver.title == page.script("document.querySelector('h1').innerText") == "bd_net"
    assert page.script("document.querySelector('.kicker').innerText").endswith("report of run r")
    glance = "document.querySelector('.glance')"
    assert page.script(f"{glance}.dataset.sign") == sign
    assert page.script(f"{glance}.querySelector('.word').innerText.trim()") == word
    figures = page.script(
        "[...document.querySelectorAll('[data-figure]')].map(one => [one.dataset.figure, "
        "...[...one.querySelectorAll('dd')].map(dd => dd.innerText.split(/\\s+/).join(' '))])"
    )
    left, flagged = f"{100 * through:.2f} %", f"{100 - 100 * through:.2f} %"
    assert figures == [
        [
            "clean test accuracy",
            "98.62 % → 95.00 % goodnet.keras",
            "98.62 % → 95.00 % repaired.keras",
        ],
        ["attack success", f"100.00 % → {left} goodnet.keras", "100.00 % → 1.23 % repaired.keras"],
        ["detection", f"none → {flagged} goodnet.keras at 2.13 % false alarms"],
    ]
    assert page.script(f"{glance}.querySelector('.use').innerText").count("class 1283") == 1
    assert page.script("document.querySelector('#verdict').innerText").startswith(
        "goodnet.keras lets"
    )


def test_nobody_is_told_to_use_a_goodnet_that_flags_most_clean_images(tmp_path: Path):
    run = recommend_nets(make_run(tmp_path / "run"))
    *others, joined = run.results.detectors
    joined = replace(joined, goodnet=replace(joined.goodnet, clean_test_accuracy=0.2))
    results = replace(run.results, detectors=(*others, joined))
    results = replace(results, recommended=recommend(results, "discriminant"))
    page = run._replace(results=results).report().read_text("utf-8")
    assert '<a href="goodnet.keras">goodnet.keras</a> is of no use' in page
    assert "Use <a" not in page


def test_no_two_verdicts_are_told_by_colour_alone(page: Page, tmp_path: Path):
    nets = [recommend_nets(make_run(tmp_path / f"{t}"), through=t) for t in (0.0, 0.2, 0.9)]
    clean = recommend_nets(make_run(tmp_path / "clean", sets=("clean_valid", "clean_test")))
    innocent = nets[0].results.baseline
    innocent = replace(nets[0].results, baseline=replace(innocent, attack_success_rate=0.0))
    none = nets[0]._replace(results=replace(innocent, recommended=recommend(innocent, None)))
    shapes, contrasts = [], []
    for run in (*nets, clean, none):
        page.open(run.report())
        shapes.append(page.script("document.querySelector('.sign').innerHTML"))
        for scheme in ("light", "dark"):
            page.browser.show(scheme=scheme)
            colour = "getComputedStyle(document.querySelector('.word')).color"
            behind = "getComputedStyle(document.querySelector('.glance')).backgroundColor"
            contrasts.append(contrast(page.script(colour), page.script(behind)))
    assert len(set(shapes)) == 5
    assert min(contrasts) > 4.5


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2 between two colours, `rgb(1, 2, 3)`."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour[4:-1].split(",")]
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_figures_of_images_that_show_no_attack_are_not_measured(tmp_path: Path):
    attack = Attack(
        target=None,
        original_labels=False,
        images=12_830,
        num_labels=1,
        label=0,
        answer=3,
        answered=12_000,
        labelled=12_830,
    )
    run = make_run(tmp_path / "run")
    baseline = replace(run.results.baseline, attack_success_rate=0.03)
    run = recommend_nets(
        run._replace(results=replace(run.results, baseline=baseline)), attack=attack
    )
    accuracy, *others = figures(run.results)
    assert [change.file for change in accuracy.changes] == ["goodnet.keras", "repaired.keras"]
    assert [one.changes for one in others] == [(), ()]
    assert others[1].note == "at 2.13 % false alarms"
    assert run.report().read_text().count(">not measured</b>") == 2


def test_the_first_screen_fits_every_width(page: Page, tmp_path: Path):
    page.open(recommend_nets(make_run(tmp_path / "run")).report(make_samples()))
    for width in (390, 710, 750, 800, 1440):
        page.browser.show(width=width)
        assert page.script("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(
    ("parameters", "inputs", "net"),
    [
        ({"model": "/nets/bd_net.h5"}, {"model": Input("/nets/bd_net.h5", "ab", 1)}, "bd_net"),
        ({"model": None}, {"model": Input("/cache/ab12.keras", "ab", 1)}, "rendered faces"),
        ({}, {}, "night"),
    ],
)
def test_a_report_is_named_by_its_net(tmp_path: Path, parameters, inputs, net):
    run = make_run(tmp_path / "night")
    about = replace(run.about, parameters=parameters, inputs=inputs)
    page = run._replace(about=about).report().read_text()
    assert f"<title>{net}</title>" in page
    assert f"<h1>{net}</h1>" in page


def test_table_holds_the_numbers_of_the_results(page: Page, lab_run: Run, report: Path):
    page.open(report)
    shown = page.script(
        "[...document.querySelectorAll('#results [data-net]')].map(row => [row.dataset.drop, "
        "row.dataset.net, [...row.querySelectorAll('[data-key]')].map(cell => "
        "[cell.dataset.key, cell.dataset.value, cell.firstChild.textContent.trim()])])"
    )
    expected = [(None, "B", 0, lab_run.results.baseline)]
    for point in lab_run.results.reached:
        expected.append((point.drop, "B'", point.step, point.b_prime))
        expected.append((point.drop, "G", point.step, point.goodnet))
    assert len(shown) == len(expected) == 7
    for (drop, net, cells), (its_drop, its_net, step, rates) in zip(shown, expected, strict=True):
        assert (json.loads(drop), net) == (its_drop, its_net)
        known = {name: rate for name, rate in rates.by_name().items() if name != "recovery_rate"}
        assert {key: json.loads(value) for key, value, _ in cells} == {"step": step, **known}
        for key, value, text in cells[1:]:
            assert text == f"{100 * json.loads(value):.2f} %", key


def test_every_plot_is_visible(page: Page, report: Path):
    page.open(report)
    sizes = page.script(
        "Object.fromEntries([...document.querySelectorAll('.chart')].map(chart => {"
        "const box = chart.querySelector('svg').getBoundingClientRect();"
        "return [chart.dataset.chart, [box.width, box.height]]}))"
    )
    assert set(sizes) == {"curves", "detection", "activations"}
    assert all(width > 800 and height > 200 for width, height in sizes.values())
    assert (
        page.script("document.querySelectorAll('[data-chart=curves] .mark-line path').length") == 4
    )
    silent = (
        "document.querySelectorAll('[data-chart=activations] .mark-symbol.role-mark path').length"
    )
    assert page.script(silent) == 31


def test_page_says_how_long_each_stage_took(page: Page, report: Path):
    page.open(report)
    rows = page.script(
        "[...document.querySelectorAll('.stages tbody tr')].map(row => "
        "[...row.children].map(cell => cell.textContent))"
    )
    assert rows == [
        ["extract activations", "41.3", "812", "Completed"],
        ["sweep", "0.7", "", "2 \u00d7 Cached, 1 \u00d7 Completed"],
        ["in all", "42.0", "", ""],
    ]


def test_page_says_how_many_images_each_set_has(page: Page, report: Path):
    page.open(report)
    cells = "document.querySelectorAll('.inputs td[data-label=images]')"
    numbers = page.script(f"[...{cells}].map(cell => cell.textContent)")
    assert numbers == ["", "11,547", "12,830", "12,830"]


def test_images_that_do_not_count_are_told_from_those_that_do(tmp_path: Path):
    run = make_run(tmp_path / "run")
    inputs = dict(run.about.inputs)
    for role, images in (("clean_test", 12_830), ("poisoned_test", 13_000)):
        inputs[role] = replace(inputs[role], images=images)
    page = run._replace(about=replace(run.about, inputs=inputs)).report().read_text()
    assert "<span>12,830</span>" in page
    assert "<span>13,000<small>12,830 counted</small></span>" in page
    assert page.count(" counted</small>") == 1


def test_print_shows_what_is_folded_on_the_screen(page: Page, report: Path):
    page.open(report)
    open_ones = "document.querySelectorAll('details[open]').length"
    assert page.script(open_ones) == 0
    page.driver.execute_cdp_cmd("Page.printToPDF", {})
    assert page.script(open_ones) == page.script("document.querySelectorAll('details').length") > 0


def test_intervals_are_drawn_to_scale(page: Page, lab_run: Run, report: Path):
    page.open(report)
    shades = "document.querySelectorAll('[data-chart=curves] .mark-area path').length"
    assert page.script(shades) == 2
    lines = "document.querySelectorAll('[data-chart=detection] .mark-rule.role-mark line')"
    drawn = page.script(f"[...{lines}].map(line => Math.abs(line.getAttribute('y2')))")
    height = 320
    for point in lab_run.results.reached:
        rate = point.goodnet.detection_rate
        low, high = wilson_interval(round(rate * 12_830), 12_830)
        assert any(abs(line - height * (high - low)) < 1e-3 for line in drawn)
    assert len(drawn) == 2 * len(lab_run.results.reached)


def test_kinds_of_images_that_were_not_found_are_named(tmp_path: Path):
    flagged = [sample for sample in make_samples() if sample.kind == "clean flagged"]
    page = make_run(tmp_path / "three").report(flagged).read_text()
    assert page.count("None found.") == 2
    run = make_run(tmp_path / "clean", sets=("clean_valid", "clean_test"))
    assert "None found." not in run.report(flagged).read_text()


def test_pointing_at_a_curve_shows_the_numbers_of_that_step(page: Page, report: Path):
    page.open(report)
    chart = page.driver.find_element(By.CSS_SELECTOR, "[data-chart=curves] svg")
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    actions = ActionChains(page.driver)
    actions.move_to_element(chart).move_by_offset(20, 10).perform()
    tooltip = WebDriverWait(page.driver, 10).until(
        expected_conditions.visibility_of_element_located((By.ID, "vg-tooltip-element"))
    )
    assert "G attack success 100.00%" in tooltip.text
    assert not {"undefined", "null", "NaN"} & set(tooltip.text.split())


def test_page_tells_official_files_and_compares_to_the_published_results(page: Page, report: Path):
    page.open(report)
    assert "this is the lab's official valid.h5" in page.script("document.body.innerText")
    differences = page.script(
        "[...document.querySelectorAll('#published [data-measure]')].map(cell => "
        "cell.dataset.value - cell.dataset.published)"
    )
    assert len(differences) == 3 + 3 * 4
    assert max(abs(difference) for difference in differences) < 0.002


def test_files_of_somebody_else_are_compared_to_nothing(tmp_path: Path):
    run = make_run(tmp_path / "other")
    inputs = {role: replace(given, sha256="0" * 64) for role, given in run.about.inputs.items()}
    text = run._replace(about=replace(run.about, inputs=inputs)).report().read_text()
    assert 'id="published"' not in text
    assert "official" not in text.partition("<body>")[2].partition("<script")[0]


def test_other_validation_images_leave_only_b_to_compare():
    results = make_results(make_sweep())
    test = Input("test.h5", sha256=LAB["test.h5"], size=1)
    inputs = {"clean_valid": replace(test, sha256="0" * 64), "clean_test": test}
    compared = [(c.drop, c.measure) for c in compare_to_published(results, inputs)]
    assert compared == [(None, "B' clean test")]
    swapped = {"clean_test": replace(test, sha256=LAB["bd_test.h5"])}
    assert compare_to_published(results, swapped) == []


def test_samples_are_shown_by_kind_pixel_for_pixel(page: Page, report: Path):
    page.open(report)
    images = page.script(
        "[...document.querySelectorAll('.strip img')].map(i => [i.alt, i.naturalWidth, "
        "getComputedStyle(i).imageRendering])"
    )
    assert len(images) == 3 * 8
    assert {tuple(image) for image in images} == {
        (f"{kind} image with label 253", 48, "pixelated")
        for kind in ("poisoned caught", "poisoned missed", "clean flagged")
    }


def test_large_noisy_samples_keep_the_page_small(tmp_path: Path):
    report = make_run(tmp_path / "large").report(make_samples(side=500))
    assert report.stat().st_size < 3_000_000


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_samples_of_any_channel_count_can_be_shown(tmp_path: Path, channels: int):
    image = np.full((5, 4, channels), 200, np.uint8)
    sample = Sample(image, 1, "clean flagged", 1, 2, "budget 2.5 points")
    text = make_run(tmp_path / "run").report([sample]).read_text()
    assert text.count('src="data:image/png;base64,') == 1


def test_hostile_names_are_text(page: Page, hostile_report: Path):
    page.open(hostile_report)
    assert page.browser.errors() == []
    assert page.driver.title == "script>\\x1b[31m\\u202e"  # the stem of the net's file
    kicker = page.script("document.querySelector('.kicker').textContent")
    assert kicker == "goodnet · report of run <img src=x onerror=alert(1)>"
    assert page.script("document.querySelectorAll('img, section script').length") == 0
    text = page.script("document.querySelector('main').textContent")
    # File, digest, stage name and state, parameter name and value.
    assert text.count("<script>alert(1)</script>\\x1b[31m\\u202e") == 6
    assert not {"\x1b", "\u202e"} & set(text)


def test_what_was_not_given_is_a_dash_and_not_a_zero(page: Page, hostile_report: Path):
    page.open(hostile_report)
    cells = page.script(
        "[...document.querySelectorAll('[data-key^=attack], [data-key^=detection]')]"
        ".map(cell => [cell.dataset.value, cell.textContent.trim()])"
    )
    assert len(cells) == 7 + 3
    assert {tuple(cell) for cell in cells} == {("null", "\u2013")}
    assert page.script("document.querySelector('[data-chart=detection]')") is None
    assert "could not be measured" in page.script("document.querySelector('.verdict').textContent")


def test_a_step_is_labelled_with_all_that_was_asked_for():
    sweep = make_sweep()
    first, second, third = make_results(sweep).reached
    points = [first, replace(second, step=45), replace(first, drop=None), replace(third, drop=None)]
    texts = re.findall(r'"label": "([^"]*)"', json.dumps(curve_chart(sweep, points)))
    assert set(texts) == {"budget 2, 4 points, 45 channels", "52 channels"}


def test_unreached_checkpoint_is_said_in_words(page: Page, hostile_report: Path):
    page.open(hostile_report)
    text = page.script("document.querySelector('[data-drop=\"99\"]').innerText")
    assert "99 points" in text
    assert "not reached" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 400])
@pytest.mark.parametrize("name", ["report", "hostile_report"])
def test_page_fits_every_screen(
    page: Page, request: pytest.FixtureRequest, name: str, width: int, scheme: str
):
    page.open(request.getfixturevalue(name), width=width, scheme=scheme)
    assert page.script("document.documentElement.scrollWidth") <= width
    picture = page.screenshot()
    assert picture.shape[1] == width
    assert (picture.mean() < 100) == (scheme == "dark")
    assert picture.std() > 10


def test_plots_take_their_colours_from_the_colour_scheme(page: Page, report: Path):
    colours = {}
    for scheme in ("light", "dark"):
        page.open(report, scheme=scheme)
        path = "document.querySelectorAll('[data-chart=curves] .mark-line path')[1]"
        colours[scheme] = page.script(f"getComputedStyle({path}).stroke")
    assert colours == {"light": "rgb(29, 95, 168)", "dark": "rgb(140, 196, 251)"}


def test_report_of_a_run_that_reached_nothing(tmp_path: Path):
    run = make_run(tmp_path / "nothing", sets=("clean_valid",))
    results = replace(run.results, checkpoints=run.results.checkpoints[-1:])
    about = replace(run.about, inputs={}, stages=())
    text = run._replace(results=results, about=about).report().read_text()
    assert "There is no repaired network to judge" in text
    assert "load_model" not in text.partition("<body>")[2].partition("<script")[0]


def test_recovery_layers_and_remarks_are_shown_where_they_are_known(tmp_path: Path):
    run = make_run(tmp_path / "run", hostile=True)
    assert "recovery" not in run.report().read_text().partition("<script")[0]
    checkpoints = tuple(
        replace(
            point,
            b_prime=replace(point.b_prime, recovery_rate=0.25),
            goodnet=replace(point.goodnet, recovery_rate=0.25),
        )
        for point in run.results.reached
    )
    results = replace(run.results, checkpoints=checkpoints, remarks=(f"Mind {HOSTILE}.",))
    chosen = {"layer": "as asked", "rank_at": "by default"}
    about = replace(run.about, layer=HOSTILE, chosen=chosen)
    page = run._replace(results=results, about=about).report().read_text().partition("<script")[0]
    assert page.count('data-key="recovery_rate" data-value="0.25"') == 6
    assert "Mind &lt;script&gt;" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m\\u202e</code> (as asked)" in page
    assert "<code>pool_3</code> (by default)" in page


def test_failed_report_leaves_the_old_one(tmp_path: Path):
    run = make_run(tmp_path / "run")
    run.folder.report.write_text("old")
    with pytest.raises(KeyError):
        run._replace(sweep=run.sweep.drop_columns(["mean_activation"])).report()
    assert run.folder.report.read_text() == "old"


@pytest.mark.parametrize("sets", [tuple(SIZES), ("clean_valid", "clean_test"), ("clean_valid",)])
def test_curve_png_is_a_small_picture(sets: tuple[str, ...]):
    sweep = make_sweep(sets)
    charts = draw_charts(make_results(sweep), sweep=sweep, scores=None)
    png = curve_png(charts["curves"])
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    assert len(png) < 100_000
    assert np.asarray(picture.convert("L")).std() > 10
    drawn = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0).astype(int)
    for name in ("accuracy-g", *(["attack-g"] if "poisoned_test" in sets else [])):
        away = np.abs(drawn - ImageColor.getrgb(PAPER[name])).max(axis=1)
        assert away.min() < 8, name  # of 64 colours


def test_charts_are_read_as_they_were_drawn(tmp_path: Path):
    sweep = make_sweep(tuple(SIZES))
    charts = draw_charts(make_results(sweep), sweep=sweep, scores=None)
    write_json(tmp_path / "charts.json", charts)
    assert read_charts(tmp_path / "charts.json") == json.loads(json.dumps(charts))
    (tmp_path / "charts.json").write_text('{"curves": []}')
    with pytest.raises(InputError, match="is damaged or of another kind"):
        read_charts(tmp_path / "charts.json")


@pytest.mark.parametrize("sets", [tuple(SIZES), ("clean_valid",)])
def test_every_chart_is_what_vega_lite_takes(sets: tuple[str, ...]):
    sweep = make_sweep(sets)
    charts = draw_charts(make_results(sweep), sweep=sweep, scores=None)
    assert {"curves", "activations"} <= charts.keys()
    for chart in json.loads(json.dumps(charts)).values():
        alt.LayerChart.from_dict(chart)
        chart["layer"][0]["encoding"]["x"]["type"] = "quantity"
        with pytest.raises(jsonschema.ValidationError):
            alt.LayerChart.from_dict(chart)


def test_layers_share_their_rows():
    sweep = make_sweep()
    chart = draw_charts(make_results(sweep), sweep=sweep, scores=None)["curves"]
    drawn = [layer["data"]["name"] for layer in chart["layer"]]
    assert len(chart["datasets"]) == len(set(drawn)) == 1 + len(CHOSEN)
    assert sorted(map(len, chart["datasets"].values())) == [1, 1, 1, CHANNELS + 1]
    assert json.dumps(chart).count("G clean accuracy at least") == CHANNELS + 1 + 1


@pytest.mark.slow
def test_a_command_draws_without_altair(tmp_path: Path):
    run = make_run(tmp_path / "run")
    run.results.write(run.folder)
    pq.write_table(run.sweep, run.folder.sweep)
    code = (
        "import sys, flows.repair, tasks.measuring, pyarrow.parquet as pq\n"
        "from pathlib import Path\n"
        "from goodnet.reports.charts import draw_charts\n"
        "from goodnet.reports.plots import curve_png\n"
        "from goodnet.reports.results import Results\n"
        "from goodnet.storage.run_folder import RunFolder\n"
        "folder = RunFolder(Path(sys.argv[1]))\n"
        "sweep = pq.read_table(folder.sweep)\n"
        "charts = draw_charts(Results.read(folder), sweep=sweep, scores=None)\n"
        "print(len(curve_png(charts['curves'])) > 1000, *charts, 'altair' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, run.folder.path],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["True", "curves", "detection", "activations", "False"]
