"""Which way a scan's axes run: the same few frames reconstructed with every mirrored and swapped set of positions.

Wrong axes leave frames that no object explains. One ambiguity is exact: minus both axes gives the twin, the conjugate
object turned by half a turn, under the conjugate probe turned likewise; only a first guess of the probe that is right
tells the two apart.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ptycho.config.refine import RefineConfig
from ptycho.data.frames import sample_indices
from ptycho.data.orientation import ALL_AXES, Axes, AxesVerdict, turned_positions
from ptycho.data.preparation import crop
from ptycho.data.scan import Scan
from ptycho.data.subset import SubsetFrames
from ptycho.errors import DataError
from ptycho.parallel import SerialRanks
from ptycho_torch.device import rank_device
from ptycho_torch.stages.refinement import build_engine

# Neighbours, enough overlap to tell, and a matter of seconds.
N_FRAMES, SIZE_PX, EPOCHS = 64, 64, 10
# Near fields cannot be cropped; larger ones would take minutes.
NEAR_FIELD_SIZE_PX = 256
# Frames looked at to find where the object has most structure, and how many neighbours of these have to agree.
SAMPLE, AGREEING = 96, 4


def check_axes(scan: Scan) -> AxesVerdict:
    """Reconstruct a small part of the scan, where it has most structure, with all eight orientations of its positions.

    Raises DataError when the scan has no probe or too few frames to tell.
    """
    if scan.geometry.is_near_field and scan.patch_size > NEAR_FIELD_SIZE_PX:
        raise DataError(f"{scan.path or scan.name}: near fields of {scan.patch_size} pixels take too long.")
    # A near field's probe is its mean shadow, whatever the axes; a far field's takes longer to find than to compare.
    if scan.probe is None and not scan.geometry.is_near_field:
        raise DataError(f"{scan.path or scan.name}: without a first guess of the probe axes cannot be compared.")
    if scan.n_positions < 9:
        raise DataError(f"{scan.path or scan.name}: {scan.n_positions} frames are too few to compare axes.")
    part, ranks, device = _structured_part(scan), SerialRanks(), rank_device("cpu")
    config = RefineConfig(epochs=EPOCHS, probe_start_epoch=4, probe_start="guess" if scan.probe is None else "scan")
    found: dict[Axes, float] = {}
    for axes in ALL_AXES:
        turned = replace(part, positions_px=turned_positions(part.positions_px, axes))
        engine = build_engine(turned, config, ranks, device)
        found[axes] = min(engine.run_epoch(epoch).r_factor for epoch in range(1, EPOCHS + 1))
    return AxesVerdict(n_frames=part.n_positions, r_factors=found)


def _structured_part(scan: Scan) -> Scan:
    """Neighbouring frames, cropped, without what belongs to the whole."""
    away = np.linalg.norm(scan.positions_px - _structured_place(scan), axis=1)
    chosen = np.sort(np.argsort(away, kind="stable")[:N_FRAMES])
    part = replace(
        scan,
        frames=SubsetFrames(scan.frames, chosen),
        positions_px=scan.positions_px[chosen],
        object_start=None,
        object_grid=None,
        truth=None,
    )
    return crop(part, SIZE_PX) if scan.patch_size > SIZE_PX and not scan.geometry.is_near_field else part


def _structured_place(scan: Scan) -> NDArray[np.float64]:
    """The scan coordinate (y, x) around which frames differ most from their mean; one odd frame does not decide."""
    looked_at = sample_indices(scan.n_positions, SAMPLE)
    amplitudes = np.sqrt(np.asarray(scan.frames.read(looked_at), dtype=np.float32))
    differing = np.abs(amplitudes - amplitudes.mean(axis=0)).sum(axis=(1, 2))
    places = scan.positions_px[looked_at]
    near = np.linalg.norm(places[:, None] - places[None], axis=-1).argsort(axis=1, kind="stable")[:, :AGREEING]
    best: NDArray[np.float64] = places[np.median(differing[near], axis=1).argmax()]
    return best
