import numpy as np
import pytest

from goodnet.errors import InputError
from goodnet.images.image_sets import open_images
from goodnet.networks.rounding import near_ties
from goodnet.pruning.ranking import block_means, mean_activations, prune_order
from goodnet.pruning.sweep import scores_at
from goodnet.pruning.verification import SAMPLE_IMAGES, Agreement, _telling, check_saved
from tests.badnets import LAYERS


@pytest.fixture(scope="module")
def five_blocks(faces_net, faces_case, first_pass):
    """A BadNet over 40 clean images in five blocks, and its prune order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("goodnet.pruning.first_pass._MAX_BLOCK", 8)
        passed = first_pass(faces_net, faces_case.clean_valid, **LAYERS)
    return passed, prune_order(mean_activations(block_means(passed.cache)))


def build(model, layer, channels, folder):
    """Save and load B' and G."""
    from goodnet.defenses.goodnet import build_goodnet
    from goodnet.model_files.load import load_model, save_model
    from goodnet.pruning.channels import prune_channels

    save_model(prune_channels(model, layer, channels), folder / "b_prime.keras")
    save_model(build_goodnet(model, layer, channels), folder / "goodnet.keras")
    return load_model(folder / "b_prime.keras"), load_model(folder / "goodnet.keras")


def check(passed, nets, order, *, step=52, full=True, **options) -> Agreement:
    return check_saved(
        *nets,
        cache=passed.cache,
        images=passed.images,
        frontier=passed.frontier,
        order=order,
        step=step,
        full=full,
        **options,
    )


@pytest.fixture(scope="module")
def nets(five_blocks, tmp_path_factory):
    """Its B' and G of step 52, saved and loaded."""
    passed, order = five_blocks
    folder = tmp_path_factory.mktemp("nets")
    return build(passed.frontier.model, "conv_3", order[:52], folder)


@pytest.mark.parametrize(("full", "num_images"), [(True, 40), (False, 8)])
def test_saved_nets_agree_with_the_sweep(five_blocks, nets, full, num_images):
    passed, order = five_blocks
    assert check(passed, nets, order, full=full) == Agreement(num_images, 0, 0)


@pytest.mark.parametrize(("full", "end"), [(True, 40), (False, 8)])
def test_progress_counts_the_images_that_are_checked(five_blocks, nets, full, end):
    passed, order = five_blocks
    told: list[tuple[int, int]] = []
    check(passed, nets, order, full=full, on_progress=lambda *numbers: told.append(numbers))
    assert told == [(done, end) for done in range(8, end + 1, 8)]


def test_a_sample_is_taken_from_the_middle(five_blocks, nets, monkeypatch):
    passed, order = five_blocks
    monkeypatch.setattr("goodnet.pruning.verification.SAMPLE_IMAGES", 3)
    assert check(passed, nets, order, full=False) == Agreement(3, 0, 0)


@pytest.fixture(scope="module")
def one_block(faces_net, faces_case, first_pass):
    """A BadNet over 200 noisy images, more than are checked of a set, and its prune order."""
    (faces,) = open_images(faces_case.clean_valid).batches(40)
    noise = np.random.default_rng(1).normal(0, 20, (5, *faces.shape))
    noisy = np.clip(faces + noise, 0, 255).astype(np.uint8).reshape(-1, *faces.shape[1:])
    passed = first_pass(faces_net, noisy, **LAYERS)
    return passed, prune_order(mean_activations(block_means(passed.cache)))


def test_a_sample_holds_the_images_on_which_two_classes_are_closest(one_block):
    passed, order = one_block
    (block, *_) = passed.cache.blocks()
    found, _ = scores_at(block, frontier=passed.frontier, order=order, step=52)
    rows = _telling(found)
    assert len(set(rows.tolist())) == SAMPLE_IMAGES
    assert rows.tolist() == sorted(rows)
    ordered = np.sort(found, axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    tied = near_ties(found)
    closest = np.argsort(np.where(tied, np.inf, margins))[: SAMPLE_IMAGES // 2]
    assert set(closest.tolist()) <= set(rows.tolist())
    assert len(set(rows // (len(found) // 4))) >= 4


def test_one_channel_mistaken_for_another_shows_in_few_images(one_block, tmp_path):
    """Their numbers tell, though the classes are the same on most images."""
    passed, order = one_block
    model = passed.frontier.model
    right = build(model, "conv_3", order[:40], tmp_path)
    assert check(passed, right, order, step=40, full=False) == Agreement(SAMPLE_IMAGES, 0, 0)
    # The last channel that is pruned, and the first one that is not.
    wrong, _ = build(model, "conv_3", [*order[:39], order[40]], tmp_path)
    agreement = check(passed, (wrong, right[1]), order, step=40, full=False)
    (block, *_) = passed.cache.blocks()
    pixels = next(passed.images.batches(len(block))).astype(np.float32)
    classes = [net.predict(pixels, verbose=0).argmax(1) for net in (right[0], wrong)]
    num_flipped = np.count_nonzero(classes[0] != classes[1])
    assert agreement.wrong > SAMPLE_IMAGES // 2
    assert num_flipped < len(block) // 4


@pytest.mark.parametrize("which", [0, 1])
def test_classes_in_another_order_show_in_few_images(one_block, tmp_path, which):
    passed, order = one_block
    nets = build(passed.frontier.model, "conv_3", order[:20], tmp_path)
    dense = nets[which].get_layer("output")
    kernel, bias = dense.get_weights()
    dense.set_weights([np.roll(kernel, 1, axis=1), np.roll(bias, 1)])
    assert check(passed, nets, order, step=20, full=False).wrong > SAMPLE_IMAGES // 2


@pytest.mark.parametrize("network", ["plain", "residual_from_before", "sigmoid"], indirect=True)
@pytest.mark.slow
def test_wrong_nets_are_found_out(network, network_pass, tmp_path):
    model, layer, passed = network.model, network.layer, network_pass
    order = range(passed.frontier.num_channels)
    b_prime, goodnet = build(model, layer, [0, 1, 2, 3], tmp_path)
    assert check(passed, (b_prime, goodnet), order, step=4) == Agreement(24, 0, 0)
    other_b_prime, other_goodnet = build(model, layer, [4, 5, 6, 7], tmp_path)
    for nets in ((other_b_prime, goodnet), (b_prime, other_goodnet)):
        agreement = check(passed, nets, order, step=4)
        assert agreement.images == 24
        assert agreement.wrong > 1


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.slow
def test_nets_that_answer_no_numbers_are_refused(five_blocks, nets, which, number):
    """NaN would count as class 0."""
    passed, order = five_blocks
    spoilt = [weight for weight in nets[which].weights if "bias" in weight.path][-1]
    before, name = spoilt.numpy(), ("B'", "G")[which]
    spoilt.assign(before + number)
    try:
        with pytest.raises(InputError, match=f"the answer of {name} on image 0 is NaN or infinite"):
            check(passed, nets, order)
    finally:
        spoilt.assign(before)


def test_near_ties_are_told_from_wrong_answers(first_pass, tmp_path):
    """Classes 0 and 1, and 2 and 3, have the same weights but for a difference of 1e-6."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(5)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="conv")(image)
    net = keras.Model(image, layers.Dense(4, name="answer")(layers.GlobalMaxPooling2D()(x)))
    kernel, bias = net.get_layer("answer").get_weights()
    kernel[:, [1, 3]] = kernel[:, [0, 2]]
    net.get_layer("answer").set_weights([kernel, bias])
    images = np.random.default_rng(5).integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    passed = first_pass(net, images)
    twin, other = (keras.models.clone_model(net) for _ in range(2))
    for changed, by in ((twin, 1e-6), (other, 0.5)):
        changed.set_weights(net.get_weights())
        larger = kernel.copy()
        larger[:, [1, 3]] += by
        changed.get_layer("answer").set_weights([larger, bias])
    order = range(6)
    b_prime, goodnet = build(net, "conv", [0, 1], tmp_path)
    assert check(passed, (b_prime, goodnet), order, step=2) == Agreement(40, 0, 0)

    def pruned(model):
        from goodnet.pruning.channels import prune_channels

        return prune_channels(model, "conv", [0, 1])

    near = check(passed, (pruned(twin), goodnet), order, step=2)
    wrong = check(passed, (pruned(other), goodnet), order, step=2)
    assert near.near_ties > 0
    assert near.wrong == 0
    assert wrong.near_ties == 0
    assert wrong.wrong > 0
