"""Keras nets from the inside: their graph, what their layers do, and letting them answer."""
