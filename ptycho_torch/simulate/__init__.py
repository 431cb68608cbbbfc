"""Scans with known truth: objects, probes, scan paths, photon counts."""
