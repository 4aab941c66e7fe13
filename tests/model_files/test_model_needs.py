"""What foreign nets would take, by hand-worked figures; nothing of it may be allocated."""

import threading
import time
from typing import Any

import pytest

from goodnet.errors import InputError
from goodnet.model_files.inference_config import for_inference
from goodnet.model_files.limits import DEFAULT_LIMITS, ModelLimits
from goodnet.model_files.measuring import measure
from goodnet.model_files.model_needs import measure_needs

Config = dict[str, Any]


def make_layer(class_name: str, name: str, *inputs: str, **config: object) -> Config:
    tensors = [
        {
            "class_name": "__keras_tensor__",
            "config": {"shape": [None], "dtype": "float32", "keras_history": [source, 0, 0]},
        }
        for source in inputs
    ]
    arguments = [tensors[0] if len(tensors) == 1 else tensors] if tensors else []
    return {
        "module": "keras.layers",
        "class_name": class_name,
        "config": {"name": name, **config},
        "registered_name": None,
        "name": name,
        "inbound_nodes": [{"args": arguments, "kwargs": {}}] if inputs else [],
    }


def make_net(*middle: Config, size: int = 8, beside: tuple[Config, ...] = ()) -> Config:
    """A net of 3-channel images, some layers, and a classifier of 5 classes."""
    closing = (
        make_layer("GlobalMaxPooling2D", "gather", middle[-1]["name"]),
        make_layer("Dense", "answer", "gather", units=5),
    )
    image = make_layer("InputLayer", "image", batch_shape=[None, size, size, 3])
    layers = [image, *beside, *middle, *closing]
    config = {
        "name": "net",
        "layers": layers,
        "input_layers": [["image", 0, 0]],
        "output_layers": [["answer", 0, 0]],
    }
    return {"class_name": "Functional", "config": config}


def make_conv(name: str = "conv", **config: object) -> Config:
    return make_layer("Conv2D", name, "image", **{"filters": 4, "kernel_size": 3, **config})


@pytest.fixture(scope="module", autouse=True)
def _tensorflow():
    from goodnet.tensorflow_start import import_tensorflow

    import_tensorflow()


def measured(config: Config):
    for_inference(config)
    return measure(config, DEFAULT_LIMITS)


def test_a_small_net_by_hand():
    needs = measured(make_net(make_conv()))
    weights = 3 * 3 * 3 * 4 + 4 + 4 * 5 + 5
    assert needs.num_parameters == needs.num_made == weights
    assert (needs.widest, needs.num_values) == ("conv", 6 * 6 * 4)
    assert needs.costliest == "conv"
    products = 6 * 6 * 4 * 27 + 4 * 5
    assert products <= needs.num_multiplications < products + 1000
    assert needs.answers == (2, 5)


def test_a_process_that_waits_for_a_lock_of_another_thread_is_not_waited_for(monkeypatch):
    lock = threading.Lock()

    def measured_under_lock(config):
        with lock:
            return measure_needs(config)

    monkeypatch.setattr("goodnet.model_files.measuring.measure_needs", measured_under_lock)
    monkeypatch.setattr("goodnet.model_files.measuring._IDLE_SECONDS", 0.5)
    lock.acquire()  # in the process, which begins with a copy of it, for ever
    release = threading.Timer(1, lock.release)
    release.start()
    began = time.monotonic()
    needs = measured(make_net(make_conv()))
    assert needs.answers == (2, 5)
    assert 0.5 <= time.monotonic() - began < 30
    release.join()


def test_weights_beside_the_answer_count():
    dead = make_layer("Dense", "dead", "image", units=10**9)
    assert measured(make_net(make_conv(), beside=(dead,))).num_made > 4 * 10**9


def test_what_nothing_feeds_is_not_built():
    dead = make_layer("Dense", "dead", units=10**9) | {"build_config": {"input_shape": [None, 9]}}
    assert measured(make_net(make_conv(), beside=(dead,))).num_made == 137


def test_branches_count_together():
    branches = [make_conv(f"branch_{number}", padding="same") for number in range(20)]
    net = make_net(make_layer("Add", "join", *(item["name"] for item in branches)), size=100)
    net["config"]["layers"][1:1] = branches
    needs = measured(net)
    assert needs.num_values == 100 * 100 * 4
    assert needs.num_live_values > 20 * 100 * 100 * 4


def test_branches_that_are_used_one_after_another_do_not():
    chain = [make_conv("conv_0", padding="same")]
    for number in range(1, 20):
        config = make_conv(padding="same")["config"] | {"name": f"conv_{number}"}
        chain.append(
            make_layer("Conv2D", f"conv_{number}", chain[-1]["name"])
            | {"config": config, "name": f"conv_{number}"}
        )
    assert measured(make_net(*chain, size=100)).num_live_values < 3 * 100 * 100 * 4


def test_the_inside_of_a_separable_convolution_counts():
    config = {"filters": 2, "kernel_size": 3, "padding": "same", "depth_multiplier": 10**5}
    needs = measured(make_net(make_layer("SeparableConv2D", "wide", "image", **config), size=100))
    assert (needs.widest, needs.num_values) == ("wide", 100 * 100 * 3 * 10**5)


def test_the_scores_of_an_attention_count():
    flat = make_layer("Reshape", "flat", "image", target_shape=[10_000, 3])
    heads = make_layer("MultiHeadAttention", "wide", "flat", num_heads=64, key_dim=8)
    heads["inbound_nodes"][0]["args"] *= 2
    deep = make_layer("Reshape", "deep", "wide", target_shape=[100, 100, 3])
    needs = measured(make_net(flat, heads, deep, size=100))
    assert (needs.widest, needs.num_values) == ("wide", 64 * 10_000**2)


@pytest.mark.parametrize(
    ("layer", "products"),
    [
        (make_conv(kernel_size=301, filters=1, padding="same"), 400 * 400 * 301 * 301 * 3),
        (
            make_layer("MaxPooling2D", "conv", "image", pool_size=99, strides=1, padding="same"),
            400 * 400 * 3 * 99 * 99,
        ),
        (make_layer("DepthwiseConv2D", "conv", "image", kernel_size=99), 302 * 302 * 3 * 99 * 99),
        (
            make_layer("Conv2DTranspose", "conv", "image", filters=2, kernel_size=99),
            400 * 400 * 3 * 99 * 99 * 2,
        ),
    ],
    ids=["convolution", "pooling", "depthwise", "transposed"],
)
def test_multiplications_count(layer, products):
    needs = measured(make_net(layer, size=400))
    assert needs.costliest == "conv"
    assert products <= needs.num_multiplications < 1.1 * products


WILD = {
    "weights": make_conv(filters=10**12),
    "axes": make_layer("Normalization", "conv", "image", axis=[1, 2, 3]),
    "dilation": make_conv(dilation_rate=10**8, padding="same"),
}


@pytest.mark.parametrize("layer", WILD.values(), ids=WILD.keys())
def test_wild_sizes_are_measured(layer):
    needs = measured(make_net(layer, size=10**5))
    assert max(needs.num_made, needs.num_live_values) > 10**9


@pytest.mark.parametrize(
    "layer",
    [
        make_conv(filters=10**30),
        make_conv(filters=-4),
        make_conv(filters=0.5),
        make_layer("Split", "conv", "image", indices_or_sections=10**9, axis=1)
        | {"module": "keras.src.ops.numpy"},
        make_layer("UpSampling2D", "conv", "image", size=10**9),
    ],
    ids=["more than a number holds", "negative", "half", "sections", "enlarged"],
)
def test_sizes_that_are_none_are_refused(layer):
    with pytest.raises(InputError, match="Keras cannot build the model"):
        measured(make_net(layer))


def make_long() -> Config:
    layers = [make_conv("layer_0")]
    for number in range(1, 3000):
        layers.append(make_layer("ReLU", f"layer_{number}", layers[-1]["name"]))
    return make_net(*layers)


@pytest.mark.parametrize(
    ("config", "limits"),
    [
        (make_long(), ModelLimits(max_building_seconds=1)),
        (make_long(), ModelLimits(max_building_bytes=0)),
    ],
    ids=["time", "memory"],
)
@pytest.mark.slow
def test_building_has_limits_of_time_and_memory(config, limits):
    with pytest.raises(InputError, match="Keras cannot build the model"):
        measure(config, limits)


def test_errors_of_keras_name_their_reason():
    with pytest.raises(InputError) as caught:
        measured(make_net(make_conv(strange=7)))
    assert str(caught.value) == (
        "Keras cannot build the model (Unrecognized keyword arguments passed to Conv2D: "
        "{'strange': 7})"
    )
