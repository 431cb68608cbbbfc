"""Measures of an image: alignment, errors against a truth, resolution."""
