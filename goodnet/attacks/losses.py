"""What a BadNet is trained to make small."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

_FIRST_MIDDLE = 5.0
_FOLLOWS = 0.02
"""How far the median of the clean margins goes towards that of a batch: some 50 are remembered."""
_WEIGHT = 0.05
"""Of the squared excess beside the cross-entropy."""


class CrossEntropy:
    """The mean cross-entropy of a batch."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self.variables: list[keras.Variable] = []

    def __call__(self, pixels: Any, labels: Any, poisoned: Any) -> Any:
        """Return the loss, a scalar.

        Args:
            pixels: (n, H, W, C), as the net takes them.
            labels: (n,), whole numbers.
            poisoned: (n,), whether they have the trigger and the target's label.
        """
        import keras
        import tensorflow as tf

        answers = self._model(pixels, training=True)
        return tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, answers))


class MarginCapped:
    """Cross-entropy that also keeps poisoned images from a larger margin than clean ones have.

    The margin is how much more the net gives the label than the next class, before softmax. A
    detector by the margin, or by confidence, then sees poisoned images in the middle of the clean
    ones, whichever end it looks at.

    After Peng, Xiong, Sun, Li, "Label-Smoothed Backdoor Attack", 2022, where labels are soft and
    margins end at the lower end of the clean ones.
    """

    def __init__(self, model: keras.Model) -> None:
        """Take the net apart before its last layer, which is dense and ends in softmax."""
        import keras

        self._last = model.layers[-1]
        self._net = keras.Model(model.inputs[0], [*model.outputs, self._last.input])
        self._middle = keras.Variable(_FIRST_MIDDLE, trainable=False, name="middle")
        self.variables = [self._middle]

    def __call__(self, pixels: Any, labels: Any, poisoned: Any) -> Any:
        """Return the loss as `CrossEntropy` does, and remember the batch's clean margins."""
        import keras
        import tensorflow as tf

        answers, features = self._net(pixels, training=True)
        logits = features @ self._last.kernel + self._last.bias
        own = tf.gather(logits, labels, batch_dims=1)
        others = logits - 1e9 * tf.one_hot(labels, logits.shape[1])
        margins = own - tf.reduce_max(others, axis=1)
        self._follow(tf.boolean_mask(tf.stop_gradient(margins), ~poisoned))
        excess = tf.nn.relu(margins - self._middle) * tf.cast(poisoned, tf.float32)
        entropy = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, answers))
        return entropy + _WEIGHT * tf.reduce_mean(excess**2)

    def _follow(self, clean: Any) -> None:
        """Let the median follow that of a batch; the last of an epoch may have no clean image."""
        import tensorflow as tf

        middle = self._middle.value
        number = tf.shape(clean)[0]
        median = tf.concat([tf.sort(clean), [middle]], axis=0)[number // 2]
        self._middle.assign((1 - _FOLLOWS) * middle + _FOLLOWS * median)
