"""`goodnet.repair`: what a notebook calls; `tests/test_run.py` holds it against the command."""

import keras
import numpy as np
import pytest

import goodnet
from goodnet.defenses import fine_tuning
from goodnet.errors import InputError
from goodnet.reports.results import Results
from goodnet.reports.vega_lite import PAPER
from goodnet.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def arrays(faces_case):
    """The sets of the faces as arrays `(x, y)`."""
    sets = {name: goodnet.open_images(path) for name, path in faces_case.sets.items()}
    return {name: (next(one.batches(1000)), one.labels) for name, one in sets.items()}


@pytest.fixture(scope="module")
def found(faces_net, arrays):
    return goodnet.repair(
        faces_net,
        arrays["clean_valid"],
        clean_test=arrays["clean_test"],
        poisoned_test=arrays["poisoned_test"],
    )


@pytest.mark.slow
def test_its_nets_answer_as_its_table_says(found, arrays):
    images, labels = arrays["clean_test"]
    pixels = np.float32(images)
    b = found.table.loc[0]
    assert b["net"] == "B"
    for point in found.results.reached:
        b_prime = found.b_prime(point.drop).predict(pixels, verbose=0).argmax(1)
        goodnet_answers = found.goodnet(point.drop).predict(pixels, verbose=0).argmax(1)
        ours = (found.table["drop"] == point.drop) & (found.table["method"] == "pruning")
        rows = found.table[ours].set_index("net")
        assert rows.loc["B'", "clean_test_accuracy"] == np.mean(b_prime == labels)
        assert rows.loc["G", "clean_test_accuracy"] == np.mean(goodnet_answers == labels)
        assert rows.loc["G", "false_alarm_rate"] == np.mean(goodnet_answers == 8)
    assert len(found.results.reached) >= 2


def test_its_detectors_are_what_the_calibrated_goodnet_does(found, arrays):
    net, detectors = found.goodnet(), found.results.detectors
    assert detectors[0].name == "margin"
    assert detectors[0].control
    assert [one.control for one in detectors[1:]] == [False] * (len(detectors) - 1)
    joined = detectors[-1]
    assert joined.name == "joined"
    flagged, right = {}, {}
    for name in ("clean_test", "poisoned_test"):
        images, labels = arrays[name]
        answers = net.predict(np.float32(images), verbose=0).argmax(1)
        flagged[name], right[name] = answers == 8, answers == labels
    assert joined.false_alarm_rate == flagged["clean_test"].mean()
    assert joined.detection_rate == flagged["poisoned_test"].mean()
    assert joined.goodnet.clean_test_accuracy == right["clean_test"].mean()
    assert joined.goodnet.attack_success_rate == right["poisoned_test"].mean()
    assert joined.detection_rate > 0.5


def test_scores_of_every_image_are_there_to_draw_any_curve(found, arrays):
    table = found.scores.to_pandas()
    assert len(table) == sum(len(labels) for _, labels in arrays.values())
    for one in found.results.detectors:
        values = {name: rows[one.name].to_numpy() for name, rows in table.groupby("set")}
        above = values["poisoned_test"][:, None] - values["clean_test"]
        assert one.auc == pytest.approx(np.mean((above > 0) + 0.5 * (above == 0)))
    images, labels = arrays["clean_test"]
    rows = table[table["set"] == "clean_test"]
    np.testing.assert_array_equal(rows["label"], labels)
    np.testing.assert_array_equal(rows["index"], np.arange(len(images)))


@pytest.fixture
def less_training(monkeypatch):
    """For tests of what the fine-tuned net has no part in; each trains five on 40 images."""
    for name in ("FEWEST_EPOCHS", "MOST_EPOCHS"):
        monkeypatch.setattr(fine_tuning, name, 2)


@pytest.mark.slow
@pytest.mark.usefixtures("less_training")
def test_arrays_of_any_layout_give_the_same(found, faces_net, arrays):
    images, labels = arrays["clean_valid"]
    again = goodnet.repair(
        faces_net,
        (images.transpose(0, 3, 1, 2).astype(float).tolist(), np.eye(8)[labels]),
        clean_test=arrays["clean_test"],
        drops=[4],
    )
    assert again.results.reached[0] != found.results.reached[0]  # without poisoned images
    assert again.remarks == [
        "clean_valid: `label` has a row for each image, with 1 at the label (one-hot)"
    ]
    assert again.sweep.filter(again.sweep["set"].to_numpy() == "clean_valid").equals(
        found.sweep.filter(found.sweep["set"].to_numpy() == "clean_valid")
    )
    assert again.b_prime(4).count_params() == faces_net.count_params()


@pytest.mark.slow
def test_a_sequential_net_and_clean_validation_alone_are_enough():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.integers(0, 40, (60, 8, 8, 1)) + 100 * labels[:, None, None, None]
    layers = keras.layers
    keras.utils.set_random_seed(0)  # with others it may learn nothing
    net = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(6, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    net.compile("adam", "sparse_categorical_crossentropy")
    net.optimizer.learning_rate = 0.05
    net.fit(images / 255, labels, epochs=40, verbose=0)
    found = goodnet.repair(net, (images, labels), pixel_scale=255)
    assert found.results.baseline.clean_test_accuracy is None
    assert found.results.baseline.attack_success_rate is None
    assert found.verdict.startswith("Not measured: ")
    assert found.layer == "conv2d" or found.layer.startswith("conv2d_")


@pytest.mark.slow
@pytest.mark.parametrize(
    "network", ["plain", "batch_normalization", "in_the_middle", "sequential"], indirect=True
)
def test_checkpoints_at_numbers_of_channels_are_the_net_without_them(network, tmp_path):
    b, pixels = network.model, network.images / np.float32(255)
    labels = b.predict(pixels, verbose=0).argmax(1)
    found = goodnet.repair(
        b,
        (network.images, labels),
        pixel_scale=255,
        layer=network.layer,
        rank_at=network.rank_at,
        drops=[1],
        channels=[5, 8, 3],
        repairs=["pruning"],
    )
    others = found.results.checkpoints[1:]
    assert [(one.drop, one.step) for one in others] == [(None, 5), (None, 8), (None, 3)]
    for point in others:
        pruned = keras.models.clone_model(b)
        pruned.set_weights(b.get_weights())
        weights = pruned.get_layer(network.layer).get_weights()
        for weight in weights:  # kernel and, if there is one, bias
            weight[..., list(found.order[: point.step])] = 0
        pruned.get_layer(network.layer).set_weights(weights)
        expected = pruned.predict(pixels, verbose=0).argmax(1)
        assert point.b_prime.clean_valid_accuracy == np.mean(expected == labels)
        b_prime, its_goodnet = (
            build(channels=point.step).predict(pixels, verbose=0).argmax(1)
            for build in (found.b_prime, found.goodnet)
        )
        np.testing.assert_array_equal(b_prime, expected)
        np.testing.assert_array_equal(its_goodnet, np.where(expected == labels, labels, 5))
    saved = found.save(tmp_path / "saved")
    names = {path.name for path in saved.rglob("*.keras") if "channels" in path.name}
    nets = [(net, k) for net in ("b_prime", "goodnet") for k in (3, 5, 8)]
    assert names == {f"{net}_{k}_channels.keras" for net, k in nets}
    assert Results.read(RunFolder(saved)) == found.results
    assert "B&#39; <small>5 channels</small>" in (saved / "report.html").read_text()
    with pytest.raises(InputError, match=r"conv.* has 8 channels, expected to prune 1 to 8, not 9"):
        found.b_prime(channels=9)
    with pytest.raises(InputError, match="neither a budget nor a number of channels"):
        found.b_prime()


def test_more_channels_than_there_are_are_refused_before_anything_is_computed(arrays, faces_net):
    with pytest.raises(InputError, match=r"^the model: layer `.*` has 60 channels, .* not 61$"):
        goodnet.repair(faces_net, arrays["clean_valid"], channels=[61])


def test_a_notebook_shows_verdict_and_table(found):
    page = found._repr_html_()
    assert found.verdict.replace("'", "&#x27;") in page
    detectors = found.results.detectors
    nets = 1 + 2 * len(found.results.reached) + len(found.results.repaired_nets)
    assert page.count("<tr>") == 1 + nets + 1 + len(detectors)
    assert found.results.recommended.why.replace("'", "&#x27;") in page
    drawn = found.plot().properties(width=300).interactive().to_dict()
    assert {"hover"} < {one["name"] for one in drawn["params"]}
    assert PAPER["attack-g"] in drawn["encoding"]["color"]["scale"]["range"]
    assert len(found.curve) == 2 * 3 * (len(found.order) + 1)  # both ends of three sets


def test_its_repaired_net_answers_as_its_results_say(found, arrays):
    net, used = found.repaired(), found.results.recommended.method
    rates = next(one.b_prime for one in found.results.repaired_nets if one.method == used)
    for name, rate in (
        ("clean_test", rates.clean_test_accuracy),
        ("poisoned_test", rates.attack_success_rate),
    ):
        images, labels = arrays[name]
        assert (net.predict(np.float32(images), verbose=0).argmax(1) == labels).mean() == rate
    assert net.output_shape == (None, 8)


@pytest.mark.slow
@pytest.mark.usefixtures("less_training")
def test_names_and_pixels_are_said_as_to_the_command(found, faces_net, arrays, tmp_path):
    """Pixels of -1 to 1 in reverse order, for a net that takes raw ones."""
    names = ["Tom", "Ada", "Zoe", "Max", "Eva", "Ida", "Jim", "Bob"]
    sets = {
        name: ((pixels[..., ::-1] / 127.5 - 1).astype(np.float32), labels)
        for name, (pixels, labels) in arrays.items()
    }
    again = goodnet.repair(
        faces_net,
        sets.pop("clean_valid"),
        **sets,
        classes=names,
        pixel_range=(-1, 1),
        pixel_mean=-1,
        pixel_std=1 / 127.5,
        channel_order="bgr",
    )
    assert again.results.class_names == tuple(names)
    assert again.results.baseline == found.results.baseline
    folder = again.save(tmp_path / "run")
    assert goodnet.images.read_class_names(folder / "classes.json").names == tuple(names)


BAD = {
    "names of other classes": (
        lambda x, y: {"clean_valid": (x, y), "classes": ["cat", "dog"]},
        "classes: names 2 classes (cat, dog), but the net answers 8, expected a name for each",
    ),
    "no name of a class": (
        lambda x, y: {"clean_valid": (x, y), "classes": ["cat\n"] * 8},
        "classes: class 0 is named `cat\\n`, expected a text that can be printed",
    ),
    "divisor of nothing": (
        lambda x, y: {"clean_valid": (x, y), "pixel_scale": 0},
        "preprocessing divides pixels by 0, expected above 0",
    ),
    "text labels": (
        lambda x, y: {"clean_valid": (x, y.astype(str))},
        "clean_valid: `label` holds <U",
    ),
    "another preprocessing": (
        lambda x, y: {"clean_valid": (x, y), "preprocessing": "vgg"},
        "preprocessing is 'vgg', expected one of tf, caffe, torch",
    ),
    "another order": (
        lambda x, y: {"clean_valid": (x, y), "channel_order": "BGR"},
        "channel order is 'BGR', expected rgb or bgr",
    ),
    "no budget": (
        lambda x, y: {"clean_valid": (x, y), "drops": []},
        "drops is empty, expected at least one budget",
    ),
    "budget below 0": (
        lambda x, y: {"clean_valid": (x, y), "drops": [2, -1]},
        "drops has -1, expected above 0 and at most 100 points",
    ),
    "alarms for all": (
        lambda x, y: {"clean_valid": (x, y), "false_alarms": 97},
        "false_alarms has 97, expected above 0 and at most 50 percent",
    ),
    "accuracy in percent": (
        lambda x, y: {"clean_valid": (x, y), "min_clean_accuracy": 95},
        "min_clean_accuracy has 95, expected 0 to 1",
    ),
    "no pair": (lambda x, y: {"clean_valid": x}, "clean_valid: is a ndarray, expected a path or"),
    "wrong size": (lambda x, y: {"clean_valid": (x[:, :9], y)}, "clean_valid: `data` has shape"),
    "negative": (lambda x, y: {"clean_valid": (x - 300.0, y)}, "clean_valid: image 0 has pixel -"),
    "no file": (lambda x, y: {"clean_valid": "no.h5"}, "no.h5: "),
    "the same": (
        lambda x, y: {"clean_valid": (x, y), "clean_test": (x, y)},
        "clean_test and clean_valid are the same data, expected different sets; allow it with "
        "allow_same_data=True",
    ),
    "no layer": (
        lambda x, y: {"clean_valid": (x, y), "layer": "nobody"},
        "the model: has no layer `nobody`",
    ),
    "pixels from 0 to 1, which fine-tuning would mark with grey levels": (
        lambda x, y: {"clean_valid": (x / 255, y), "pixel_scale": 1 / 255},
        "clean_valid: no pixel is above 1, expected 0 to 255; if they are stored from 0 to 1, give "
        "pixel_range=(0, 1)",
    ),
    "hardly right": (
        lambda x, y: {"clean_valid": (x, (y + 3) % 8)},
        "clean_valid: B answers 1 of 40 images",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("change", "line"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_used_is_named_as_it_was_given(faces_net, arrays, change, line):
    with pytest.raises(InputError) as caught:
        goodnet.repair(faces_net, **change(*arrays["clean_valid"]))
    assert str(caught.value).startswith(line)


def test_a_checkpoint_that_is_not_there_and_a_folder_that_is(found, tmp_path):
    with pytest.raises(InputError, match="no checkpoint at budget 3 points, reached: budget 2"):
        found.goodnet(3)
    with pytest.raises(InputError, match="is there already"):
        found.save(tmp_path)


def test_a_net_of_layers_that_no_file_may_hold_is_refused(arrays):
    net = keras.Sequential([keras.Input((55, 47, 3)), keras.layers.Lambda(lambda x: x)])
    with pytest.raises(InputError, match=r"^the model: layer `lambda.*` uses `Lambda`"):
        goodnet.repair(net, arrays["clean_valid"])
