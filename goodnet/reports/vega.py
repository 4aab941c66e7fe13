"""The script that draws the charts of a page: Vega, Vega-Lite and Vega-Embed, in one piece.

vl_convert takes 0.8 s to put it together and keeps Python's lock meanwhile, so a process of its own
does it, which a run starts early.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache

from markupsafe import Markup

_BUNDLE = """
import signal, sys, vl_convert
signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ends in silence when nobody reads it any more
sys.stdout.write(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
"""


@cache
def start_bundling() -> subprocess.Popen[str]:
    """Start the process that `vega_script` waits for; it does not outlive this one by much."""
    command = [sys.executable, "-I", "-X", "utf8", "-c", _BUNDLE]
    # In a session of its own, since Ctrl-C is for this process to answer.
    return subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, encoding="utf-8", start_new_session=True
    )


@cache
def vega_script() -> Markup:
    """Return the script for a page."""
    process = start_bundling()
    script, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"vl_convert ended with exit code {process.returncode}")
    # It comes from an installed package, not from a user; it holds no "</script".
    return Markup(script)  # noqa: S704
