"""The method: layer choice, first pass, ranking, sweep, stop rule, and a check of what is saved."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
