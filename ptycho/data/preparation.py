"""Preparing a scan for a job: detector crop and mask, lazily, frame by frame as they are read."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho.data.frames import CheckedFrames, CroppedFrames, central, saturated_pixels
from ptycho.data.grid import ObjectGrid
from ptycho.data.scan import Scan, Truth
from ptycho.errors import DataError


def prepare(
    scan: Scan,
    *,
    crop_px: int | None = None,
    mask_path: Path | None = None,
    saturation_counts: float | None = None,
) -> Scan:
    """The scan as a job asks for it; frames are still read only when asked for.

    crop_px:   keep this many detector pixels (even) around zero frequency. The field of view stays, the object pixel
               grows by N / crop_px: positions are counted in the larger pixels and the probe loses its finest detail
    mask_path: NPY or HDF5 (dataset "mask") with the good pixels (y, x) True, beside the scan's own mask
    saturation_counts: mask pixels that reach this count in any frame; reads every frame once

    Raises DataError when the crop or a mask does not fit.
    """
    if mask_path is not None:
        scan = masked(scan, read_mask(mask_path, scan.patch_size))
    if saturation_counts is not None:
        saturated = saturated_pixels(scan.frames, saturation_counts)
        note = f"{saturated.sum()} pixels that reach {saturation_counts:g} counts in some frame were masked."
        scan = replace(masked(scan, ~saturated), assumptions=(*scan.assumptions, note))
    return scan if crop_px is None else crop(scan, crop_px)


def masked(scan: Scan, good: NDArray[np.bool_]) -> Scan:
    """The scan with a mask (y, x), True where good, beside its own. Raises DataError when no pixel stays good."""
    both = good if scan.mask is None else good & scan.mask
    if not both.any():
        raise DataError(f"{scan.path or scan.name}: every pixel is masked; True or 1 must mark the good pixels.")
    # What lies under the new mask is not looked at: repairing a file by masking its bad pixels must work.
    stored = scan.frames.frames if isinstance(scan.frames, CheckedFrames) else scan.frames
    return replace(scan, frames=CheckedFrames(stored, str(scan.path or scan.name), both), mask=both)


def crop(scan: Scan, crop_px: int) -> Scan:
    """The scan as a smaller detector would have seen it; see `prepare`."""
    size = scan.patch_size
    if crop_px > size or crop_px < 2 or crop_px % 2:
        raise DataError(
            f"data.crop_px = {crop_px}: must be an even number from 2 to {size}, the size of the frames of {scan.name}."
        )
    if crop_px == size:
        return scan
    part = central(size, crop_px)
    if scan.mask is not None and not scan.mask[part, part].any():
        raise DataError(f"data.crop_px = {crop_px}: every pixel that is left of {scan.name} is masked; crop less.")
    start = None
    if scan.object_start is not None and scan.object_grid is not None:
        start = resample(scan.object_start, crop_px, size)
    note = f"Detector cropped from {size} to {crop_px} pixels: object pixels are {size / crop_px:g} times larger."
    return replace(
        scan,
        frames=CroppedFrames(scan.frames, crop_px),
        positions_px=scan.positions_px * (crop_px / size),
        probe=None if scan.probe is None else crop_probe(scan.probe, crop_px),
        mask=None if scan.mask is None else scan.mask[part, part].copy(),
        geometry=scan.geometry.cropped(size, crop_px),
        object_start=start,
        object_grid=None if scan.object_grid is None else coarser_grid(scan.object_grid, crop_px, size),
        truth=None if scan.truth is None else _coarser_truth(scan.truth, crop_px, size),
        assumptions=(*scan.assumptions, note),
    )


def crop_probe(probe: NDArray[np.complex64], crop_px: int) -> NDArray[np.complex64]:
    """The probe (mode, y, x) with only the waves that reach the central `crop_px` pixels; same field of view.

    Orthonormal transforms keep the photons of those waves, so the cropped counts fit the cropped probe without a scale.
    """
    axes = (-2, -1)
    part = central(probe.shape[-1], crop_px)
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe, axes=axes), norm="ortho"), axes=axes)
    kept = np.fft.ifftshift(spectrum[..., part, part], axes=axes)
    small: NDArray[np.complex64] = np.fft.fftshift(np.fft.ifft2(kept, norm="ortho"), axes=axes).astype(np.complex64)
    return small


def coarser_grid(grid: ObjectGrid, crop_px: int, size: int) -> ObjectGrid:
    """The grid in pixels that are size / crop_px times larger; its first pixel stays where it is.

    One pixel more than is covered, so that windows with their bilinear edge still fit.
    """
    height, width = (math.ceil(length * crop_px / size) + 1 for length in grid.shape)
    factor = crop_px / size
    return ObjectGrid(shape=(height, width), origin_px=(grid.origin_px[0] * factor, grid.origin_px[1] * factor))


def resample(image: NDArray[np.complex64], crop_px: int, size: int) -> NDArray[np.complex64]:
    """The image (y, x) on its `coarser_grid`, low-passed: Fourier crop of the image mirrored at its edges."""
    divisor = math.gcd(crop_px, size)
    wanted, step = (math.ceil(n * crop_px / size) + 1 for n in image.shape), size // divisor
    height, width = wanted
    # Sides that the ratio divides, at least as long as the pixels that are wanted.
    sides = [math.ceil(n * size / crop_px / step) * step for n in (height, width)]
    edge = [(0, side - n) for side, n in zip(sides, image.shape, strict=True)]
    mirrored = np.pad(np.pad(image, edge, mode="edge"), [(0, side) for side in sides], mode="symmetric")
    spectrum = np.fft.fftshift(np.fft.fft2(mirrored))
    rows, columns = (central(2 * side, 2 * side * crop_px // size) for side in sides)
    kept = np.fft.ifft2(np.fft.ifftshift(spectrum[rows, columns])) * (crop_px / size) ** 2
    return kept[:height, :width].astype(np.complex64)


def read_mask(path: Path, size: int) -> NDArray[np.bool_]:
    """The good detector pixels (size, size) from an NPY or HDF5 file; numbers count as good where they are not 0."""
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r", locking="best-effort") as file:
                if "mask" not in file:
                    raise DataError(f"{path} has no dataset /mask. It contains: {', '.join(file)}.")
                values = file["mask"][()]
        else:
            values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as a mask ({error}); give an NPY or HDF5 file.") from error
    if not isinstance(values, np.ndarray) or values.shape != (size, size):
        raise DataError(f"{path}: mask of shape {np.shape(values)}; the frames are {size} × {size}.")
    if values.dtype.kind not in "bui":
        raise DataError(f"{path}: mask of type {values.dtype}; must be bool or whole numbers, True or 1 where good.")
    return values.astype(bool)


def _coarser_truth(truth: Truth, crop_px: int, size: int) -> Truth:
    return Truth(
        object=resample(truth.object, crop_px, size),
        grid=coarser_grid(truth.grid, crop_px, size),
        probe=None if truth.probe is None else crop_probe(truth.probe, crop_px),
        positions_px=None if truth.positions_px is None else truth.positions_px * (crop_px / size),
    )
