"""Writing a scan as ptychodus keeps it: diffraction.h5 with the frames, and its product beside it with the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ptycho.data.formats.hdf5 import count_type
from ptycho.data.formats.product import Product, write_product
from ptycho.data.frames import FrameSummary, blocks, check_frames
from ptycho.data.geometry import Pixel, known_pixels
from ptycho.data.hdf5_writer import new_hdf5
from ptycho.data.scan import Scan
from ptycho.errors import DataError

FRAMES, REST = "diffraction", "product"


def write_ptychodus(scan: Scan, path: Path) -> FrameSummary:
    """Write …diffraction….h5 and, beside it, …product….h5; each appears whole or not at all.

    Without a first guess the product's object is 1 everywhere. Raises DataError before anything is written when the
    name does not say "diffraction", when the scan has no probe or no geometry, which a product must have, and when a
    frame is impossible; WorkError when the disk refuses the files.
    """
    if FRAMES not in path.name:
        raise DataError(f'{path}: name the file "diffraction.h5"; "product.h5" is written beside it.')
    if scan.probe is None:
        raise DataError(f"{scan.path or scan.name}: the scan has no probe, and a ptychodus product must have one.")
    _, detector_pixel = known_pixels(scan.geometry, scan.patch_size, f"{scan.path or scan.name} for ptychodus")
    summary = check_frames(scan)
    grid, start = scan.grid, scan.object_start
    if start is not None and scan.object_grid is not None:
        grid = scan.object_grid
    product = Product(
        name=scan.name,
        object=np.ones(grid.shape, np.complex64) if start is None else start,
        grid=grid,
        probe=scan.probe,
        positions_px=scan.positions_px,
        geometry=scan.geometry,
        photons_per_frame=summary.mean_photons,
    )
    _write_frames(scan, summary, detector_pixel, path)
    write_product(product, path.with_name(path.name.replace(FRAMES, REST, 1)))
    return summary


def _write_frames(scan: Scan, summary: FrameSummary, pixel: Pixel, path: Path) -> None:
    n, height, width = scan.frames.shape
    dtype = count_type(summary, scan.frames.dtype)
    with new_hdf5(path) as file:
        patterns = file.create_dataset(
            "patterns", (n, height, width), dtype, chunks=(1, height, width), compression="lzf"
        )
        for indices in blocks(scan.frames):
            patterns[indices[0] : indices[-1] + 1] = scan.frames.read(indices).astype(dtype)
            file.check_disk()
        patterns.attrs.update(detector_pixel_height_m=pixel[0], detector_pixel_width_m=pixel[1])
        file["indexes"] = np.arange(n)
        file["bad_pixels"] = np.zeros((height, width), bool) if scan.mask is None else ~scan.mask
