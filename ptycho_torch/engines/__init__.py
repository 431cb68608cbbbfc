"""Iterative engines: siblings behind one interface."""
