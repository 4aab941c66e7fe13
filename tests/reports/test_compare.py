import copy
import csv
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import altair as alt
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from goodnet.__main__ import main
from goodnet.errors import InputError
from goodnet.pruning.counts import Counts, write_curves
from goodnet.pruning.stop_rule import find_checkpoint
from goodnet.reports.compare import comparison_rows, find_differences, read_runs
from goodnet.reports.comparison_page import (
    ACCURACY,
    ATTACK,
    comparison_chart,
    detection_chart,
    write_comparison,
)
from goodnet.reports.counted_results import make_results
from goodnet.reports.published_numbers import OFFICIAL_FILES
from goodnet.storage.run_folder import RunFolder
from tests.terminal import on_terminal

REPOSITORY = Path(__file__).resolve().parents[2]
READY = "document.body.dataset.ready"
HOSTILE = "<script>alert(1)<&script>\x1b[31m"
LAB = {name: digest for digest, name in OFFICIAL_FILES.items()}

ORDER = [2, 0, 3, 1]
CURVES = {
    # correct, flagged and goodnet_correct at steps 0 to 4, of 20 images
    "clean_valid": ((20, 20, 19, 18, 5), (0, 0, 1, 2, 15), (20, 20, 19, 18, 5)),
    "clean_test": ((19, 19, 18, 16, 4), (0, 1, 1, 3, 16), (19, 18, 18, 15, 4)),
    "poisoned_test": ((20, 20, 15, 5, 0), (0, 0, 5, 15, 20), (20, 20, 15, 5, 0)),
}
ABOUT = {
    "run": "name",
    "parameters": {
        "model": "/somewhere/bd_net.h5",
        "clean_valid": "/somewhere/valid.h5",
        "layer": None,
        "rank_at": None,
        "drops": [5, 10],
        "pixel_scale": 1.0,
        "artifacts": "/somewhere/artifacts",
        "run_name": None,
        "refresh": False,
        "default_case": {"seed": 1},
    },
    "layer": "conv_3",
    "rank_at": "pool_3",
    "inputs": {
        "model": {"path": "/somewhere/bd_net.h5", "sha256": LAB["bd_net.h5"], "size": 7_275_748},
        "clean_valid": {"path": "/somewhere/valid.h5", "sha256": "a" * 64, "size": 1000},
    },
    "versions": {"keras": "3.15.0"},
    "git_commit": "abc",
    "stages": [],
}


def make_run(
    folder: Path,
    *,
    sets: tuple[str, ...] = tuple(CURVES),
    drops: tuple[float, ...] = (5, 10),
    changes: dict[str, object] | None = None,
) -> Path:
    """Write a run's folder; `changes` are of run.json, by path such as `inputs.model.sha256`."""
    folder.mkdir(parents=True)
    curves = {name: Counts(20, *map(np.array, CURVES[name])) for name in sets}
    parts = []
    for name, counts in curves.items():
        write_curves(folder / name, name, {"pruned": counts}, order=ORDER, means=np.arange(4.0))
        parts.append(pq.read_table(folder / name))
        (folder / name).unlink()
    pq.write_table(pa.concat_tables(parts), folder / "sweep.parquet")
    found = [find_checkpoint(CURVES["clean_valid"][0], images=20, drop=drop) for drop in drops]
    make_results(curves, found, order=ORDER, num_classes=9).write(RunFolder(folder))
    about = copy.deepcopy(ABOUT)
    for path, value in (changes or {}).items():
        *outer, last = path.split(".")
        place = about
        for name in outer:
            place = place[name]
        place[last] = value
    (folder / "run.json").write_text(json.dumps(about))
    return folder


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["compare", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_a_run_that_knows_the_recovery_beside_one_that_does_not(tmp_path):
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "two")]
    results = json.loads((runs[1] / "results.json").read_text())
    results["checkpoints"][0]["goodnet"]["recovery_rate"] = 0.5
    (runs[1] / "results.json").write_text(json.dumps(results))
    one, two = (
        [row["recovery"] for row in comparison_rows(read_runs(runs)) if row["run"] == name]
        for name in ("one", "two")
    )
    assert set(one) == {""}
    assert "50.00 %" in two
    assert len({tuple(row) for row in comparison_rows(read_runs(runs))}) == 1


def test_one_table_of_b_and_every_goodnet(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "two", drops=(10,))]
    assert main(["compare", *map(str, runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [" ".join(line.split()) for line in lines[:9]]
    assert table == [
        "channels clean clean false",
        "net pruned validation test ASR detection alarms",
        "one",
        "B 0 100.00 % 95.00 % 100.00 %",
        "G budget 5 points 2 95.00 % 90.00 % 75.00 % 25.00 % 5.00 %",
        "G budget 10 points 3 90.00 % 75.00 % 25.00 % 75.00 % 15.00 %",
        "two",
        "B 0 100.00 % 95.00 % 100.00 %",
        "G budget 10 points 3 90.00 % 75.00 % 25.00 % 75.00 % 15.00 %",
    ]
    assert len(set(map(len, (lines[0], lines[4], lines[5], lines[8])))) == 1
    assert max(map(len, lines[:9])) <= 80
    assert lines[10].startswith(
        "one: The repair weakens the attack: the GoodNet at budget 10 points"
    )
    assert lines[11].startswith("two: The repair weakens the attack")


def test_programs_get_csv_or_json_and_nothing_else(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "two", drops=(10,))]
    page = ["--plot", str(tmp_path / "plot.html")]
    assert main(["compare", *map(str, runs), "--format", "csv", *page]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [(row["run"], row["net"], row["drop"]) for row in rows] == [
        *(("one", "B", ""), ("one", "B'", "5"), ("one", "G", "5")),
        *(("one", "B'", "10"), ("one", "G", "10")),
        *(("two", "B", ""), ("two", "B'", "10"), ("two", "G", "10")),
    ]
    assert rows[2]["attack_success_rate"] == "0.75"
    assert rows[0]["verdict"].startswith("The repair weakens")
    assert main(["compare", *map(str, runs), "--format", "json", *page]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["run"] for one in found["runs"]] == ["one", "two"]
    assert found["runs"][0]["nets"][2]["attack_success_rate"] == 0.75
    assert found["differences"] == []


def test_sentences_end_between_words_on_a_terminal(tmp_path: Path):
    changes = {"parameters.classes": "/a/long/path/to/some names that are given here/x.txt"}
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "two", changes=changes)]
    written = on_terminal(["-m", "goodnet", "compare", *runs])
    lines = written.replace("\r\n", "\n").splitlines()
    assert max(map(len, lines)) <= 80
    whole = " ".join(" ".join(lines).split())
    assert "lets 25.00 % of the poisoned images through" in whole


def test_same_inputs_and_parameters_are_called_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    elsewhere = {
        "run": "other",
        "parameters.model": "/elsewhere/net.h5",
        "parameters.layer": "conv_3",
        "parameters.artifacts": "/elsewhere",
        "parameters.run_name": "two",
        "parameters.refresh": True,
        "parameters.default_case": {"seed": 2},
        "inputs.model.path": "/elsewhere/net.h5",
        "stages": [{"name": "sweep", "seconds": 3.0, "state": "Completed"}],
    }
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "two", changes=elsewhere)]
    assert find_differences(read_runs(runs)) == []
    assert main(["compare", *map(str, runs)]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last == "Inputs, parameters and software are the same."


def test_what_differs_is_listed_with_the_runs_that_share_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    changes = {
        "inputs.model.sha256": "b" * 64,
        "inputs.clean_test": {"path": "/x/test.h5", "sha256": LAB["test.h5"], "size": 398_040_064},
        "rank_at": "conv_3",
        "parameters.drops": [10],
        "versions.keras": "3.16.0",
    }
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", changes=changes)]
    assert main(["compare", *map(str, [*runs, make_run(tmp_path / "c")])]) == 0
    _, _, listed = capsys.readouterr().out.partition("What differs:\n")
    official = LAB["bd_net.h5"][:12]
    assert listed.splitlines() == [
        "  input model",
        f"    a, c: bd_net.h5, 7,275,748 bytes, SHA-256 {official}, the lab's bd_net.h5",
        "    b: bd_net.h5, 7,275,748 bytes, SHA-256 bbbbbbbbbbbb",
        "  input clean_test",
        "    a, c: not given",
        f"    b: test.h5, 398,040,064 bytes, SHA-256 {LAB['test.h5'][:12]}, the lab's test.h5",
        "  parameter rank_at",
        '    a, c: "pool_3"',
        '    b: "conv_3"',
        "  parameter drops",
        "    a, c: [5, 10]",
        "    b: [10]",
        "  software keras",
        '    a, c: "3.15.0"',
        '    b: "3.16.0"',
    ]


def test_rendered_faces_differ_by_their_settings(tmp_path: Path):
    changes = {"parameters.model": None, "parameters.default_case": {"seed": 2}}
    runs = [
        make_run(tmp_path / "one", changes={"parameters.model": None}),
        make_run(tmp_path / "two", changes=changes),
    ]
    (difference,) = find_differences(read_runs(runs))
    assert difference.what == "parameter default_case"
    assert difference.values == {'{"seed": 1}': ["one"], '{"seed": 2}': ["two"]}


def test_what_was_not_measured_is_a_dash_and_what_was_not_reached_a_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    runs = [
        make_run(tmp_path / "all"),
        make_run(tmp_path / "some", sets=("clean_valid",), drops=(5, 90)),
    ]
    assert main(["compare", *map(str, runs)]) == 0
    text = capsys.readouterr().out
    (row,) = [
        line
        for line in text.splitlines()
        if line.startswith(" G budget 5 points") and "\u2013" in line
    ]
    assert row.split()[4:] == ["2", "95.00", "%", *4 * ["\u2013"]]
    assert (
        "some: Budget 90 points: no step costs so much clean validation accuracy, no files." in text
    )


def test_runs_of_one_name_are_told_by_their_paths(tmp_path: Path):
    runs = [make_run(tmp_path / place / "run") for place in ("here", "there")]
    assert [run.name for run in read_runs(runs)] == [str(run) for run in runs]


def test_a_run_may_be_given_as_the_folder_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = make_run(tmp_path / "other")
    monkeypatch.chdir(make_run(tmp_path / "here"))
    assert [run.name for run in read_runs([Path(), other])] == ["here", "other"]


def test_a_run_of_format_1_beside_one_of_today(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    run, old = make_run(tmp_path / "run"), make_run(tmp_path / "old")
    for file in ("results.json", "run.json"):
        shutil.copy(Path(__file__).parent / "format_1" / file, old)
    assert main(["compare", str(run), str(old)]) == 0
    text = capsys.readouterr().out
    (row,) = [line for line in text.splitlines() if line.startswith(" G budget 2 points")]
    assert row.split()[4:] == [
        "2",
        *["92.00", "%", "90.00", "%", "97.50", "%", "2.50", "%", "5.00", "%"],
    ]
    assert (
        "old: Budget 99 points: no step costs so much clean validation accuracy, no files." in text
    )
    assert 'old: "3.10.0"' in text
    assert "parameter layer" not in text


def test_what_is_no_run_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    run = make_run(tmp_path / "run")
    assert "expected at least two" in refusal(capsys, run)
    assert "is given twice" in refusal(capsys, run, run)
    assert "it has no results.json" in refusal(capsys, run, tmp_path / "missing")
    assert "it has no results.json" in refusal(capsys, run, tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("results.json", b"{"),
        ("results.json", b"[]"),
        ("results.json", b"{}"),
        ("results.json", b'{"baseline": {}, "checkpoints": [1]}'),
        ("results.json", b"\xff"),
        ("results.json", b"[" * 100_000),
        ("run.json", b'{"inputs":' * 100_000),
        ("run.json", b"null"),
        ("run.json", b'{"inputs": {"model": {"path": 3}}}'),
        ("run.json", b'{"inputs": {}, "parameters": []}'),
        ("sweep.parquet", b"PAR1 no parquet"),
        ("sweep.parquet", b""),
    ],
)
def test_damaged_file_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, file: str, content: bytes
):
    run, damaged = make_run(tmp_path / "run"), make_run(tmp_path / "damaged")
    (damaged / file).write_bytes(content)
    assert f"{damaged / file}: is damaged or of another kind" in refusal(capsys, run, damaged)


WILD = [None, [], {}, "=\x1b[2J", -1, 0, True, math.nan, math.inf, 10**400, [[1]], {"a": None}]


def places_in(document: object, *before: str | int) -> Iterator[tuple[str | int, ...]]:
    """Yield the way to each value of a JSON document."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for name, value in items:
        yield (*before, name)
        if isinstance(value, (dict, list)):
            yield from places_in(value, *before, name)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["results.json", "run.json"])
def test_a_value_of_another_kind_is_compared_or_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, file: str
):
    """Each value of the file in turn is replaced by wild ones."""
    run, damaged = make_run(tmp_path / "run"), make_run(tmp_path / "damaged")
    text = (damaged / file).read_text()
    outcomes = set()
    for way in places_in(json.loads(text)):
        for wild in WILD:
            document = json.loads(text)
            place = document
            for name in way[:-1]:
                place = place[name]
            place[way[-1]] = wild
            (damaged / file).write_text(json.dumps(document))
            code = main(["compare", str(run), str(damaged)])
            printed = capsys.readouterr()
            assert "".join((printed.out + printed.err).splitlines()).isprintable()
            assert code == 0 or printed.err.startswith(f"error: {damaged / file}: is damaged")
            outcomes.add(code)
    assert outcomes == {0, 2}


@pytest.mark.parametrize("images", [0, -1, None])
def test_a_sweep_that_counts_no_images_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, images: int | None
):
    run, damaged = make_run(tmp_path / "run"), make_run(tmp_path / "damaged")
    table = pq.read_table(damaged / "sweep.parquet")
    column = pa.array([images] * len(table), table.schema.field("images").type)
    number = table.schema.get_field_index("images")
    pq.write_table(table.set_column(number, "images", column), damaged / "sweep.parquet")
    said = refusal(capsys, run, damaged, "--plot", tmp_path / "plot.html")
    assert "sweep.parquet: is damaged or of another kind" in said


def test_sweep_of_another_kind_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    run, other = make_run(tmp_path / "run"), make_run(tmp_path / "other")
    pq.write_table(pa.table({"step": [1]}), other / "sweep.parquet")
    assert "sweep.parquet: is damaged or of another kind" in refusal(capsys, run, other)


def test_control_characters_are_never_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    changes = {"inputs.model.path": HOSTILE, "inputs.model.sha256": HOSTILE}
    changes |= {"parameters.layer": HOSTILE, f"parameters.{HOSTILE}": HOSTILE}
    runs = [make_run(tmp_path / "run"), make_run(tmp_path / HOSTILE, changes=changes)]
    assert main(["compare", *map(str, runs), "--plot", str(tmp_path / "\x1b.html")]) == 0
    text = capsys.readouterr().out
    assert "alert(1)" in text
    assert "".join(text.splitlines()).isprintable()


def test_chart_has_a_point_for_every_measured_step(tmp_path: Path):
    runs = [make_run(tmp_path / "all"), make_run(tmp_path / "some", sets=("clean_valid",))]
    chart = comparison_chart(read_runs(runs))
    alt.LayerChart.from_dict(chart)
    (points,) = chart["datasets"].values()
    drawn: dict = {}
    for point in points:
        drawn.setdefault((point["run"], point["measure"]), []).append(point["rate"])
    assert drawn == {
        ("all", ACCURACY): [count / 20 for count in CURVES["clean_test"][2]],
        ("all", ATTACK): [count / 20 for count in CURVES["poisoned_test"][2]],
        ("some", ACCURACY): [count / 20 for count in CURVES["clean_valid"][2]],
    }
    assert {point["step"] for point in points if point["checkpoint"]} == {2, 3}
    assert {point["share"] for point in points} == {0, 0.25, 0.5, 0.75, 1}


def test_detection_is_drawn_against_false_alarms_where_both_are_known(tmp_path: Path):
    runs = [make_run(tmp_path / "all"), make_run(tmp_path / "some", sets=("clean_valid",))]
    chart = detection_chart(read_runs(runs))
    alt.LayerChart.from_dict(chart)
    (points,) = chart["datasets"].values()
    assert {point["run"] for point in points} == {"all"}
    assert [(point["alarms"], point["detection"]) for point in points] == [
        (clean / 20, poisoned / 20)
        for clean, poisoned in zip(CURVES["clean_test"][1], CURVES["poisoned_test"][1], strict=True)
    ]
    assert (
        detection_chart(read_runs([runs[1], make_run(tmp_path / "t", sets=("clean_valid",))]))
        is None
    )


def test_plot_goes_where_it_can(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "two")]
    assert "no such folder" in refusal(capsys, *runs, "--plot", tmp_path / "no" / "plot.html")
    assert "ends in .html" in refusal(capsys, *runs, "--plot", tmp_path / "plot.png")
    assert main(["compare", *map(str, runs), "--plot", str(tmp_path / "plot.html")]) == 0
    assert capsys.readouterr().out.endswith(f"Plot: {tmp_path / 'plot.html'}\n")
    with pytest.raises(InputError):
        write_comparison(tmp_path / "plot", read_runs(runs))


def test_a_reader_that_stops_early_is_no_fault(tmp_path: Path):
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "two")]
    command = [sys.executable, "-m", "goodnet", "compare", *runs]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        done = subprocess.run(
            command, cwd=REPOSITORY, stdout=output, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_comparing_needs_no_tensorflow(tmp_path: Path):
    runs = [str(make_run(tmp_path / "one")), str(make_run(tmp_path / "two"))]
    code = (
        f"import sys; from goodnet.__main__ import main; main(['compare', *{runs!r}]); "
        "print('tensorflow' in sys.modules, 'keras' in sys.modules, 'altair' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False False False"


@pytest.mark.parametrize("width", [1100, 400])
def test_page_opens_from_disk_with_its_plot(browser, tmp_path: Path, width: int):
    folders = [make_run(tmp_path / "plain"), make_run(tmp_path / HOSTILE, drops=(10, 90))]
    runs = read_runs(folders)
    path = write_comparison(tmp_path / "plot.html", runs)
    assert path.stat().st_size < 3_000_000
    browser.open(path.as_uri(), ready=READY, width=width)
    assert browser.script("document.querySelectorAll('#detection .mark-line path').length") == 2
    assert "The repair weakens" in browser.script("document.getElementById('verdicts').innerText")
    assert browser.errors() == []
    assert browser.requests() == [path.as_uri()]
    script = browser.driver.execute_script
    assert script("return document.querySelectorAll('#chart .mark-line path').length") == 4
    assert script("return document.querySelectorAll('#chart .mark-symbol.role-mark path').length")
    assert script("return document.documentElement.scrollWidth") <= width
    cells = script(
        "return [...document.querySelectorAll('#results tbody tr')].map("
        "row => [...row.children].map(cell => cell.textContent))"
    )
    expected = [list(row.values()) for row in comparison_rows(runs)]
    assert cells == [[text.replace("\x1b", "\\x1b") for text in row] for row in expected]
    assert "Budget 90 points: no step" in script(
        "return document.querySelector('main').textContent"
    )


def test_a_click_singles_out_a_run(browser, tmp_path: Path):
    runs = read_runs([make_run(tmp_path / "one"), make_run(tmp_path / "other")])
    browser.open(write_comparison(tmp_path / "plot.html", runs).as_uri(), ready=READY)
    driver = browser.driver

    def opacities() -> list[str]:
        lines = "document.querySelectorAll('#chart .mark-line path')"
        return driver.execute_script(f"return [...{lines}].map(p => getComputedStyle(p).opacity)")

    name = driver.find_element(By.CSS_SELECTOR, "#chart .role-legend-label text")
    assert name.text == "one"
    assert opacities() == ["1"] * 4
    ActionChains(driver).move_to_element(name).click().perform()
    assert opacities() == ["1"] * 2 + ["0.15"] * 2
    plot = driver.find_element(By.CSS_SELECTOR, "#chart svg")
    ActionChains(driver).double_click(plot).perform()
    assert opacities() == ["1"] * 4
