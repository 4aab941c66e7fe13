"""The script that draws the charts of a page: Vega, Vega-Lite and Vega-Embed, in one piece.

vl_convert takes 1.0 s of the processor to put it together and keeps Python's lock meanwhile. So a
process of its own does it, which a run starts early, and the user's cache keeps it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from markupsafe import Markup

from goodnet.storage.files import atomic_path

_BUNDLE = """
import signal, sys, vl_convert
signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ends in silence when nobody reads it any more
sys.stdout.write(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
"""


@cache
def start_bundling() -> subprocess.Popen[str] | None:
    """Start the process that `vega_script` waits for; it does not outlive this one by much.

    Returns:
        The process; None where the script is in the cache.
    """
    if _kept_script():
        return None
    command = [sys.executable, "-I", "-X", "utf8", "-c", _BUNDLE]
    # In a session of its own, since Ctrl-C is for this process to answer.
    return subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, encoding="utf-8", start_new_session=True
    )


@cache
def vega_script() -> Markup:
    """Return the script for a page."""
    process = start_bundling()
    # It comes from an installed package, not from a user; it holds no "</script".
    return Markup(_kept_script() if process is None else _bundled(process))  # noqa: S704


def _bundled(process: subprocess.Popen[str]) -> str:
    script, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"vl_convert ended with exit code {process.returncode}")
    with suppress(OSError, RuntimeError):  # Without a home it is put together each time.
        _place().parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(_place()) as temporary:
            temporary.write_text(script, "utf-8")
    return script


@cache
def _kept_script() -> str:
    """Return the script from the user's cache; nothing where it is not there."""
    with suppress(OSError, RuntimeError, ValueError):
        return _place().read_text("utf-8")
    return ""


def _place() -> Path:
    """Return where the script of this vl_convert is kept."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "goodnet" / f"vega-{version('vl-convert-python')}.js"
