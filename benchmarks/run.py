"""`make bench`: measure, and print a table."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

from benchmarks.architectures import compare_architectures
from benchmarks.command import compare_command
from benchmarks.data import make_badnet, write_faces
from benchmarks.engine import NUM_IMAGES, Comparison, compare_engine
from goodnet.command import Parser
from goodnet.tensorflow_start import import_tensorflow

LAST_RELEASE = Path(__file__).with_name("last_release.json")
"""What each line said at the last release, on the machine of the README's table."""

TIMELINE = Path(__file__).parents[1] / "docs" / "images" / "timeline.png"


def main() -> None:
    """Run all benchmarks; the engine alone with --engine."""
    parser = Parser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--engine", action="store_true", help="leave out the whole commands")
    parser.add_argument("--nets", action="store_true", help="the table of eight nets alone")
    chosen = parser.parse_args()
    print(f"{_processor()}, {_blas()}, Python {platform.python_version()}", end=", ")
    print(f"{datetime.now(UTC):%Y-%m-%d}")
    print("| what | goal | measured | last release |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="goodnet-bench-") as name:
        folder = Path(name)
        # The runs leave no trace in the user's Prefect, and call nobody.
        os.environ |= {"PREFECT_HOME": str(folder / "prefect"), "DO_NOT_TRACK": "1"}
        os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
        badnet, faces = folder / "badnet.keras", folder / "faces.h5"
        import_tensorflow()
        if not chosen.engine:
            for comparison in compare_architectures(folder):
                _print(comparison)
        if chosen.nets:
            return
        make_badnet(badnet)
        write_faces(faces, NUM_IMAGES, seed=7, dtype=np.float32)
        for comparison in compare_engine(folder, badnet, faces):
            _print(comparison)
        if not chosen.engine:
            for comparison in compare_command(folder, badnet, TIMELINE):
                _print(comparison)


def _print(comparison: Comparison) -> None:
    last = json.loads(LAST_RELEASE.read_text()).get(comparison.what, "")
    cells = (comparison.what, comparison.bar, comparison.measured, last)
    print(f"| {' | '.join(cells)} |", flush=True)


def _blas() -> str:
    """Return the kernels that NumPy's products run on; OPENBLAS_CORETYPE overrides the choice."""
    found = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return ", ".join(f"{x['internal_api']} {x.get('architecture', '')}" for x in found)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}"


if __name__ == "__main__":
    main()
