"""Repairs and detectors behind one seam, and the GoodNet that is made of B and a repaired net."""
