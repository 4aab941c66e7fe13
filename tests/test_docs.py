"""The examples in docstrings, and the reference that is built from these."""

import doctest
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import goodnet

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "goodnet").rglob("*.py")
    if ">>> " in path.read_text("utf-8")
)


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_give_what_they_say(module):
    found = doctest.testmod(import_module(module))
    assert found.attempted > 0
    assert found.failed == 0


def test_there_are_examples():
    modules = {"goodnet.metrics", "goodnet.pruning.stop_rule", "goodnet.pruning.ranking"}
    assert modules <= set(EXAMPLES)


def recipe():
    """What `make docs` runs, without its folder."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"^docs: .*\n\t.*?python (.*)$", text, re.MULTILINE)
    words = shlex.split(command)
    return [word for word in words if word not in ("--output-directory", "docs/api")]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    place = tmp_path_factory.mktemp("api")
    done = subprocess.run(
        [sys.executable, *recipe(), "--output-directory", place],
        cwd=ROOT,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return place


@pytest.mark.slow
def test_the_reference_has_every_public_name(reference):
    page = (reference / "goodnet.html").read_text()
    assert [name for name in goodnet.__all__ if f'id="{name}"' not in page] == []
    assert (reference / "goodnet" / "defenses" / "seam.html").is_file()
    assert (reference / "index.html").is_file()


def test_the_reference_needs_no_network(reference, browser):
    page = (reference / "goodnet.html").as_uri()
    browser.open(page, ready="document.readyState == 'complete'")
    assert browser.requests() == [page]
    assert browser.errors() == []


def test_the_reference_is_built_and_never_committed():
    assert "/docs/api/" in (ROOT / ".gitignore").read_text().splitlines()
