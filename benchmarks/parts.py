"""`python -m benchmarks.parts`: two Dask workers on two cores beside one process."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.data import make_badnet, write_faces
from benchmarks.engine import interleaved
from benchmarks.growth import Cost, Growth, measure_growth
from goodnet.command import Parser
from goodnet.digests import digest_file
from goodnet.images.image_sets import ImageSet, open_images
from goodnet.images.preprocessing import AS_STORED
from goodnet.model_files.limits import DEFAULT_LIMITS
from goodnet.opening import NetFile
from goodnet.parts import FirstPass, SweepPart, pass_over, sweep_part
from goodnet.progress import Progress
from goodnet.pruning.activation_cache import ActivationCache, Provenance, part_rows
from goodnet.pruning.counts import add_counts
from goodnet.pruning.sweep import count_answers
from goodnet.tensorflow_start import import_tensorflow
from tasks.parts import map_parts, mapped_on

_IMAGES = 2 * 8192
_ROUNDS = 3
_EMPTY = 200


def main() -> None:
    """Measure the first pass and the sweep of DeepID over two parts, and parts without work."""
    parser = Parser(prog="python -m benchmarks.parts", description=__doc__)
    parser.add_argument("--dask", default="local:2", help="the workers (default: local:2)")
    parser.add_argument(
        "--growth",
        action="store_true",
        help="measure 1,024, 10,240 and 102,400 images instead (six minutes, 3 GB of disk)",
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="goodnet-bench-") as name:
        folder = Path(name)
        import_tensorflow()
        badnet, faces = folder / "badnet.keras", folder / "faces.h5"
        make_badnet(badnet)
        net = NetFile(badnet, digest_file(badnet).sha256, "conv_3", "pool_3", None, DEFAULT_LIMITS)
        if chosen.growth:
            _print_growth(measure_growth(net, folder, chosen.dask))
            return
        write_faces(faces, _IMAGES, seed=7, dtype=np.uint8)
        images = open_images(faces)

        def here() -> None:
            with mapped_on(None, artifacts=folder):
                _all_parts(net, images, folder)

        def workers() -> None:
            _all_parts(net, images, folder)

        with mapped_on(chosen.dask, artifacts=folder):
            timed = interleaved({"workers": workers, "here": here}, rounds=_ROUNDS)
            empty = _seconds_of_empty_parts()
    one, two = (statistics.median(timed[name]) for name in ("here", "workers"))
    print(f"first pass and sweep of {_IMAGES:,} images, one process: {one:.2f} s")
    print(f"the same on {chosen.dask}: {two:.2f} s, {two / one:.2f} of it")
    print(f"a part without work on {chosen.dask}: {1000 * empty:.1f} ms")


def _print_growth(measured: Iterable[Growth]) -> None:
    """Print a row for each stage: seconds, also as multiples of those of a tenth of the images."""
    print("| images | where | stage | wall s | x | CPU s | x | command MB | worker MB |")
    print("|--:|---|---|--:|--:|--:|--:|--:|--:|")
    before: dict[tuple[str, str], Cost] = {}
    for growth in measured:
        for stage, cost in growth.stages.items():
            less = before.get((growth.where, stage))
            before[growth.where, stage] = cost
            wall = f"{cost.seconds / less.seconds:.1f}" if less else ""
            cpu = f"{cost.cpu_seconds / less.cpu_seconds:.1f}" if less else ""
            memory = f"{cost.command_bytes / 1e6:,.0f} | {cost.worker_bytes / 1e6:,.0f}"
            print(
                f"| {growth.num_images:,} | {growth.where} | {stage} | {cost.seconds:.2f} | {wall} "
                f"| {cost.cpu_seconds:.2f} | {cpu} | {memory} |",
                flush=True,
            )


def _all_parts(net: NetFile, images: ImageSet, folder: Path) -> None:
    provenance = Provenance(net.sha256, "faces", "conv_3", "pool_3", AS_STORED, 1283)
    paths = {rows: folder / f"{rows.start}.parquet" for rows in part_rows(images.num_images)}
    work = [FirstPass(net, images, rows, path, provenance) for rows, path in paths.items()]
    list(map_parts(pass_over, work, _nothing))
    cache = ActivationCache(*paths.values())
    order = tuple(range(cache.num_channels))
    swept = [
        SweepPart(net, cache, blocks, order, count_answers) for blocks in cache.blocks_by_part()
    ]
    add_counts([one.counts for one in map_parts(sweep_part, swept, _nothing)])


def _seconds_of_empty_parts() -> float:
    began = time.perf_counter()
    list(map_parts(_work_of_nothing, [range(1)] * _EMPTY, _nothing))
    return (time.perf_counter() - began) / _EMPTY


def _work_of_nothing(part: range, advance: Progress) -> None:
    """Take a part and do nothing with it."""


def _nothing(done: int, total: int) -> None:
    """Say nothing of progress."""


if __name__ == "__main__":
    main()
