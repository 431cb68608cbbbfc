"""A digest that tells one scan from another."""

from __future__ import annotations

import hashlib

import numpy as np

from ptycho.data.frames import sample_indices
from ptycho.data.scan import Scan

# Enough to tell measurements apart; reading all of a large scan would take minutes.
N_FRAMES = 3


def scan_fingerprint(scan: Scan) -> str:
    """Hexadecimal digest of positions, probe, mask, the frames' shape and a few of them, whatever the file is called.

    Raises DataError when those frames cannot be read.
    """
    digest = hashlib.sha256(repr(scan.frames.shape).encode())
    frames = scan.frames.read(sample_indices(scan.n_positions, N_FRAMES)).astype(np.float64)
    for array in (scan.positions_px, scan.probe, scan.mask, frames):
        digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
