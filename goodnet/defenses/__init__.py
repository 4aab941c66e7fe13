"""Repairs and detectors behind one seam, and the GoodNet that is made of B and a repaired net."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
