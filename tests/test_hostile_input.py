"""Files that somebody prepared, against the readers that meet them, without TensorFlow.

More bad configurations and archives are in test_model_files.py, bad HDF5 in test_safe_hdf5.py,
bad images in test_images.py, and models that carry code, saved by Keras, in test_models.py.
"""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from goodnet.errors import InputError
from goodnet.images.image_sets import open_images
from goodnet.model_files.describe import describe_model
from goodnet.pruning.layer_choice import choose_layers

Config = dict[str, Any]
FUNCTIONAL = "keras.src.models.functional"
CODE = "which runs code from the file"
PROGRAM = "which runs a program of another framework or folder"
TEXT = "which is for text and tables and no image"
STEPS = "which goes from step to step, so that its work cannot be told beforehand"
LOOP = "which calls a function of the file in a loop or as a branch"
UNCHECKED = "whose layers are not checked"
FOREIGN = "which is none of Keras's own, so that only code from elsewhere could build it"
UNKNOWN = "which is not among those whose cost and effect are known here"


def make_layer(
    class_name: str, name: str, module: str = "keras.layers", **config: object
) -> Config:
    config = {"name": name, **config}
    return {"module": module, "class_name": class_name, "config": config, "registered_name": None}


def make_net(*middle: Config) -> Config:
    """A sequential classifier with `middle` between its convolution and its answer."""
    layers = [
        make_layer("InputLayer", "image", batch_shape=[None, 8, 6, 3]),
        make_layer("Conv2D", "conv", filters=4, activation="relu"),
        *middle,
        make_layer("GlobalMaxPooling2D", "pool"),
        make_layer("Dense", "answer", units=5),
    ]
    return make_layer("Sequential", "net", "keras", layers=layers)


def weights_bytes(fill: Callable[[h5py.File], object] = lambda file: None) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["layers/dense/vars/0"] = np.zeros((4, 5), "f4")
        fill(file)
    return content.getvalue()


def write_archive(path: Path, config: Config | bytes, weights: bytes | None = None) -> None:
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", weights or weights_bytes())


def archive(*middle: Config) -> Callable[[Path], None]:
    return lambda path: write_archive(path, make_net(*middle))


def weights(fill: Callable[[h5py.File], object]) -> Callable[[Path], None]:
    """An archive that is good but for what `fill` does to its weights."""
    return lambda path: write_archive(path, make_net(), weights_bytes(fill))


def names_that_differ(path: Path) -> None:
    """Let a member have another name in its own header than in the table of contents."""
    write_archive(path, make_net())
    path.write_bytes(path.read_bytes().replace(b"config.json", b"confiG.json", 1))


def with_member(name: str) -> Callable[[Path], None]:
    def build(path: Path) -> None:
        write_archive(path, make_net())
        with zipfile.ZipFile(path, "a") as opened:
            opened.writestr(name, b"x")

    return build


def thousands_of_members(path: Path) -> None:
    write_archive(path, make_net())
    with zipfile.ZipFile(path, "a") as opened:
        for number in range(2000):
            opened.writestr(f"{number:04}", b"")


def with_end(end: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """A good archive, but for what `end` does to the 22 bytes at its end."""

    def build(path: Path) -> None:
        write_archive(path, make_net())
        content = path.read_bytes()
        path.write_bytes(content[:-22] + end(content[-22:]))

    return build


def entries_that_overlap(path: Path) -> None:
    """Let two members of the table of contents share one place in the archive."""
    write_archive(path, make_net())
    content = bytearray(path.read_bytes())
    first = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", first + 4)
    content[second + 42 : second + 46] = content[first + 42 : first + 46]
    path.write_bytes(content)


def size_that_lies(path: Path) -> None:
    """Declare the 40 kB of config.json to be 10 bytes."""
    write_archive(path, json.dumps(make_net()).encode() + b" " * 40_000)
    content = bytearray(path.read_bytes())
    entry = content.index(b"config.json", content.index(b"PK\x01\x02")) - 46
    content[entry + 24 : entry + 28] = struct.pack("<I", 10)
    path.write_bytes(content)


def hdf5(
    fill: Callable[[h5py.File], object] = lambda file: None, *, libver: str = "earliest"
) -> Callable[[Path], None]:
    """A whole model that is good but for what `fill` does to it."""

    def build(path: Path) -> None:
        with h5py.File(path, "w", libver=libver) as file:
            file.attrs["model_config"] = json.dumps(make_net())
            file["model_weights/answer/kernel"] = np.zeros((4, 5), "f4")
            fill(file)

    return build


def text_that_never_ends(path: Path) -> None:
    """Damage the heap that holds the text so that HDF5 walks on the spot for ever."""
    hdf5()(path)
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    (text_bytes,) = struct.unpack_from("<Q", content, heap + 24)
    free_space = heap + 32 + -(-text_bytes // 8) * 8
    content[free_space + 8 : free_space + 16] = bytes(8)
    path.write_bytes(content)


def text_of_gigabytes(path: Path) -> None:
    """Let the reference to the text claim that it has almost four gigabytes."""
    hdf5()(path)
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    (text_bytes,) = struct.unpack_from("<Q", content, heap + 24)
    reference = content.index(struct.pack("<IQ", text_bytes, heap))
    content[reference : reference + 4] = struct.pack("<I", 2**32 - 16)
    path.write_bytes(content)


def add_reference(file: h5py.File) -> None:
    file["model_weights"].attrs["answer"] = file["model_weights/answer"].ref


def add_virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "data", (3,))
    file.create_virtual_dataset("more", layout)


def add_plug_in(file: h5py.File) -> None:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((8,))
    creation.set_filter(32000 + 1, h5py.h5z.FLAG_OPTIONAL, (1,))
    space = h5py.h5s.create_simple((8,))
    h5py.h5d.create(file.id, b"more", h5py.h5t.NATIVE_INT8, space, creation)


def called_on_constants(**decoy: Any) -> Callable[[Path], None]:
    """A model that calls an op on numbers of its own: it asks for 400 GB when Keras builds it."""
    constant = {"class_name": "__tensor__", "config": {"value": [0], "dtype": "int32", **decoy}}
    huge = make_layer("OneHot", "huge", "keras.src.ops.nn", num_classes=10**11)
    huge["inbound_nodes"] = [{"args": [constant], "kwargs": decoy}]
    image = make_layer("InputLayer", "image", batch_shape=[None, 8, 6, 3]) | {"inbound_nodes": []}
    ends = {"input_layers": ["image", 0, 0], "output_layers": ["image", 0, 0]}
    config = make_layer("Functional", "net", FUNCTIONAL, layers=[image, huge], **ends)
    return lambda path: write_archive(path, config)


def called_often(path: Path) -> None:
    """A model with a model of a hundred layers in it, which is called a thousand times."""
    inner = make_layer("Functional", "inner", FUNCTIONAL, layers=[{}] * 100)
    tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": ["image", 0, 0]}}
    inner["inbound_nodes"] = [{"args": [tensor], "kwargs": {}}] * 1000
    image = make_layer("InputLayer", "image", batch_shape=[None, 8, 6, 3]) | {"inbound_nodes": []}
    write_archive(path, make_layer("Functional", "net", FUNCTIONAL, layers=[image, inner]))


class Case(NamedTuple):
    """A bad input: its builder and how the line about it begins."""

    name: str
    build: Callable[[Path], object]
    line: str


def refused_class(
    why: str, class_name: str, module: str = "keras.layers", **config: object
) -> Case:
    return Case(
        f"{module}.{class_name}",
        archive(make_layer(class_name, "evil", module, **config)),
        f"{{path}}: layer `evil` uses `{class_name}` of module `{module}`, {why}, "
        "expected stock Keras layers and ops",
    )


def inner_model(name: str, layer: Config) -> Config:
    return make_layer("Sequential", name, "keras", layers=[layer])


MODELS = [
    refused_class(
        CODE, "Lambda", function={"class_name": "__lambda__", "config": {"code": "4wAA"}}
    ),
    refused_class(PROGRAM, "TFSMLayer", filepath="/tmp/saved_model"),  # noqa: S108
    refused_class(PROGRAM, "TorchModuleWrapper", module=None),
    refused_class(PROGRAM, "JaxLayer"),
    refused_class(PROGRAM, "FlaxLayer"),
    refused_class(TEXT, "StringLookup", vocabulary="/etc/passwd"),
    refused_class(TEXT, "TextVectorization"),
    refused_class(UNCHECKED, "Pipeline"),
    refused_class(STEPS, "TimeDistributed", layer=make_layer("Lambda", "inner")),
    refused_class(STEPS, "Bidirectional", layer=make_layer("Lambda", "inner")),
    refused_class(STEPS, "RNN", cell=make_layer("Lambda", "inner")),
    refused_class(UNCHECKED, "Wrapper"),
    refused_class(FOREIGN, "exec", "builtins"),
    refused_class(FOREIGN, "system", "os"),
    refused_class(FOREIGN, "Popen", "subprocess"),
    refused_class(UNKNOWN, "ReLU", "keras.src.layers.activations.relu"),
    refused_class(UNKNOWN, "ReLU", "keras.layers.evil"),
    refused_class(FOREIGN, "ReLU", "Keras.Layers"),
    refused_class(FOREIGN, "ReLU", ""),
    refused_class(UNKNOWN, "get_file", "keras.utils"),
    refused_class(UNKNOWN, "load_model", "keras.saving"),
    refused_class(UNKNOWN, "enable_unsafe_deserialization", "keras.config"),
    refused_class(LOOP, "Map", "keras.src.ops.core"),
    refused_class(LOOP, "Scan", "keras.src.ops.core"),
    refused_class(LOOP, "WhileLoop", "keras.src.ops.core"),
    refused_class(UNKNOWN, "CustomGradient", "keras.src.ops.core"),
    refused_class(UNKNOWN, "Vectorize", "keras.src.ops.numpy"),
    refused_class(UNKNOWN, "Adam", "keras"),
    Case(
        "class of another case",
        archive(make_layer("lambda", "evil")),
        f"{{path}}: layer `evil` uses `lambda` of module `keras.layers`, {UNKNOWN}",
    ),
    Case(
        "in a model in the model",
        archive(inner_model("inner", make_layer("Lambda", "evil"))),
        f"{{path}}: layer `evil` uses `Lambda` of module `keras.layers`, {CODE}",
    ),
    Case(
        "in the place of an activation",
        archive(make_layer("Activation", "act", activation=make_layer("Lambda", "evil"))),
        f"{{path}}: layer `evil` uses `Lambda` of module `keras.layers`, {CODE}",
    ),
    Case(
        "model in the place of an activation",
        archive(
            make_layer("Activation", "act", activation=inner_model("evil", make_layer("ReLU", "a")))
        ),
        "{path}: layer `evil` is a model in a setting, expected one as a layer",
    ),
    Case(
        "computed while it is built",
        called_on_constants(),
        "{path}: layer `huge` is called on constants only",
    ),
    Case(
        "computed while it is built and seems not to be",
        called_on_constants(training=["image", 0, 0]),
        "{path}: layer `huge` is called on constants only",
    ),
    Case(
        "in a setting nobody reads",
        archive(make_layer("ReLU", "act", note=[[{"deep": make_layer("Lambda", "evil")}]])),
        f"{{path}}: layer `evil` uses `Lambda` of module `keras.layers`, {CODE}",
    ),
    Case(
        "registered under a stock name",
        archive(make_layer("ReLU", "evil") | {"registered_name": "package>ReLU"}),
        "{path}: layer `evil` uses the registered object `package>ReLU`, which only code "
        "from elsewhere could build",
    ),
    Case(
        "name that a terminal would obey",
        archive(make_layer("Lambda", "\x1b]0;owned\x07\n\u202e")),
        "{path}: layer `\\x1b]0;owned\\x07\\n\\u202e` uses `Lambda`",
    ),
    Case(
        "name of a good layer that a terminal would obey",
        archive(make_layer("ReLU", "\x1b[2J")),
        "{path}: layer `\\x1b[2J` has a name that cannot be printed",
    ),
    Case(
        "name of a megabyte",
        archive(make_layer("Lambda", "x" * 2**19)),
        "{path}: layer `xxxx",
    ),
    Case(
        "layers that take minutes to build",
        archive(*(make_layer("ReLU", f"layer {number}") for number in range(300))),
        "{path}: has so many layers that Keras takes 92,416 steps to build it, expected 40,000",
    ),
    Case(
        "model called a thousand times",
        called_often,
        "{path}: has so many layers that Keras takes 101,001 steps to build it, expected 40,000",
    ),
    Case(
        "four models deep",
        archive(
            inner_model(
                "a", inner_model("b", inner_model("c", inner_model("d", make_layer("ReLU", "act"))))
            )
        ),
        "{path}: layer `d` is nested deeper than 3 models",
    ),
    Case(
        "empty axis",
        archive(make_layer("BatchNormalization", "norm", axis=[])),
        "{path}: layer `norm` has an empty axis",
    ),
    Case("pickle", lambda path: path.write_bytes(pickle.dumps([print])), "{path}: is neither a"),
    Case(
        "shell script before an archive",
        lambda path: (archive()(path), path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())),
        "{path}: is neither a Keras archive nor HDF5, expected a .keras or .h5 model",
    ),
    Case(
        "tar",
        lambda path: tarfile.open(path, "w").close(),
        "{path}: is neither a Keras archive nor HDF5, expected a .keras or .h5 model",
    ),
    Case(
        "saved model",
        lambda path: (path.mkdir(), (path / "saved_model.pb").touch()),
        "{path}: is a folder or a device, expected a .keras or .h5 model",
    ),
    Case("member in a folder above", with_member("../../evil.py"), "{path}: holds `../../evil.py`"),
    Case("member for Windows", with_member("..\\evil.py"), "{path}: holds `..\\evil.py`"),
    Case("folder as member", with_member("assets/"), "{path}: holds `assets/`, expected only"),
    Case("member named in colour", with_member("\x1b[31m"), "{path}: holds `\\x1b[31m`"),
    Case(
        "table of contents that fills the memory",
        thousands_of_members,
        "{path}: is a damaged Keras archive (table of contents of 100,",
    ),
    Case(
        "table of contents elsewhere",
        with_end(lambda end: b"PK\x06\x07" + bytes(16) + end),
        "{path}: is a damaged Keras archive (zip64 whose two ends do not fit together)",
    ),
    Case(
        "text behind the archive",
        with_end(lambda end: end + b"#!/bin/sh"),
        "{path}: is a damaged Keras archive (no plain table of contents at its end)",
    ),
    Case(
        "comment in the archive",
        with_end(lambda end: end[:-2] + b"\x09\0#!/bin/sh"),
        "{path}: is a damaged Keras archive (no plain table of contents at its end)",
    ),
    Case("names that differ", names_that_differ, "{path}: is a damaged Keras archive"),
    Case("members that overlap", entries_that_overlap, "{path}: is a damaged Keras archive"),
    Case("size that lies", size_that_lies, "{path}: is a damaged Keras archive"),
    Case(
        "configuration of megabytes",
        lambda path: write_archive(path, b" " * (2**22 + 1)),
        "{path}: member `config.json` has 4,194,305 bytes, expected 4,194,304 or less",
    ),
    Case(
        "weights behind a soft link",
        weights(lambda file: file.__setitem__("more", h5py.SoftLink("/layers"))),
        "{path}/model.weights.h5: `/more` is a soft link, expected data inside the file",
    ),
    Case(
        "weights in another file",
        weights(lambda file: file.create_dataset("more", (4,), "f4", external="/etc/passwd")),
        "{path}/model.weights.h5: `/more` keeps its data in another file",
    ),
    Case("virtual weights", weights(add_virtual), "{path}/model.weights.h5: `/more` is a virtual"),
    Case(
        "weights of a plug-in",
        weights(add_plug_in),
        "{path}/model.weights.h5: `/more` uses filter 32001, expected none, gzip, lzf, shuffle or "
        "fletcher32",
    ),
    Case(
        "a terabyte of weights",
        weights(lambda file: file.create_dataset("more", (2**40,), "u1", chunks=(64,))),
        "{path}/model.weights.h5: `/more` declares 1,099,511,627,776 bytes of shape",
    ),
    Case(
        "weights that are rows",
        weights(lambda file: file.create_dataset("more", (3,), h5py.vlen_dtype("i4"))),
        "{path}/model.weights.h5: `/more` holds no numbers",
    ),
    Case(
        "weights that are records",
        weights(lambda file: file.__setitem__("more", np.zeros(3, [("a", "i4")]))),
        "{path}/model.weights.h5: `/more` holds no numbers",
    ),
    Case(
        "attribute that refers",
        hdf5(add_reference),
        "{path}: attribute `answer` of `/model_weights` is neither text nor number",
    ),
    Case(
        "description of megabytes",
        hdf5(
            lambda file: file.attrs.create("model_config", np.bytes_(b"{" * (2**22 + 1))),
            libver="latest",
        ),
        "{path}: model_config has shape () and 4,194,305 bytes, expected one text of at most",
    ),
    Case("text that never ends", text_that_never_ends, "{path}: has texts that HDF5 cannot read"),
    Case("text of gigabytes", text_of_gigabytes, "{path}: has texts that HDF5 cannot read"),
]


def write_set(path: Path, fill: Callable[[h5py.File], object] = lambda file: None) -> None:
    """Two good images of 5 x 4 pixels, but for what `fill` does to them."""
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = np.zeros((2, 3, 5, 4)), [0, 1]
        fill(file)


def replaced(name: str, *arguments: Any, **options: Any) -> Callable[[Path], None]:
    """An image file whose data set `name` is created anew with other arguments."""

    def fill(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, *arguments, **options)

    return lambda path: write_set(path, fill)


def linked(name: str, link: object) -> Callable[[Path], None]:
    def fill(file: h5py.File) -> None:
        del file[name]
        file[name] = link

    return lambda path: write_set(path, fill)


def with_chunk(**changes: int) -> Callable[[Path], None]:
    """An image file of one chunk with a checksum, whose place or size is changed."""

    def build(path: Path) -> None:
        pixels = np.zeros((2, 3, 5, 4), "u1")
        replaced("data", data=pixels, chunks=(2, 3, 5, 4), fletcher32=True)(path)
        with h5py.File(path) as file:
            chunk = file["data"].id.get_chunk_info(0)
        content = bytearray(path.read_bytes())
        entry = content.index(struct.pack("<II5Q", chunk.size, 0, 0, 0, 0, 0, 0))
        struct.pack_into("<I", content, entry, changes.get("size", chunk.size))
        place = entry + 8 + 5 * 8
        struct.pack_into("<Q", content, place, changes.get("byte_offset", chunk.byte_offset))
        path.write_bytes(content)

    return build


def folder(content: bytes | Callable[[Path], object], name: str = "0/a.png") -> Any:
    """A folder of one good image and another with the given content."""

    def build(path: Path) -> None:
        for label in ("0", "1"):
            (path / label).mkdir(parents=True)
        Image.new("RGB", (4, 5)).save(path / "1" / "good.png")
        if callable(content):
            content(path / name)
        else:
            (path / name).write_bytes(content)

    return build


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A small PNG whose header declares another size."""
    content = bytearray(save(Image.new("RGB", (4, 5)), "PNG"))
    struct.pack_into(">II", content, 16, width, height)
    struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    return bytes(content)


def png_with_text_bomb(path: Path) -> None:
    """A PNG whose comment unpacks to 100 MB."""
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", " " * 100_000_000, zip=True)
    path.write_bytes(save(Image.new("RGB", (4, 5)), "PNG", pnginfo=notes))


def zipped(**members: bytes) -> Callable[[Path], None]:
    """A zip file of one good image and of other members."""

    def build(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("1/good.png", save(Image.new("RGB", (4, 5)), "PNG"))
            for name, content in members.items():
                archive.writestr(name, content)

    return build


def npz(**arrays: Any) -> Callable[[Path], None]:
    """An .npz file of good images and labels, but for the given arrays, or bytes in their place."""

    def build(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            good = {"x": np.zeros((2, 5, 4, 3), "u1"), "y": np.arange(2)}
            for name, content in (good | arrays).items():
                archive.writestr(
                    f"{name}.npy", content if isinstance(content, bytes) else npy(content)
                )

    return build


def npy(array: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def npy_of(shape: str) -> bytes:
    """The header of an array of any shape, and some zeros."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + bytes(120)


class Evil:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/evil",)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 5\n(/tmp/x) (w) file\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
RGB = Image.new("RGB", (4, 5))

IMAGES = [
    Case(
        "data are a group",
        lambda path: write_set(path, lambda file: file.move("data", "x/data")),
        "{path}: has the data sets `label`, `x/data`, expected just one pair",
    ),
    Case(
        "data are a type",
        linked("data", np.dtype("f4")),
        "{path}: has the data sets `label`, expected just one pair",
    ),
    Case(
        "labels behind a soft link",
        linked("label", h5py.SoftLink("/data")),
        "{path}: `/label` is a soft link, expected data inside the file",
    ),
    Case(
        "labels in another file",
        linked("label", h5py.ExternalLink("/etc/passwd", "/label")),
        "{path}: `/label` is an external link, expected data inside the file",
    ),
    Case(
        "pixels of a device",
        replaced("data", (2, 3, 5, 4), "u1", external=[("/dev/zero", 0, 120)]),
        "{path}: `/data` keeps its data in another file, expected data inside the file",
    ),
    Case(
        "pixels that are rows",
        replaced("data", (2, 3, 5, 4), h5py.vlen_dtype("u1")),
        "{path}: `data` holds elements of type object, expected numbers",
    ),
    Case(
        "pixels that are records",
        replaced("data", (2, 3, 5, 4), np.dtype([("r", "u1")])),
        "{path}: `data` holds elements of type [('r', 'u1')], expected numbers",
    ),
    Case(
        "labels that refer",
        replaced("label", (2,), h5py.ref_dtype),
        "{path}: `label` holds elements of type object, expected numbers",
    ),
    Case(
        "a petabyte of labels",
        replaced("label", (2**50,), "u1", chunks=(2,), compression="gzip"),
        "{path}: `/label` declares 1,125,899,906,842,624 bytes of shape",
    ),
    Case(
        "a petabyte nobody reads",
        lambda path: write_set(path, lambda file: file.create_dataset("more", (2**50,), "u1")),
        "{path}: `/more` declares 1,125,899,906,842,624 bytes of shape",
    ),
    Case(
        "chunk without bytes",
        with_chunk(size=0),
        "{path}: `/data` has a chunk outside the file or with no data, it is damaged",
    ),
    Case(
        "chunk shorter than its checksum",
        with_chunk(size=3),
        "{path}: `/data` has a chunk outside the file or with no data, it is damaged",
    ),
    Case(
        "chunk behind the end",
        with_chunk(byte_offset=2**40),
        "{path}: `/data` has a chunk outside the file or with no data, it is damaged",
    ),
    Case(
        "billions of pixels",
        folder(png_of(2**31 - 1, 2**31 - 1)),
        "{path}/0/a.png: declares more pixels than any image should have",
    ),
    Case(
        "millions of pixels",
        folder(png_of(9000, 9000)),
        "{path}/0/a.png: declares 9000 x 9000 pixels, expected at most 67,108,864",
    ),
    Case(
        "comment that explodes",
        folder(png_with_text_bomb),
        "{path}/0/a.png: cannot be decoded, it is damaged",
    ),
    Case(
        "header alone",
        folder(save(RGB, "PNG")[:33]),
        "{path}/0/a.png: ",
    ),
    Case(
        "half a photograph",
        folder(save(Image.effect_noise((400, 500), 99).convert("RGB"), "JPEG")[:9000], "0/a.jpg"),
        "{path}/0/a.jpg: image is 500 x 400 (height x width), expected 5 x 4",
    ),
    Case(
        "postscript",
        folder(POSTSCRIPT),
        "{path}/0/a.png: is no readable PNG or JPEG image",
    ),
    Case("drawing", folder(SVG), "{path}/0/a.png: is no readable PNG or JPEG image"),
    Case("tiff", folder(save(RGB, "TIFF")), "{path}/0/a.png: is no readable PNG or JPEG image"),
    Case("icon", folder(save(RGB, "ICO")), "{path}/0/a.png: is no readable PNG or JPEG image"),
    Case(
        "link to a secret",
        folder(lambda path: path.symlink_to("/etc/passwd")),
        "{path}/0/a.png: is a link that leads out of the folder",
    ),
    Case(
        "folder that is the parent",
        folder(lambda path: path.symlink_to(".."), "2"),
        "{path}/2: is a link that leads out of the folder",
    ),
    Case(
        "name written backwards",
        folder(b"", "0/a\u202egnp.exe"),
        "{path}/0/a\\u202egnp.exe: is no image file, expected .png, .jpg or .jpeg",
    ),
    Case(
        "name of two lines",
        folder(b"", "0/a\nb.png"),
        "{path}/0/a\\nb.png: is no readable PNG or JPEG image",
    ),
    Case(
        "class that a terminal would obey",
        folder(lambda path: path.mkdir(), "\x1b[31m"),
        "{path}/\\x1b[31m: folder is named \\x1b[31m, expected a class name that can be printed",
    ),
    Case(
        "member above the zip file",
        zipped(**{"../../0/evil.png": b""}),
        "{path}: holds `../../0/evil.png`, expected names such as <class>/<image>.png",
    ),
    Case(
        "member at the root",
        zipped(**{"/etc/cron.d/evil.png": b""}),
        "{path}: holds `/etc/cron.d/evil.png`, expected names such as <class>/<image>.png",
    ),
    Case(
        "picture of megabytes in kilobytes",
        zipped(**{"0/a.png": bytes(2**27)}),
        "{path}: member `0/a.png` unpacks 130,",
    ),
    Case(
        "zip in a zip",
        zipped(**{"0/a.zip": b"PK"}),
        "{path}/0/a.zip: is no image file, expected .png, .jpg or .jpeg",
    ),
    Case(
        "billions of pixels in a zip",
        zipped(**{"0/a.png": png_of(2**31 - 1, 2**31 - 1)}),
        "{path}/0/a.png: declares more pixels than any image should have",
    ),
    Case(
        "labels that are pickled",
        npz(y=np.array([Evil(), 1], object)),
        "{path}: `y` holds elements of type object, expected numbers",
    ),
    Case(
        "pickle in the place of an array",
        npz(y=pickle.dumps(Evil())),
        "{path}: `y` has no header of an array of numbers",
    ),
    Case(
        "a petabyte of pixels in an .npz file",
        npz(x=npy_of(f"({2**50}, 5, 4, 3)")),
        "{path}: `x` declares 67,553,994,410,557,440 bytes of shape (1125899906842624, 5, 4, 3), "
        "it has 120",
    ),
    Case(
        "image of gigabytes in an .npz file",
        npz(x=npy_of("(0, 100000, 100000, 3)")),
        "{path}: `x` declares 0 bytes of shape (0, 100000, 100000, 3), it has 120",
    ),
    Case(
        "header that is a program",
        npz(x=npy_of("__import__('os').system('touch /tmp/evil')")),
        "{path}: `x` has no header of an array of numbers",
    ),
]


def read_model(path: Path) -> object:
    return choose_layers(describe_model(path), layer=None, rank_at=None)


def read_images(path: Path) -> object:
    return list(open_images(path, shape=(5, 4, 3)).batches(2))


def as_parameters(read: Callable[[Path], object], cases: list[Case]) -> list[Any]:
    """Only what is ended after its time takes any."""
    slow = {"text that never ends": pytest.mark.slow}
    return [pytest.param(read, case, id=case.name, marks=slow.get(case.name, ())) for case in cases]


CASES = [*as_parameters(read_model, MODELS), *as_parameters(read_images, IMAGES)]


def busy_seconds() -> float:
    """The processor's time that this process and its children took, however busy others are."""
    return sum(os.times()[:4])


@pytest.mark.parametrize(("read", "case"), CASES)
def test_hostile_input_is_refused_in_one_line(tmp_path, read, case):
    path = tmp_path / "input"
    case.build(path)
    began = busy_seconds()
    with pytest.raises(InputError) as caught:
        read(path)
    line = str(caught.value)
    assert line.startswith(case.line.format(path=path))
    assert line.isprintable()
    assert len(line) < 30_000
    assert busy_seconds() - began < 10


@pytest.mark.parametrize(
    ("read", "build"),
    [
        (read_model, archive()),
        (read_model, hdf5()),
        (read_images, write_set),
        (read_images, with_chunk()),
        (read_images, folder(save(RGB, "PNG"))),
        (read_images, zipped(**{"0/a.png": save(RGB, "PNG")})),
        (read_images, npz()),
    ],
    ids=["archive", "hdf5", "images", "checked chunks", "folder", "zip", "npz"],
)
def test_what_the_cases_start_from_is_read(tmp_path, read, build):
    build(tmp_path / "input")
    assert read(tmp_path / "input")


def test_there_are_enough_cases():
    assert len({case.name for case in (*MODELS, *IMAGES)}) == len(CASES) >= 60


@pytest.mark.slow
@pytest.mark.parametrize("damage", [text_that_never_ends, text_of_gigabytes, None])
def test_texts_are_read_within_limits_where_no_process_may_fork(damage, tmp_path, monkeypatch):
    monkeypatch.setattr("goodnet.model_files.hdf5_models.CAN_FORK", False)
    path = tmp_path / "model.h5"
    (damage or hdf5())(path)
    if damage is None:
        describe_model(path)
    else:
        with pytest.raises(InputError, match="has texts that HDF5 cannot read"):
            describe_model(path)
