"""Writing a scan as CXI, so that ptychodus, cdtools and other programs find the same positions in it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from ptycho.data.formats.cxi_geometry import DETECTOR, ENTRY, INSTRUMENT
from ptycho.data.formats.hdf5 import count_type
from ptycho.data.formats.product import object_centre_m
from ptycho.data.formats.units import EV_J
from ptycho.data.frames import FrameSummary, blocks, check_frames
from ptycho.data.geometry import Pixel, known_pixels, px_to_metres
from ptycho.data.hdf5_writer import NewHDF5, new_hdf5
from ptycho.data.scan import Scan

VERSION = 160
EXTRAS = f"{ENTRY}/ptychodus"


def write_cxi(scan: Scan, path: Path) -> FrameSummary:
    """Write the scan as CXI 1.6 with the usual basis vectors; the file appears whole or not at all.

    Frames are compressed by gzip, which every HDF5 library reads. Raises DataError before anything is written when the
    geometry is not known, because CXI is in metres, or a frame is impossible; WorkError when the disk refuses the file.
    """
    pixel, detector_pixel = known_pixels(scan.geometry, scan.patch_size, f"{scan.path or scan.name} as CXI")
    summary = check_frames(scan)
    with new_hdf5(path) as file:
        file["cxi_version"], file["number_of_entries"] = VERSION, 1
        _write_detector(file, scan, summary, detector_pixel)
        file[f"{INSTRUMENT}/source_1/energy"] = (scan.geometry.energy_eV or 0.0) * EV_J
        file[f"{INSTRUMENT}/source_1/wavelength"] = scan.geometry.wavelength_m or 0.0
        moved_m = px_to_metres(scan.positions_px, scan.geometry, scan.patch_size)
        xyz = np.stack([moved_m[:, 1], moved_m[:, 0], np.zeros(scan.n_positions)], axis=1)
        file[f"{ENTRY}/sample_1/geometry_1/translation"] = xyz
        file[f"{ENTRY}/sample_1/name"] = scan.name
        file[f"{ENTRY}/title"] = scan.name
        file[f"{ENTRY}/data_1/data"] = h5py.SoftLink(f"/{DETECTOR}/data")
        for home in (f"{ENTRY}/data_1", DETECTOR):
            file[f"{home}/translation"] = h5py.SoftLink(f"/{ENTRY}/sample_1/geometry_1/translation")
        file[f"{ENTRY}/process_1/program"] = "ptychopinn"
        if scan.probe is not None:
            _write_images(file, scan, pixel)
    return summary


def _write_detector(file: NewHDF5, scan: Scan, summary: FrameSummary, pixel: Pixel) -> None:
    n, height, width = scan.frames.shape
    detector = file.create_group(DETECTOR)
    dtype = count_type(summary, scan.frames.dtype)
    data = detector.create_dataset(
        "data", (n, height, width), dtype, chunks=(1, height, width), compression="gzip", shuffle=True
    )
    data.attrs["axes"] = "translation:y:x"
    for indices in blocks(scan.frames):
        data[indices[0] : indices[-1] + 1] = scan.frames.read(indices).astype(dtype)
        file.check_disk()
    detector["distance"] = scan.geometry.distance_m
    detector["y_pixel_size"], detector["x_pixel_size"] = pixel
    detector["basis_vectors"] = np.array([[0.0, -pixel[1]], [-pixel[0], 0.0], [0.0, 0.0]])
    if scan.mask is not None:
        detector.create_dataset("mask", data=(~scan.mask).astype(np.uint32), compression="gzip")


def _write_images(file: NewHDF5, scan: Scan, pixel: Pixel) -> None:
    """Probe, and object where there is a first guess, with what ptychodus needs to place them."""
    assert scan.probe is not None  # the caller looked
    for side, length_m in zip(("height", "width"), pixel, strict=True):
        file[f"{EXTRAS}/probe_pixel_{side}_m"] = file[f"{EXTRAS}/object_pixel_{side}_m"] = length_m
    file[f"{EXTRAS}/probe_position_indexes"] = np.arange(scan.n_positions)
    grid = scan.grid
    centre_y, centre_x = object_centre_m(grid, scan.patch_size, pixel)
    file[f"{EXTRAS}/object_center_y_m"], file[f"{EXTRAS}/object_center_x_m"] = centre_y, centre_x
    images = {"image_1": (scan.probe[None], "coherent:incoherent:y:x", "amplitude")}
    if scan.object_start is not None and scan.object_grid is not None:
        centre_y, centre_x = object_centre_m(scan.object_grid, scan.patch_size, pixel)
        file[f"{EXTRAS}/object_center_y_m"][...], file[f"{EXTRAS}/object_center_x_m"][...] = centre_y, centre_x
        images["image_2"] = scan.object_start[None], "layer:y:x", "transmission"
    for name, (array, axes, kind) in images.items():
        image = file.create_group(f"{ENTRY}/{name}")
        image["data"] = array
        image["data"].attrs["axes"] = axes
        image["data_type"], image["data_space"] = kind, "real"
        image["image_size"] = np.array([pixel[1] * array.shape[-1], pixel[0] * array.shape[-2], 0.0])
    file[f"{INSTRUMENT}/source_1/illumination"] = h5py.SoftLink(f"/{ENTRY}/image_1/data")
