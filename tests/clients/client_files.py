"""The files that ptychodus writes, from a simulated scan, with the truth on the pixels of its object."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from scipy.ndimage import map_coordinates

from ptycho.evaluation.alignment import align
from tests.pinn.pinn_scans import small_scan

PIXEL_M = 5e-8


@dataclass(frozen=True)
class ClientScan:
    """Arrays as ptychodus has them: positions of the window's middle, in pixels of an object centred on the scan.

    counts: (pattern, N, N) uint16; probe: (mode, N, N); middle_px: (pattern, 2) (y, x); truth: (H, W) complex
    """

    counts: np.ndarray
    probe: np.ndarray
    middle_px: np.ndarray
    truth: np.ndarray

    @property
    def positions_m(self):
        """(pattern, 2) (y, x) metres, from the middle of the object."""
        return (self.middle_px - (np.array(self.truth.shape) - 1) / 2) * PIXEL_M


def client_scan(side=6, n=None, size=32, modes=1, photons=1e5, seed=0):
    """A small scan with known object; the first n of side × side patterns of size × size."""
    scan = small_scan(side=side, size=size, modes=modes, photons=photons, seed=seed)
    middle = scan.positions_px[:n] - 0.5
    low, high = middle.min(axis=0), middle.max(axis=0)
    shape = np.ceil(high - low + size).astype(int)
    first = (low + high) / 2 - (shape - 1) / 2
    rows, columns = (
        start - origin + np.arange(n) for start, origin, n in zip(first, scan.truth.grid.origin_px, shape, strict=True)
    )
    places = np.meshgrid(rows, columns, indexing="ij")
    real, imaginary = (map_coordinates(part, places, order=3, mode="nearest") for part in _parts(scan.truth.object))
    counts = scan.frames.read(np.arange(len(middle)))
    assert counts.max() < 2**16, "use fewer photons: detectors of 16 bits would overflow"
    return ClientScan(
        counts=counts.astype(np.uint16),
        probe=scan.probe,
        middle_px=middle - first,
        truth=real + 1j * imaginary,
    )


def write_standard_folder(folder: Path, scan: ClientScan, **attributes):
    """diffraction.h5 and product.h5 with a flat object, as ptychodus stages them for batch work."""
    folder.mkdir(parents=True, exist_ok=True)
    n, size, _ = scan.counts.shape
    with h5py.File(folder / "diffraction.h5", "w") as file:
        file["indexes"] = np.arange(n)
        file["patterns"] = scan.counts
        file["patterns"].attrs.update(detector_pixel_width_m=75e-6, detector_pixel_height_m=75e-6)
        file["bad_pixels"] = np.zeros((size, size), bool)
    with h5py.File(folder / "product.h5", "w") as file:
        file.attrs.update(
            name="simulated", comments="", photon_energy_eV=8000.0, detector_object_distance_m=PIXEL_M * size * 75e-6
            / 1.5498e-10, probe_photon_count=0.0, exposure_time_s=0.1, mass_attenuation_m2_per_kg=0.0,
            tomography_angle_deg=0.0, focus_object_distance_m=0.0, tilt_angle_deg=0.0, far_field=True, **attributes,
        )  # fmt: skip
        pixel = {"pixel_width_m": PIXEL_M, "pixel_height_m": PIXEL_M}
        file["probe"] = scan.probe[None]
        file["probe"].attrs.update(pixel)
        file["object"] = np.ones((1, *scan.truth.shape), np.complex64)
        file["object"].attrs.update(pixel, center_x_m=0.0, center_y_m=0.0)
        file["object_layer_spacing_m"] = np.zeros(0)
        file["probe_position_indexes"] = np.arange(n)
        file["probe_position_y_m"], file["probe_position_x_m"] = scan.positions_m.T
        file["loss_epochs"], file["loss_values"] = np.zeros(0), np.zeros(0)
    return folder


def write_training_npz(path: Path, scan: ClientScan):
    """The training file that ptychodus 1.7 exports."""
    y, x = scan.middle_px.T
    np.savez(
        path, xcoords=x, ycoords=y, xcoords_start=x, ycoords_start=y, diff3d=scan.counts,
        bad_pixels=np.zeros(scan.counts.shape[1:], bool), probeGuess=scan.probe,
        objectGuess=np.ones(scan.truth.shape, np.complex64), scan_index=np.zeros(len(x), int),
    )  # fmt: skip
    return path


def judge(image, scan: ClientScan):
    """(phase correlation, shift in pixels, median amplitude) of an image (H, W) in the scanned area, once aligned."""
    low, high = scan.middle_px.min(axis=0).astype(int), scan.middle_px.max(axis=0).astype(int) + 1
    inside = np.s_[low[0] : high[0], low[1] : high[1]]
    seen, truth = image[inside].astype(np.complex64), scan.truth[inside].astype(np.complex64)
    found = align(seen, truth, np.ones(seen.shape, bool))
    correlation = np.corrcoef(np.angle(found.image).ravel(), np.angle(truth).ravel())[0, 1]
    return correlation, float(np.hypot(*found.shift_px)), float(np.median(np.abs(seen)))


def _parts(image):
    return image.real, image.imag
