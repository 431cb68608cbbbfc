"""Scans with known truth: objects, probes, scan paths, photon counts."""

from ptycho_torch.simulate.scan import simulate_scan

__all__ = ["simulate_scan"]
