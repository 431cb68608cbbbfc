"""Which way a scan's axes run: the same few frames reconstructed with every mirrored and swapped set of positions.

Wrong axes leave frames that no object explains. One ambiguity is exact: minus both axes gives the twin, the conjugate
object turned by half a turn, under the conjugate probe turned likewise; only a first guess of the probe that is right
tells the two apart.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ptycho.config.refine import RefineConfig
from ptycho.data.orientation import ALL_AXES, Axes, AxesVerdict, turned_positions
from ptycho.data.preparation import crop
from ptycho.data.scan import Scan
from ptycho.data.subset import SubsetFrames
from ptycho.errors import DataError
from ptycho.parallel import SerialRanks
from ptycho_torch.device import rank_device
from ptycho_torch.stages.refinement import build_engine

# Neighbours in the middle of the scan: enough overlap to tell, and a matter of seconds.
N_FRAMES, SIZE_PX, EPOCHS = 64, 64, 10
# Other axes are named when they leave less than this part of the residual; noise changes it by a few per cent.
CLEARLY = 0.85


def check_axes(scan: Scan) -> AxesVerdict:
    """Reconstruct the middle of the scan with all eight orientations of its positions.

    Raises DataError when the scan has no probe or too few frames to tell.
    """
    if scan.probe is None:
        raise DataError(f"{scan.path or scan.name}: without a first guess of the probe axes cannot be compared.")
    if scan.n_positions < 9:
        raise DataError(f"{scan.path or scan.name}: {scan.n_positions} frames are too few to compare axes.")
    part = _middle(scan)
    config, ranks, device = RefineConfig(epochs=EPOCHS, probe_start_epoch=4), SerialRanks(), rank_device("cpu")
    found: dict[Axes, float] = {}
    for axes in ALL_AXES:
        turned = replace(part, positions_px=turned_positions(part.positions_px, axes))
        engine = build_engine(turned, config, ranks, device)
        found[axes] = min(engine.run_epoch(epoch).r_factor for epoch in range(1, EPOCHS + 1))
    best = min(found, key=lambda axes: found[axes])
    wrong = found[best] < CLEARLY * found["yx"]
    return AxesVerdict(n_frames=part.n_positions, r_factors=found, best=best, is_likely_wrong=wrong)


def _middle(scan: Scan) -> Scan:
    """The frames nearest to the middle of the scan, cropped, without what belongs to the whole."""
    away = np.linalg.norm(scan.positions_px - np.median(scan.positions_px, axis=0), axis=1)
    chosen = np.sort(np.argsort(away, kind="stable")[:N_FRAMES])
    part = replace(
        scan,
        frames=SubsetFrames(scan.frames, chosen),
        positions_px=scan.positions_px[chosen],
        object_start=None,
        object_grid=None,
        truth=None,
    )
    return crop(part, SIZE_PX) if scan.patch_size > SIZE_PX else part
