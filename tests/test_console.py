"""What people see in a terminal, and what a log file gets."""

import io
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from flows import page as page_module
from flows.console import print_run
from flows.page import Page, Progressing, StageLines
from goodnet.reports.about import About, StageRun
from goodnet.reports.results import Checkpoint, GoodNetRates, Rates, Results
from goodnet.storage.run_folder import RunFolder
from tests.terminal import on_terminal

ROOT = Path(__file__).resolve().parent.parent
NET = {"clean_valid_accuracy": 0.5, "clean_test_accuracy": 1.0, "attack_success_rate": None}
RESULTS = Results(classes=3, baseline=Rates(**NET), checkpoints=())
ABOUT = About(
    run="name",
    parameters={},
    layer="conv\x1b",
    rank_at="pool",
    chosen={"layer": "by default", "rank_at": "as asked"},
    inputs={},
    versions={},
    git_commit=None,
    stages=(
        StageRun("load", 0.25, "Completed"),
        StageRun("check", 1.5, "Cached"),
        StageRun("check", 2.0, "Completed"),
        StageRun("check", 0.5, "Completed"),
    ),
)


def write_run(folder: Path, results: Results = RESULTS, about: About = ABOUT) -> None:
    results.write(RunFolder(folder))
    about.write(RunFolder(folder))


def on_page(width: int = 80) -> Page:
    """One that is no terminal; `.file.getvalue()` is what it got."""
    return Page(file=io.StringIO(), width=width)


def test_plain_lines_are_occasional_and_say_how_fast_and_how_long(monkeypatch):
    monkeypatch.setattr(page_module, "_PLAIN_SECONDS", 0.2)
    page = on_page()
    progressing = Progressing(page)
    progressing.advanced("train", 0, 10_000)
    for done in range(1, 6):
        time.sleep(0.1)
        progressing.advanced("train", 1_000 * done, 10_000)
    progressing.finished("train")
    lines = page.file.getvalue().splitlines()
    assert 1 <= len(lines) <= 2
    pattern = r"train: \d,000 of 10,000 images, [\d,]+ images/s, \d s left"
    assert all(re.fullmatch(pattern, line) for line in lines)


def test_a_stage_that_has_just_begun_says_nothing():
    page = on_page()
    progressing = Progressing(page)
    for done in (32, 64, 96):
        progressing.advanced("train", done, 10_000)
    assert page.file.getvalue() == ""


def test_a_stage_that_is_done_when_it_is_first_heard_of_says_nothing():
    page = Page(file=io.StringIO(), force_terminal=True)
    progressing = Progressing(page)
    progressing.advanced("check", 8, 8)
    progressing.finished("check")
    assert page.file.getvalue() == ""


TERMINAL = """
import sys, time
from flows.page import Page, Progressing

progressing = Progressing(Page(stderr=True))
for done in range(0, 1001, 100):
    progressing.advanced("train", done, 1000)
    time.sleep(0.05)
progressing.finished("train")
"""


def test_a_terminal_gets_a_bar_with_speed_and_time_left_that_goes_away():
    shown = on_terminal(["-c", TERMINAL], COLUMNS="100")
    assert re.search(
        r"train.*━.* \d+/1000 .*\d+ images/s.* 0:00:0\d", re.sub("\x1b\\[[0-9;]*m", "", shown)
    )
    assert shown.rstrip().endswith("\x1b[2K"), "the bar's line is wiped"


def test_the_path_of_the_report_is_the_last_line_as_it_can_be_typed_here(tmp_path, monkeypatch):
    write_run(tmp_path)
    page = on_page()
    print_run(page, tmp_path, "The verdict.")
    assert page.file.getvalue().splitlines()[-1] == str(tmp_path / "report.html")
    monkeypatch.chdir(tmp_path.parent)
    print_run(page, tmp_path, "The verdict.")
    assert page.file.getvalue().splitlines()[-1] == f"{tmp_path.name}/report.html"


def test_the_end_says_how_many_stages_the_cache_answered_and_how_long_all_took(tmp_path):
    write_run(tmp_path)
    page = on_page()
    print_run(page, tmp_path, "The verdict.")
    assert "\nStages: 4, 1 of them cached, 4.2 s in all.\n" in page.file.getvalue()


def test_a_stage_that_takes_more_than_a_moment_has_a_line_from_its_beginning(monkeypatch):
    monkeypatch.setattr(page_module, "_MOMENT_SECONDS", 0.1)
    page = on_page()
    lines = StageLines(page)
    lines.say("starting")
    for stage, seconds in (("cached", 0.0), ("long", 0.2), ("cached too", 0.0)):
        lines.began(stage)
        time.sleep(seconds)
        shown = page.file.getvalue()
        lines.ended()
    time.sleep(0.2)
    assert page.file.getvalue() == shown
    assert re.fullmatch(r" +0\.0 s  starting\n +0\.\d s  long\n", shown)


@pytest.mark.parametrize("width", [40, 80])
def test_no_sentence_breaks_in_mid_word(tmp_path, width):
    page = on_page(width)
    name = "a-name-without-spaces-that-is-longer-than-a-line-of-forty.keras"
    page.tell(f"Repairing {name}: checkpoints at budget 2, 4, 10 points of clean accuracy")
    lines = page.file.getvalue().splitlines()
    assert name in " ".join(lines).split(" ") or f"{name}:" in " ".join(lines).split(" ")
    assert all(len(line) <= width for line in lines if name not in line)


def test_the_layer_and_remarks_are_told_after_the_verdict(tmp_path):
    write_run(tmp_path, replace(RESULTS, remarks=("Mind the scale.",)))
    page = on_page()
    print_run(page, tmp_path, "The verdict.")
    lines = page.file.getvalue().splitlines()
    first = lines.index("The verdict.")
    assert lines[first + 1 : first + 3] == [
        "Mind the scale.",
        "Pruned: channels of conv\\x1b (by default), ranked at pool (as asked).",
    ]


def test_what_names_of_files_hold_reaches_no_terminal_as_it_is(tmp_path):
    evil = "a\x1b]0;owned\x07\x1b[2J\n\u202e\x9b7m\x7f:bug:[red].h5"
    folder = RunFolder(tmp_path)
    replace(RESULTS, remarks=(f"{evil}: is odd",)).write(folder)
    ABOUT.write(folder)
    out = io.StringIO()
    print_run(Page(file=out, width=80, force_terminal=True), tmp_path, f"{evil} is judged.")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert {character for character in shown if not character.isprintable()} <= {"\n"}
    assert shown.count("owned") == 2
    assert shown.count(":bug:[red]") == 2


@pytest.mark.parametrize("width", [40, 80])
def test_no_number_of_the_table_is_cut_off(tmp_path, width):
    rates = GoodNetRates(**dict.fromkeys(NET, 1.0), detection_rate=1.0, false_alarm_rate=1.0)
    point = Checkpoint(drop=12.25, step=1024, channels=(), b_prime=rates, goodnet=rates)
    write_run(tmp_path, replace(RESULTS, checkpoints=(point,)))
    page = on_page(width)
    print_run(page, tmp_path, "The verdict.")
    (line,) = re.findall("^ G budget .*$", page.file.getvalue(), re.MULTILINE)
    assert line.split() == ["G", "budget", "12.25", "points", "1024", *["100.00", "%"] * 5]


@pytest.mark.parametrize("width", range(20, 60, 3))
def test_no_line_of_the_verdict_begins_with_a_percent_sign(tmp_path, width):
    write_run(tmp_path)
    page = on_page(width)
    verdict = "It lets 84.21 % of them through, flags 15.79 % and costs 15.00 points at 10 %."
    print_run(page, tmp_path, verdict)
    lines = page.file.getvalue().splitlines()
    assert verdict in " ".join(lines)
    assert not [line for line in lines if line.startswith("%")]


COMMANDS = [
    ("flows.run",),
    ("flows.audit",),
    ("flows.benchmark",),
    ("goodnet", "classify"),
    ("goodnet", "compare"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_says_the_default_of_every_option(command):
    page = subprocess.run(
        [sys.executable, "-m", *command, "--help"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert max(map(len, page.splitlines())) <= 80
    options = re.findall(r"^  (--[a-z-]+)(.*?)(?=^  -|^\S|^$)", page, re.MULTILINE | re.DOTALL)
    assert options
    for option, text in ((option, " ".join(words.split())) for option, words in options):
        assert "(default: " in text or "required" in text, option
