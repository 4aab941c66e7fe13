"""Image sets: arrays in files, folders of pictures, names of classes, preparing of pixels."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
