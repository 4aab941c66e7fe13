"""Read damaged files one after another, for test_fuzz.py, in a process that may crash.

Each line of the input is a JSON list, a reader's name and a path; each line of the output says
"read" or "refused", or what else happened.
"""

import json
import re
import resource
import sys
import traceback
from pathlib import Path

from goodnet.errors import InputError
from goodnet.images.image_sets import open_images
from goodnet.model_files.describe import describe_model
from goodnet.pruning.layer_choice import choose_layers

ALLOWED_BYTES = 2**30
# More than allowed, so that a reader that takes too much is caught and does not seem to refuse.
HARD_LIMIT_BYTES = 4 * 2**30


def read_model(path: Path) -> None:
    choose_layers(describe_model(path), layer=None, rank_at=None)


def read_weights(path: Path) -> None:
    choose_layers(describe_model(path, architecture="deepid"), layer=None, rank_at=None)


def read_images(path: Path) -> None:
    for batch in open_images(path).batches(4):
        if not 0 <= batch.min() <= batch.max() <= 255:
            raise AssertionError("a pixel outside 0..255 was delivered")


READERS = {"model": read_model, "weights": read_weights, "images": read_images}


def outcome(reader: str, path: Path) -> str:
    try:
        READERS[reader](path)
    except InputError as error:
        return "refused" if str(error).isprintable() else f"unprintable: {error!r}"
    except BaseException:
        return traceback.format_exc()
    return "read"


def memory_bytes(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^{name}:\s*(\d+)", status, re.MULTILINE)[1])


def main() -> None:
    limit = memory_bytes("VmSize") + HARD_LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for line in sys.stdin:
        reader, path = json.loads(line)
        answer = outcome(reader, Path(path))
        peak_bytes = memory_bytes("VmHWM")
        if peak_bytes > ALLOWED_BYTES:
            answer = f"took {peak_bytes:,} bytes of memory"
        print(json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
