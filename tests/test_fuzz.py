"""Valid files with bytes flipped, cut and moved: each is read or refused, and nothing else.

`make fuzz` tries more, and others each time. HDF5 can crash and hang on damaged files, so a process
of its own reads them: fuzz_worker.py.
"""

import hashlib
import io
import json
import os
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from goodnet.errors import InputError
from tests.model_files.descriptions import make_layer as layer
from tests.storage.zip64 import with_zip64

CASES_IN_CI = 2880
CASES = int(os.environ.get("FUZZ_CASES", CASES_IN_CI))
PATIENCE_SECONDS = 10
ROOT = Path(__file__).resolve().parents[1]
KEPT = Path(tempfile.gettempdir()) / "goodnet-fuzz"

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is measured through /proc"
)


class Edit(NamedTuple):
    """A change of one place of a file; what `number` and `content` mean is up to the action."""

    action: str
    position: int
    number: int
    content: bytes


ACTIONS = {
    "flip": lambda data, at, edit: data[:at] + bytes([data[at] ^ edit.content[0]]) + data[at + 1 :],
    "overwrite": lambda data, at, edit: data[:at] + edit.content + data[at + len(edit.content) :],
    "insert": lambda data, at, edit: data[:at] + edit.content + data[at:],
    "remove": lambda data, at, edit: data[:at] + data[at + edit.number :],
    "move": lambda data, at, edit: data[:at] + data[edit.number :][:16] + data[at + 16 :],
    "cut": lambda data, at, edit: data[:at],
}
# Whole numbers that sizes, counts and addresses stumble over.
BORDERS = [value.to_bytes(8, "little") for value in (0, 1, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1)]

edits = st.lists(
    st.builds(
        Edit,
        action=st.sampled_from([*ACTIONS, "flip", "overwrite", "overwrite"]),
        position=st.integers(0, 2**14 - 1),
        number=st.integers(1, 2**10),
        content=st.binary(min_size=1, max_size=8) | st.sampled_from(BORDERS),
    ),
    min_size=1,
    max_size=4,
)


def damage(data: bytes, changes: list[Edit]) -> bytes:
    for edit in changes:
        if data:
            data = ACTIONS[edit.action](data, edit.position % len(data), edit)
    return data


NOTHING = (None, True, -1, 0, 1, 7, 2**70, 0.5, "", "relu", "conv", [], [[]], [None], {})
SETTINGS = (["conv", 0, 0], "ReLU", "Sequential", "keras.layers", "\x1b[31m", float("nan"))


def damage_json(text: bytes, changes: list[Edit]) -> bytes:
    """Replace values anywhere in JSON by others that stand in it, or by ones of other types."""
    tree = json.loads(text)
    for edit in changes:
        places = list(walk(tree))
        parent, key = places[edit.position % len(places)]
        others = [*NOTHING, *SETTINGS, *(owner[name] for owner, name in places[:: edit.number])]
        if edit.action == "remove":
            del parent[key]
        else:
            parent[key] = json.loads(json.dumps(others[edit.content[0] % len(others)]))
        tree = tree or [None]
    return json.dumps(tree).encode()


def walk(tree: Any) -> Any:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from walk(tree[key])


def make_config() -> bytes:
    layers = [
        layer("InputLayer", "image", batch_shape=[None, 8, 6, 3]),
        layer("Conv2D", "conv", "image", filters=4, activation="relu"),
        layer("BatchNormalization", "norm", "conv", axis=[3]),
        layer("MaxPooling2D", "pool", "norm"),
        layer("Add", "twice", "pool", "pool"),
        layer("Concatenate", "wide", "twice", "pool", axis=-1),
        layer("Reshape", "rows", "wide", target_shape=[-1]),
        layer("Dense", "answer", "rows", units=5, activation="softmax"),
    ]
    ends = {"input_layers": ["image", 0, 0], "output_layers": ["answer", 0, 0]}
    config = {"name": "net", "layers": layers, **ends}
    module = "keras.src.models.functional"
    return json.dumps({"module": module, "class_name": "Functional", "config": config}).encode()


def make_nested() -> bytes:
    """Describe a net with models in it: three deep, one called twice, one without input."""

    def model(kind: str, name: str, *sources: str, **config: Any) -> dict[str, Any]:
        item = layer(kind, name, *sources[:1], **config)
        calls = [layer(kind, name, source)["inbound_nodes"][0] for source in sources]
        return item | {"module": f"keras.src.models.{kind.lower()}", "inbound_nodes": calls}

    def ends(first: str, last: str) -> dict[str, Any]:
        return {"input_layers": [[first, 0, 0]], "output_layers": [[last, 0, 0]]}

    stem = [layer("Conv2D", "conv", filters=4, kernel_size=2), layer("ReLU", "relu")]
    base = [
        layer("InputLayer", "pixels", batch_shape=[None, 8, 6, 3]),
        model("Sequential", "stem", "pixels", layers=stem),
        layer("Add", "add", "stem", "stem"),
    ]
    whole = [
        layer("InputLayer", "whole_pixels", batch_shape=[None, 8, 6, 3]),
        layer("Rescaling", "scale", "whole_pixels", scale=0.1, offset=0),
        model("Functional", "base", "scale", "whole_pixels", layers=base, **ends("pixels", "add")),
        layer("Subtract", "join", "base", "base"),
    ]
    whole[-1]["inbound_nodes"][0]["args"][0][1]["config"]["keras_history"][1] = 1
    head = [layer("GlobalMaxPooling2D", "gather"), layer("Dense", "answer", units=5)]
    layers = [
        layer("InputLayer", "image", batch_shape=[None, 8, 6, 3]),
        model("Functional", "whole", "image", layers=whole, **ends("whole_pixels", "join")),
        model("Sequential", "head", "whole", layers=head),
    ]
    config = {"name": "net", "layers": layers, **ends("image", "head")}
    module = "keras.src.models.functional"
    return json.dumps({"module": module, "class_name": "Functional", "config": config}).encode()


SIZES = (1, 2, 2, 3, 3, 4, 7, 301, 10**5, 10**9, 2**31, 2**63, 2**70, -1, 0, 0.5, [10**6, 1], None)
DTYPES = (
    "float32", "mixed_float16", "bfloat16", "uint8", "int64", "bool", "object", "float128", None, 7,
    {"class_name": "DTypePolicy", "config": {"name": "mixed_bfloat16"}},
    {"class_name": "DTypePolicy", "config": {"name": ["float32"]}},
    {"class_name": "Dense", "config": {"units": 10**9}, "build_config": {"input_shape": [1, 9]}},
)  # fmt: skip
SIZED = {
    "Conv2D": ("filters", "kernel_size"),
    "SeparableConv2D": ("filters", "kernel_size", "depth_multiplier"),
    "DepthwiseConv2D": ("kernel_size", "depth_multiplier"),
    "Conv2DTranspose": ("filters", "kernel_size"),
    "MaxPooling2D": ("pool_size", "strides"),
    "AdaptiveAveragePooling2D": ("output_size",),
    "UpSampling2D": ("size",),
    "ZeroPadding2D": ("padding",),
    "Resizing": ("height", "width"),
    "Normalization": ("axis",),
    "Dense": ("units",),
    "EinsumDense": ("output_shape",),
    "GroupNormalization": ("groups",),
    "PReLU": (),
}
"""Layers that keep four axes, with the settings that say how large they are."""


def make_wild(changes: list[Edit]) -> bytes:
    """Describe a net of layers of any size and type, some of them fed by nothing that counts."""
    side = (8, 16, 64, 1000, 10**6)[changes[0].number % 5]
    layers = [layer("InputLayer", "image", batch_shape=[None, side, side, 3])]
    last = "image"
    for number, edit in enumerate(changes):
        class_name = list(SIZED)[edit.position % len(SIZED)]
        bytes_ = edit.content * 4
        settings = {
            key: SIZES[bytes_[index] % len(SIZES)] for index, key in enumerate(SIZED[class_name])
        }
        if edit.number % 3 == 0:
            settings["dtype"] = DTYPES[edit.number % len(DTYPES)]
        if class_name == "EinsumDense":
            settings |= {"equation": "abcd,de->abce"}
        name = f"layer_{number}"
        built = {"build_config": {"input_shape": [None, 10**6, 10**6, 3]}}
        layers.append(layer(class_name, name, last, **settings) | built)
        last = last if edit.action == "cut" else name
    layers.append(layer("GlobalMaxPooling2D", "gather", last))
    layers.append(layer("Dense", "answer", "gather", units=5))
    for item in layers:
        for node in item["inbound_nodes"]:
            node["args"] = node["args"][0]
            node["args"][0]["config"] |= {"shape": [None], "dtype": "float32"}
    ends = {"input_layers": ["image", 0, 0], "output_layers": ["answer", 0, 0]}
    config = {"name": "net", "layers": layers, **ends}
    module = "keras.src.models.functional"
    return json.dumps({"module": module, "class_name": "Functional", "config": config}).encode()


def make_keras_2() -> bytes:
    """Describe a net with functions of TensorFlow and names with `/`, as Keras 2 did."""

    def item(class_name: str, name: str, *nodes: object, **config: object) -> dict[str, Any]:
        config = {"name": name, **config}
        return {"class_name": class_name, "config": config, "name": name, "inbound_nodes": nodes}

    call = {"y": ["a/b", 0, 0], "name": None}
    layers = [
        item("InputLayer", "image", batch_input_shape=[None, 8, 6, 3]),
        item("TFOpLambda", "half", ["image", 0, 0, {"y": 2.0}], function="math.truediv"),
        item("DepthwiseConv2D", "a/b", [["half", 0, 0, {}]], kernel_size=[3, 3], groups=1),
        item("TFOpLambda", "one", ["_CONSTANT_VALUE", -1, 1.0, call], function="math.subtract"),
        item(
            "SlicingOpLambda",
            "flip",
            ["one", 0, 0, {"slice_spec": [{"class_name": "__ellipsis__"}, {"start": None}]}],
            function="__operators__.getitem",
        ),
        item("BatchNormalization", "norm", [["flip", 0, 0, {"training": False}]], axis=[3]),
        item("GlobalAveragePooling2D", "gather", [["norm", 0, 0, {}]]),
        item("Dense", "answer", [["gather", 0, 0, {}]], units=5),
    ]
    ends = {"input_layers": [["image", 0, 0]], "output_layers": [["answer", 0, 0]]}
    config = {"name": "net", "layers": layers, **ends}
    return json.dumps({"class_name": "Functional", "config": config}).encode()


def make_hdf5(fill: Callable[[h5py.File], object], **options: Any) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w", **options) as file:
        fill(file)
    return content.getvalue()


def make_weights() -> bytes:
    return make_hdf5(lambda file: file.__setitem__("layers/dense/vars/0", np.zeros((4, 5), "f4")))


def make_archive(
    config: bytes, weights: bytes, method: int = zipfile.ZIP_DEFLATED, metadata: bytes = b"{}"
) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        archive.writestr("metadata.json", metadata)
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", weights)
    return content.getvalue()


def fill_model(file: h5py.File, text: object) -> None:
    file.attrs["model_config"] = text
    file.create_group("model_weights/answer").attrs["weight_names"] = np.array(["kernel:0"], "S")
    file["model_weights/answer/kernel:0"] = np.zeros((4, 5), "f4")


def fill_deepid(file: h5py.File) -> None:
    file.attrs["layer_names"] = np.array(["output"], "S")
    file.create_group("output").attrs["weight_names"] = np.array(["output/kernel:0"], "S")
    file["output/output/kernel:0"] = np.zeros((160, 3), "f4")


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)


def make_images(dtype: str, options: dict[str, Any], **file_options: Any) -> bytes:
    def fill(file: h5py.File) -> None:
        file.create_dataset("data", data=PIXELS.transpose(0, 3, 1, 2).astype(dtype), **options)
        file["label"] = np.arange(6.0)

    return make_hdf5(fill, **file_options)


def make_picture(kind: str, mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.fromarray(PIXELS[0]).convert(mode).save(content, kind)
    return content.getvalue()


def make_npz(save: Callable[..., None], **arrays: Any) -> bytes:
    content = io.BytesIO()
    save(content, **arrays)
    return content.getvalue()


def make_zip(picture: bytes, names: tuple[str, ...] = ("cat/a.png", "dog/b.png")) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, picture)
    return content.getvalue()


def make_npz_of(images: bytes) -> bytes:
    """An .npz file of any bytes in place of the images, so that its checksums are right."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", images)
        archive.writestr("y.npy", NPY_LABELS)
    return content.getvalue()


def make_npy(array: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def with_checksums(png: bytes) -> bytes:
    """Make the checksums of a damaged PNG right again, so that the decoder looks behind them."""
    content, place = bytearray(png), 8
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        end = place + 8 + length
        if end + 4 > len(content):
            break
        struct.pack_into(">I", content, end, zlib.crc32(content[place + 4 : end]))
        place = end + 4
    return bytes(content)


CHUNKED = {"chunks": (2, 3, 5, 4), "compression": "gzip", "shuffle": True}


class Target(NamedTuple):
    """What is damaged and how: the reader, the file's name, the cases in 24 and the damage."""

    reader: str
    name: str
    share: float
    make: Callable[[list[Edit]], bytes]


def wild_names(changes: list[Edit]) -> tuple[str, ...]:
    """Names of two members, damaged: mostly still text."""
    names = (
        damage(b"set/cat/a.png|set/dog/b.png", changes).decode("utf-8", "replace").replace("\0", "")
    )
    return tuple(dict.fromkeys(name[:60_000] or "0" for name in names.split("|")))


def damaged(data: bytes) -> Callable[[list[Edit]], bytes]:
    return lambda changes: damage(data, changes)


CONFIG, WEIGHTS = make_config(), make_weights()
NPY_PIXELS, NPY_LABELS = make_npy(PIXELS), make_npy(np.arange(6))
LONG_ZIP = with_zip64(make_zip(make_picture("PNG")))
PAIR = {"x_valid": PIXELS.astype("f4"), "y_valid": np.arange(6)}
TARGETS = {
    "archive": Target("model", "a.keras", 2, damaged(make_archive(CONFIG, WEIGHTS))),
    "description": Target(
        "model", "a.keras", 4, lambda edits: make_archive(damage_json(CONFIG, edits), WEIGHTS)
    ),
    "description of Keras 2": Target(
        "model",
        "a.keras",
        1,
        lambda edits: make_archive(damage_json(make_keras_2(), edits), WEIGHTS),
    ),
    "description of models in models": Target(
        "model",
        "a.keras",
        2,
        lambda edits: make_archive(damage_json(make_nested(), edits), WEIGHTS),
    ),
    "wild description": Target(
        "model", "a.keras", 1, lambda edits: make_archive(make_wild(edits), WEIGHTS)
    ),
    "description as text": Target(
        "model", "a.keras", 1, lambda edits: make_archive(damage(CONFIG, edits), WEIGHTS)
    ),
    "weights in an archive": Target(
        "model", "a.keras", 3, lambda edits: make_archive(CONFIG, damage(WEIGHTS, edits))
    ),
    "model of Keras 2": Target(
        "model", "a.h5", 2, damaged(make_hdf5(lambda file: fill_model(file, np.bytes_(CONFIG))))
    ),
    # Its text has a variable length: each case starts a process.
    "model of Keras 3": Target(
        "model", "a.h5", 0.3, damaged(make_hdf5(lambda file: fill_model(file, CONFIG.decode())))
    ),
    "weights alone": Target("weights", "a.h5", 2, damaged(make_hdf5(fill_deepid))),
    "images": Target("images", "a.h5", 2, damaged(make_images("f8", {}))),
    "compressed images": Target(
        "images", "a.h5", 2, damaged(make_images("u1", CHUNKED | {"fletcher32": True}))
    ),
    "images of the newest format": Target(
        "images",
        "a.h5",
        2,
        damaged(make_images("f4", CHUNKED | {"maxshape": (None,) * 4}, libver="latest")),
    ),
    "png": Target("images", "a.png", 1, damaged(make_picture("PNG"))),
    "png with checksums": Target(
        "images", "a.png", 1, lambda edits: with_checksums(damage(make_picture("PNG", "P"), edits))
    ),
    "jpeg": Target("images", "a.jpg", 2, damaged(make_picture("JPEG"))),
    "npz": Target("images", "a.npz", 1, damaged(make_npz(np.savez, **PAIR))),
    "compressed npz": Target("images", "a.npz", 1, damaged(make_npz(np.savez_compressed, **PAIR))),
    # Its header stands in the first bytes of 500.
    "array of an npz": Target(
        "images",
        "a.npz",
        1,
        lambda edits: make_npz_of(damage(NPY_PIXELS[:90], edits) + NPY_PIXELS[90:]),
    ),
    "zip of folders": Target("images", "a.zip", 2, damaged(make_zip(make_picture("PNG")))),
    # Both its ends lie in its last bytes.
    "ends of a zip": Target(
        "images",
        "a.zip",
        1,
        lambda edits: LONG_ZIP[:-98] + damage(LONG_ZIP[-98:], edits),
    ),
    "picture of a zip": Target(
        "images",
        "a.zip",
        1,
        lambda edits: make_zip(damage(make_picture("JPEG"), edits), ("0/a.jpg",)),
    ),
    "names of a zip": Target(
        "images", "a.zip", 1, lambda edits: make_zip(make_picture("PNG"), wild_names(edits))
    ),
}


def computing_seconds(pid: int) -> float:
    """The CPU time of a process and of those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


class Worker:
    """A process that reads one file after another; a new one starts where one has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def read(self, reader: str, path: Path) -> str:
        process = self._process or self._start()
        process.stdin.write(json.dumps([reader, str(path)]) + "\n")
        process.stdin.flush()
        began = computing_seconds(process.pid)
        # On a busy machine other processes keep this one waiting; a hang is waited out.
        if not select.select([process.stdout], [], [], 6 * PATIENCE_SECONDS)[0]:
            self.stop()
            return f"no answer after {6 * PATIENCE_SECONDS} s"
        answer = process.stdout.readline()
        if not answer:
            process.wait()
            self._process = None
            return f"the process died with code {process.returncode}"
        if computing_seconds(process.pid) - began > PATIENCE_SECONDS:
            return f"took more than {PATIENCE_SECONDS} s of computing"
        return json.loads(answer)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "fuzz_worker.py")],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self._process


@pytest.fixture(scope="module")
def worker():
    worker = Worker()
    yield worker
    worker.stop()


def place(folder: Path, name: str, content: bytes) -> Path:
    """Write a file, an image into a folder of its label, and return what is to be read."""
    if name.endswith((".h5", ".keras", ".npz", ".zip")):
        (folder / name).write_bytes(content)
        return folder / name
    images = folder / "images"
    shutil.rmtree(images, ignore_errors=True)
    (images / "0").mkdir(parents=True)
    (images / "0" / name).write_bytes(content)
    return images


def keep(name: str, content: bytes) -> Path:
    KEPT.mkdir(exist_ok=True)
    kept = KEPT / f"{hashlib.sha256(content).hexdigest()[:16]}-{name}"
    kept.write_bytes(content)
    return kept


def cases(share: float) -> settings:
    return settings(
        max_examples=max(1, round(CASES * share / 24)),
        derandomize=CASES == CASES_IN_CI,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused(tmp_path_factory, worker, name):
    target, folder = TARGETS[name], tmp_path_factory.mktemp("fuzz")
    counts = {"read": 0, "refused": 0}

    @cases(target.share)
    @given(edits)
    def try_all(changes):
        content = target.make(changes)
        answer = worker.read(target.reader, place(folder, target.name, content))
        if answer not in counts:
            pytest.fail(f"{answer}; the file is kept as {keep(target.name, content)}")
        counts[answer] += 1

    try_all()
    assert counts["refused"]


@pytest.mark.parametrize("name", TARGETS)
def test_the_files_are_read_while_they_are_whole(tmp_path, worker, name):
    target = TARGETS[name]
    if name == "wild description":
        pytest.skip("is never whole")
    assert worker.read(target.reader, place(tmp_path, target.name, target.make([]))) == "read"


def test_the_worker_tells_what_else_happens(tmp_path, worker):
    assert "KeyError" in worker.read("nothing", tmp_path)
    assert worker.read("images", tmp_path / "missing") == "refused"


def save_goodnet(path: Path) -> dict[str, bytes]:
    """Save a GoodNet, which has layers and ops, and return the members of its archive."""
    import keras
    from keras import layers

    from goodnet.defenses.goodnet import build_goodnet

    image = keras.Input((8, 6, 3))
    features = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    rows = layers.Flatten()(layers.MaxPooling2D(2)(layers.BatchNormalization()(features)))
    badnet = keras.Model(image, layers.Dense(5, activation="softmax")(rows))
    build_goodnet(badnet, "conv", [0, 1]).save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def save_nested(path: Path) -> dict[str, bytes]:
    """Save a net of models in models, one of them called twice."""
    import keras
    from keras import layers

    pixels, inner, image = (keras.Input((8, 6, 3)) for _ in range(3))
    stem = keras.Sequential([layers.Conv2D(4, 2, name="conv"), layers.ReLU()], name="stem")
    base = keras.Model(pixels, layers.BatchNormalization()(stem(pixels)), name="base")
    both = layers.Concatenate()([base(layers.Rescaling(0.1)(inner)), base(inner)])
    whole = keras.Model(inner, both, name="whole")
    head = keras.Sequential([layers.GlobalMaxPooling2D(), layers.Dense(5)], name="head")
    keras.Model(image, head(whole(image))).save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.slow
@pytest.mark.parametrize("save", [save_goodnet, save_nested])
def test_damaged_descriptions_are_built_by_keras_or_refused(tmp_path, save):
    from goodnet.model_files.load import load_model

    path = tmp_path / "net.keras"
    members = save(path)
    counts = {"built": 0, "refused": 0}

    @cases(0.5)
    @given(edits)
    def try_all(changes):
        config = damage_json(members["config.json"], changes)
        path.write_bytes(
            make_archive(config, members["model.weights.h5"], metadata=members["metadata.json"])
        )
        began = time.process_time()  # Another process may keep this one waiting.
        try:
            load_model(path)
            counts["built"] += 1
        except InputError:
            counts["refused"] += 1
        assert time.process_time() - began < PATIENCE_SECONDS

    load_model(path)
    try_all()
    assert min(counts.values())


@pytest.mark.slow
def test_nets_of_wild_sizes_are_measured_or_refused_in_little_memory():
    import resource

    from goodnet.model_files.inference_config import for_inference
    from goodnet.model_files.limits import DEFAULT_LIMITS
    from goodnet.model_files.measuring import measure
    from goodnet.model_files.stock_keras import check_stock
    from goodnet.tensorflow_start import import_tensorflow

    import_tensorflow()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = {"measured": 0, "refused": 0}

    @cases(0.3)
    @given(edits)
    def try_all(changes):
        config = json.loads(make_wild(changes))
        began = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            for_inference(config)
            check_stock(config, where="net")
            measure(config, DEFAULT_LIMITS)
            counts["measured"] += 1
        except InputError:
            counts["refused"] += 1
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert ended.ru_utime + ended.ru_stime - began.ru_utime < PATIENCE_SECONDS + began.ru_stime

    try_all()
    assert min(counts.values())
    largest = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    assert largest - before < 2**20  # in KiB


# Every byte but NUL and the slash can stand in a name; some mean something to somebody.
NAMES = st.binary(min_size=1, max_size=40).map(lambda name: name.translate(None, b"\0/"))
PIECES = (b"\xff", b"\x1b[2J", b"\n", b"..", b"-1", b"7", b"<b>", "é٣".encode(), b"%ff", b" ", b"=")
SPECIAL_NAMES = st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map(b"".join)


def test_names_of_any_bytes_are_read_or_refused(tmp_path, worker):
    """As a folder of a label with a note, as an image and as the set itself."""
    counts = {"read": 0, "refused": 0}

    @cases(0.5)
    @given(NAMES | SPECIAL_NAMES, NAMES | SPECIAL_NAMES, st.sampled_from([b"", b"3", b"3-"]))
    def try_all(name, note, label):
        folder = tmp_path / os.fsdecode(b"set " + name)
        shutil.rmtree(folder, ignore_errors=True)
        named = (label + note).strip(b".")[:60] or b"3"
        image = folder / os.fsdecode(named) / os.fsdecode(name + b".png")
        image.parent.mkdir(parents=True)
        image.write_bytes(make_picture("PNG"))
        answer = worker.read("images", folder)
        assert answer in counts, (name, note, label)
        counts[answer] += 1

    try_all()
    assert min(counts.values())
