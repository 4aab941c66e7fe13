"""The types of arrays, by what they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
"""Activations, scores and whatever else nets compute."""

DoubleArray = npt.NDArray[np.float64]
"""Sums that must not depend on the order of their terms."""

IntArray = npt.NDArray[np.int64]
"""Classes, labels, counts and numbers of channels."""

BoolArray = npt.NDArray[np.bool_]

DigestArray = npt.NDArray[np.uint64]
"""A digest of the pixels of each image."""

Pixels = npt.NDArray[Any]
"""Images as a set delivers them, (n, H, W, C) raw 0..255, uint8 or float32."""

Images = npt.NDArray[np.uint8]
"""Images that are made or marked here, (n, H, W, C)."""

Shape = tuple[int, int, int]
"""(H, W, C) of an image."""
