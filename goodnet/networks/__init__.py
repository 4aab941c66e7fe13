"""Keras nets from the inside: their graph, what their layers do, and letting them answer."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
