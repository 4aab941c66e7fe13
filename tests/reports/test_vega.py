import subprocess
import sys
from pathlib import Path

from goodnet.reports.vega import vega_script

ROOT = Path(__file__).resolve().parents[2]


def test_the_script_can_be_put_into_a_page():
    script = vega_script()
    assert script.__html__() == script
    assert "window.vegaEmbed" in script
    assert "</script" not in script.lower()
    assert vega_script() is script


def test_a_command_that_fails_meanwhile_says_nothing_of_it(tmp_path):
    code = "from goodnet.reports.vega import start_bundling; print(start_bundling().pid)"
    with (tmp_path / "errors").open("w+") as errors:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
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
