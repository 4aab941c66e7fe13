import pytest

from goodnet.errors import InputError
from goodnet.ranking import block_means, mean_activations, prune_order
from goodnet.verification import Agreement, check_saved, is_bearable


@pytest.fixture(scope="module")
def lab_case(lab_net, lab, first_pass):
    """The lab's net over its clean images in several blocks, and its prune order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("goodnet.first_pass._MAX_BLOCK", 8)
        passed = first_pass(
            lab_net,
            lab / "clean_valid_mini.h5",
            layer="conv_3",
            rank_at="pool_3",
            pixel_scale=1.0,
        )
    return passed, prune_order(mean_activations(block_means(passed.cache)))


def build(model, layer, channels, folder):
    """Save and load B' and G."""
    from goodnet.detector import build_goodnet
    from goodnet.models import load_model, save_model
    from goodnet.pruning import prune_channels

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


@pytest.mark.parametrize(("full", "num_images"), [(True, 40), (False, 8)])
def test_saved_nets_agree_with_the_sweep(lab_case, tmp_path, full, num_images):
    passed, order = lab_case
    nets = build(passed.frontier.model, "conv_3", order[:52], tmp_path)
    assert check(passed, nets, order, full=full) == Agreement(num_images, 0)


@pytest.mark.parametrize(("full", "end"), [(True, 40), (False, 8)])
def test_progress_counts_the_images_that_are_checked(lab_case, tmp_path, full, end):
    passed, order = lab_case
    nets = build(passed.frontier.model, "conv_3", order[:52], tmp_path)
    told: list[tuple[int, int]] = []
    check(passed, nets, order, full=full, on_progress=lambda *numbers: told.append(numbers))
    assert told == [(done, end) for done in range(8, end + 1, 8)]


def test_a_sample_is_taken_from_the_middle(lab_case, tmp_path, monkeypatch):
    passed, order = lab_case
    monkeypatch.setattr("goodnet.verification.SAMPLE_IMAGES", 3)
    nets = build(passed.frontier.model, "conv_3", order[:52], tmp_path)
    assert check(passed, nets, order, full=False) == Agreement(3, 0)


@pytest.mark.parametrize("network", ["plain", "residual_from_before", "sigmoid"], indirect=True)
def test_wrong_nets_are_found_out(network, first_pass, tmp_path):
    model, layer = network.model, network.layer
    passed = first_pass(model, network.images, layer=layer, rank_at=network.rank_at)
    order = range(passed.frontier.num_channels)
    b_prime, goodnet = build(model, layer, [0, 1, 2, 3], tmp_path)
    assert check(passed, (b_prime, goodnet), order, step=4) == Agreement(24, 0)
    other_b_prime, other_goodnet = build(model, layer, [4, 5, 6, 7], tmp_path)
    for nets in ((other_b_prime, goodnet), (b_prime, other_goodnet)):
        agreement = check(passed, nets, order, step=4)
        assert agreement.images == 24
        assert agreement.disagreements > 1
        assert not is_bearable(agreement)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nets_that_answer_no_numbers_are_refused(lab_case, tmp_path, which, number):
    """NaN would count as class 0."""
    passed, order = lab_case
    nets = build(passed.frontier.model, "conv_3", order[:52], tmp_path)
    spoilt = [weight for weight in nets[which].weights if "bias" in weight.path][-1]
    spoilt.assign(spoilt + number)
    name = ("B'", "G")[which]
    with pytest.raises(InputError, match=f"the answer of {name} on image 0 is NaN or infinite"):
        check(passed, nets, order)


def test_one_image_is_always_allowed_and_one_in_ten_thousand():
    assert is_bearable(Agreement(10, 0))
    assert is_bearable(Agreement(10, 1))
    assert not is_bearable(Agreement(10, 2))
    assert not is_bearable(Agreement(19_999, 2))
    assert is_bearable(Agreement(20_000, 2))
    assert not is_bearable(Agreement(20_000, 3))
