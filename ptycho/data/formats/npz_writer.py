"""Writing a scan as the NPZ that PtychoPINN programs read, frame block by frame block."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ptycho.data.formats.hdf5 import count_type
from ptycho.data.frames import FrameSummary, blocks, check_frames
from ptycho.data.scan import Scan
from ptycho.whole_file import whole_file

WRITER = "ptychopinn"


def write_npz(scan: Scan, path: Path) -> FrameSummary:
    """Write the scan as NPZ: counts, positions of pixel N // 2 in pixels of `objectGuess`; whole or not at all.

    The archive is not compressed, so that readers can map it. What it cannot hold is left out: truth, the name, a
    detector's pixel. Raises DataError before anything is written when a frame is impossible, WorkError when the disk
    refuses the file.
    """
    summary = check_frames(scan)
    grid = scan.grid
    moved = scan.positions_px - np.asarray(grid.origin_px)
    start = scan.object_start if scan.object_grid == grid else None
    arrays: dict[str, Any] = {
        "xcoords": moved[:, 1], "ycoords": moved[:, 0], "xcoords_start": moved[:, 1], "ycoords_start": moved[:, 0],
        "objectGuess": np.ones(grid.shape, np.complex64) if start is None else start,
        "scan_index": np.zeros(scan.n_positions, np.int64),
        "_metadata": json.dumps(
            {"written_by": WRITER, "physics_parameters": {"nphotons": summary.mean_photons}, "name": scan.name}
        ),
    }  # fmt: skip
    if scan.probe is not None:
        arrays["probeGuess"] = scan.probe
    if scan.mask is not None:
        arrays["bad_pixels"] = ~scan.mask
    pixel, wavelength = scan.geometry.object_pixel(scan.patch_size), scan.geometry.wavelength_m
    if pixel is not None and np.isclose(pixel[0], pixel[1]):
        arrays["dx_m"] = pixel[0]
    if wavelength is not None:
        arrays["wavelength_m"] = wavelength
    if scan.geometry.distance_m is not None:
        arrays["distance_m"] = scan.geometry.distance_m
    with whole_file(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, np.asarray(values), allow_pickle=False)
        _write_frames(archive, scan, count_type(summary, scan.frames.dtype))
    return summary


def _write_frames(archive: zipfile.ZipFile, scan: Scan, dtype: np.dtype[Any]) -> None:
    with archive.open("diff3d.npy", "w", force_zip64=True) as member:
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": scan.frames.shape}
        npy.write_array_header_2_0(member, header)
        for indices in blocks(scan.frames):
            block: NDArray[Any] = np.ascontiguousarray(scan.frames.read(indices), dtype=dtype)
            member.write(block.tobytes())
