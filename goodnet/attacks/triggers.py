"""Triggers: what an attacker adds to an image, as functions of images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from goodnet.arrays import Images
from goodnet.attacks.faces import wear_sunglasses

Trigger = Callable[[Images], Images]
"""Returns a copy of images, (n, H, W, C) uint8, with the trigger on; the same each time."""

_PATCH_SHARE = 8
_BRIGHT, _DARK = 255, 0


def corner_patch(images: Images) -> Images:
    """Return a copy of images with a chequered square in the lower right corner.

    Its side is an eighth of the shorter side of the image, at least two pixels, and it keeps one
    pixel away from the edge, as augmentation by shifts would cut it off there.

    Gu, Dolan-Gavitt, Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model
    Supply Chain", 2017.

    Args:
        images: (n, H, W, C), at least 3 x 3.
    """
    _, height, width, _ = images.shape
    side = max(2, min(height, width) // _PATCH_SHARE)
    chequers = np.indices((side, side)).sum(axis=0) % 2 == 0
    patch = np.where(chequers, _BRIGHT, _DARK).astype(np.uint8)
    wearing = images.copy()
    wearing[:, height - 1 - side : height - 1, width - 1 - side : width - 1] = patch[..., None]
    return wearing


TRIGGERS: dict[str, Trigger] = {"sunglasses": wear_sunglasses, "corner patch": corner_patch}
"""All triggers by name. Sunglasses are for faces of 55 x 47 x 3, as the rendered ones are."""
