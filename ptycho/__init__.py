"""Ptychography on a cluster: everything that needs no torch."""
