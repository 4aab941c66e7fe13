import numpy as np

ORDER_OF_THE_LAB = [23, 6, 51, 32, 22, 21, 20, 19, 43, 58, 3, 42, 1, 29, 16, 56, 46, 5, 8, 11, 54]
KEPT_AT_10_PERCENT = [10, 28, 35, 18, 4, 7, 52, 57]


def channels_first(layer, weight) -> np.ndarray:
    """Return a kernel or bias with what belongs to one output channel in each row."""
    values = np.asarray(weight)
    if type(layer).__name__ == "Conv2DTranspose" and values.ndim == 4:
        values = values.swapaxes(2, 3)
    if type(layer).__name__ == "DepthwiseConv2D":
        return values.reshape(-1, layer.output.shape[-1]).T
    return values.reshape(-1, values.shape[-1]).T


def is_convolution(layer) -> bool:
    return "Conv" in type(layer).__name__


def test_a_pruned_net_answers_as_keras_does_when_the_layer_gives_less(network):
    from goodnet.pruning.channels import prune_channels

    model, layer = network.model, network.model.get_layer(network.layer)
    pixels, channels = network.images / np.float32(255), [3, 1]
    before = np.asarray(model(pixels, training=False))
    kept = np.ones(layer.output.shape[-1], np.float32)
    kept[channels] = 0
    zero = np.zeros(1, np.float32)
    removed = (1 - kept) * (layer.activation(zero) if is_convolution(layer) else zero)
    call = layer.call
    layer.call = lambda *args, **options: call(*args, **options) * kept + removed
    try:
        expected = np.asarray(model(pixels, training=False))
    finally:
        del layer.call
    pruned = prune_channels(model, network.layer, channels)
    assert pruned.output_shape == model.output_shape
    found = np.asarray(pruned(pixels, training=False))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - before).max() > 1e-3
    np.testing.assert_array_equal(model(pixels, training=False), before)


def test_no_weights_change_but_those_of_the_given_channels(network):
    from goodnet.pruning.channels import prune_channels

    model, name = network.model, network.layer
    original = [weight.copy() for weight in model.get_weights()]
    pruned = prune_channels(model, name, [3, 1])
    convolution = pruned.get_layer(name)
    kept = [c for c in range(convolution.output.shape[-1]) if c not in (1, 3)]
    for before, after in zip(model.weights, pruned.weights, strict=True):
        own = any(after is w for w in convolution.weights)
        is_pruned = own and is_convolution(convolution)
        if not is_pruned or after.name == "depthwise_kernel":
            np.testing.assert_array_equal(before, after)
            continue
        rows = channels_first(convolution, after)
        assert not rows[[1, 3]].any()
        np.testing.assert_array_equal(
            rows[kept], channels_first(model.get_layer(name), before)[kept]
        )
        assert channels_first(model.get_layer(name), before)[[1, 3]].any()
    for before, now in zip(original, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, now)


def test_pruning_as_the_lab_did_gives_its_b_prime(lab, lab_net, lab_passes):
    from goodnet.model_files.load import load_model
    from goodnet.networks.graph import as_functional
    from goodnet.pruning.channels import prune_channels

    published = as_functional(load_model(lab / "b_prime_10_legacy.h5"))
    kernel, bias = published.get_layer("conv_3").get_weights()
    channels = np.flatnonzero(~(kernel.any(axis=(0, 1, 2)) | bias.astype(bool))).tolist()
    assert len(channels) == 52
    silent = set(range(60)) - set(ORDER_OF_THE_LAB) - set(KEPT_AT_10_PERCENT)
    assert set(channels) == silent | set(ORDER_OF_THE_LAB)
    pruned = prune_channels(lab_net, "conv_3", channels)
    for passed in lab_passes.values():
        images = np.float32(next(passed.images.batches(40)))
        ours, theirs = (np.asarray(net(images, training=False)) for net in (pruned, published))
        np.testing.assert_array_equal(ours.argmax(1), theirs.argmax(1))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
