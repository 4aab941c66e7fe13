import os
import subprocess
import sys
from pathlib import Path

import pytest

from goodnet.reports.vega import vega_script

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "from goodnet.reports.vega import vega_script; print(len(vega_script()))"


def test_the_script_can_be_put_into_a_page():
    script = vega_script()
    assert script.__html__() == script
    assert "window.vegaEmbed" in script
    assert "</script" not in script.lower()
    assert vega_script() is script


def length_of_script(**environment: str) -> int:
    """Return how long the script is that a process of its own finds."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_the_script_is_put_together_once(tmp_path):
    first = length_of_script(XDG_CACHE_HOME=str(tmp_path))
    (kept,) = (tmp_path / "goodnet").iterdir()
    assert first > 100_000
    assert length_of_script(XDG_CACHE_HOME=str(tmp_path)) == first
    kept.write_text("short")
    assert length_of_script(XDG_CACHE_HOME=str(tmp_path)) == len("short")


@pytest.mark.parametrize("place", ["/proc/nowhere", __file__])
def test_where_nothing_can_be_kept_it_is_put_together_again(place):
    assert length_of_script(XDG_CACHE_HOME=place) > 100_000


def test_a_command_that_fails_meanwhile_says_nothing_of_it(tmp_path):
    code = "from goodnet.reports.vega import start_bundling; print(start_bundling().pid)"
    with (tmp_path / "errors").open("w+") as errors:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            check=True,
        )
        _wait_for_end(int(done.stdout))
        errors.seek(0)
        assert errors.read() == ""


def _wait_for_end(pid: int) -> None:
    """Wait for a process that is no child of this one."""
    subprocess.run(["tail", f"--pid={pid}", "-f", "/dev/null"], check=True, timeout=60)
