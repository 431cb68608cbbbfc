"""Preparing a scan for a job: detector crop and mask, lazily, frame by frame as they are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho.data.frames import (
    BinnedFrames,
    CheckedFrames,
    CroppedFrames,
    DarkFrames,
    ThresholdFrames,
    WindowFrames,
    central,
    saturated_pixels,
    window,
)
from ptycho.data.grid import ObjectGrid
from ptycho.data.scan import Frames, Scan, Truth
from ptycho.data.trial import try_apart
from ptycho.errors import DataError


def prepare(
    scan: Scan,
    *,
    crop_px: int | None = None,
    pad_px: int | None = None,
    bin_px: int | None = None,
    mask_path: Path | None = None,
    dark_path: Path | None = None,
    threshold_counts: float | None = None,
    saturation_counts: float | None = None,
) -> Scan:
    """The scan as a job asks for it; frames are still read only when asked for. In this order:

    mask_path: NPY or HDF5 (dataset "mask") with the good pixels (y, x) True, beside the scan's own mask; of the frames
               or of the whole detector
    dark_path: NPY or HDF5 (dataset "dark") with the detector's dark signal (y, x), which is taken off every frame;
               without it, the one that the scan's own file records, if any
    threshold_counts:  counts below read as 0
    saturation_counts: mask pixels that reach this count in any frame; reads every frame once
    bin_px:    take this many pixels along each side as one. The object pixel stays, the field of view shrinks
    crop_px:   keep this many detector pixels (even) around zero frequency. The field of view stays, the object pixel
               grows by N / crop_px: positions are counted in the larger pixels and the probe loses its finest detail
    pad_px:    surround the frames to this size with masked pixels: the object pixel shrinks accordingly

    Raises DataError when one of them does not fit.
    """
    if mask_path is not None:
        scan = masked(scan, read_mask(mask_path, scan))
    scan = _without_dark(scan, dark_path)
    if threshold_counts is not None:
        scan = _uncovered(scan, lambda frames: ThresholdFrames(frames, threshold_counts))
        scan = _noted(scan, f"Counts below {threshold_counts:g} were set to 0.")
    if saturation_counts is not None:
        saturated = saturated_pixels(scan.frames, saturation_counts)
        note = f"{saturated.sum()} pixels that reach {saturation_counts:g} counts in some frame were masked."
        scan = _noted(masked(scan, ~saturated), note)
    if bin_px is not None and bin_px != 1:
        scan = binned(scan, bin_px)
    if crop_px is not None:
        scan = crop(scan, crop_px)
    return scan if pad_px is None else pad(scan, pad_px)


def _without_dark(scan: Scan, path: Path | None) -> Scan:
    """The scan without the dark signal in the file at `path`, or else without the one that it records itself."""
    view = scan.detector
    own = None if view is None else view.dark
    if path is not None:
        dark, note = read_dark(path, scan), f"The dark signal in {path.name} was taken off every frame"
        note += "." if own is None else ", and not the one that the scan's own file records."
    elif view is not None and own is not None:
        dark = _finite_dark(view.see(own), scan, f"{scan.path or scan.name}: the dark signal that it records")
        note = "The dark signal that the scan's own file records was taken off every frame."
    else:
        return scan
    scan = _uncovered(scan, lambda frames: DarkFrames(frames, dark))
    return _noted(replace(scan, detector=None if view is None else replace(view, dark=None)), note)


def _uncovered(scan: Scan, change: Callable[[Frames], Frames]) -> Scan:
    """The scan with its frames changed below the check of their counts."""
    checked = isinstance(scan.frames, CheckedFrames)
    stored = scan.frames.frames if isinstance(scan.frames, CheckedFrames) else scan.frames
    changed = change(stored)
    return replace(scan, frames=CheckedFrames(changed, str(scan.path or scan.name), scan.mask) if checked else changed)


def _noted(scan: Scan, note: str) -> Scan:
    return replace(scan, assumptions=(*scan.assumptions, note))


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
    _refuse_near_field(scan, "data.crop_px")
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
        detector=None,
        assumptions=(*scan.assumptions, note),
    )


def pad(scan: Scan, pad_px: int) -> Scan:
    """The scan as a larger detector would have seen it whose outer pixels are all dead; see `prepare`."""
    size = scan.patch_size
    if pad_px < size or pad_px > 8 * size or pad_px % 2:
        raise DataError(
            f"data.pad_px = {pad_px}: must be an even number from {size}, the size of the frames of {scan.name}, to"
            f" {8 * size}."
        )
    if pad_px == size:
        return scan
    _refuse_near_field(scan, "data.pad_px")
    middle = (size // 2, size // 2)
    mask = window(np.ones((size, size), dtype=bool) if scan.mask is None else scan.mask, middle, pad_px)
    note = f"Detector padded from {size} to {pad_px} pixels with masked ones: object pixels are finer by that ratio."
    if scan.object_start is not None:
        note += " The file's first guess of the object is not used."
    return replace(
        scan,
        frames=WindowFrames(scan.frames, middle, pad_px),
        positions_px=scan.positions_px * (pad_px / size),
        probe=None if scan.probe is None else crop_probe(scan.probe, pad_px),
        mask=mask,
        geometry=scan.geometry.cropped(size, pad_px),
        object_start=None,
        object_grid=None,
        truth=None,
        detector=None,
        assumptions=(*scan.assumptions, note),
    )


def binned(scan: Scan, bin_px: int) -> Scan:
    """The scan as a detector with larger pixels would have seen it; see `prepare`."""
    size = scan.patch_size
    if bin_px < 1 or size % (2 * bin_px) or size // bin_px < 8:
        raise DataError(
            f"data.bin_px = {bin_px}: {size} / {bin_px} must be an even number of at least 8 pixels; crop the frames of"
            f" {scan.name} first (data.crop_px) or choose another number."
        )
    _refuse_near_field(scan, "data.bin_px")
    small = size // bin_px
    part = central(size, small)
    mask = scan.mask
    if mask is not None:
        mask = np.asarray(mask.reshape(small, bin_px, small, bin_px).all(axis=(1, 3)))
    if mask is not None and not mask.any():
        raise DataError(f"data.bin_px = {bin_px}: every pixel of {scan.name} is masked then; bin less.")
    truth = scan.truth
    if truth is not None and truth.probe is not None:
        truth = replace(truth, probe=truth.probe[:, part, part].copy())
    note = f"Detector binned {bin_px} × {bin_px}, from {size} to {small} pixels: the window is smaller by that ratio."
    if scan.mask is not None:
        note += " A bin with a masked pixel is masked."
    return replace(
        scan,
        frames=BinnedFrames(scan.frames, bin_px),
        probe=None if scan.probe is None else scan.probe[:, part, part].copy(),
        mask=mask,
        geometry=scan.geometry.binned(bin_px),
        truth=truth,
        detector=None,
        assumptions=(*scan.assumptions, note),
    )


def _refuse_near_field(scan: Scan, key: str) -> None:
    if scan.geometry.is_near_field:
        raise DataError(f"{key}: {scan.name} is a near-field scan, whose frames are images; only far fields can be so.")


def crop_probe(probe: NDArray[np.complex64], crop_px: int) -> NDArray[np.complex64]:
    """The probe (mode, y, x) with only the waves that reach the central `crop_px` pixels; same field of view.

    A larger `crop_px` adds detector pixels that no wave of the probe reaches.

    Orthonormal transforms keep the photons of those waves, so the cropped counts fit the cropped probe without a scale.
    """
    axes = (-2, -1)
    size = probe.shape[-1]
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe, axes=axes), norm="ortho"), axes=axes)
    kept = np.fft.ifftshift(window(spectrum, (size // 2, size // 2), crop_px), axes=axes)
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


def read_mask(path: Path, scan: Scan) -> NDArray[np.bool_]:
    """The good pixels of the scan's frames from an NPY or HDF5 file; numbers count as good where they are not 0."""
    values = _read_image(path, "mask", scan)
    if values.dtype.kind not in "bui":
        raise DataError(f"{path}: mask of type {values.dtype}; must be bool or whole numbers, True or 1 where good.")
    return np.asarray(_on_frames(path, "mask", values.astype(bool), scan))


def read_dark(path: Path, scan: Scan) -> NDArray[np.float32]:
    """The dark signal of the scan's frames in counts from an NPY or HDF5 file; several dark frames are averaged."""
    values = _read_image(path, "dark", scan)
    if values.dtype.kind not in "uif":
        raise DataError(f"{path}: dark signal of type {values.dtype}; it must be real numbers.")
    dark = np.asarray(_on_frames(path, "dark", values.astype(np.float32), scan))
    return _finite_dark(dark, scan, f"{path}: the dark signal")


def _finite_dark(dark: NDArray[np.float32], scan: Scan, what: str) -> NDArray[np.float32]:
    if not np.isfinite(dark if scan.mask is None else dark[scan.mask]).all():
        raise DataError(f"{what} is not finite everywhere; mask those pixels first (data.mask).")
    return np.asarray(np.where(np.isfinite(dark), dark, 0), dtype=np.float32)


def _read_image(path: Path, name: str, scan: Scan) -> NDArray[Any]:
    """An image (y, x) of the detector or of the frames, or the mean of several (n, y, x)."""
    try_apart([path], lambda: _stored_image(path, name, scan))
    values = _stored_image(path, name, scan)
    return values.mean(axis=0) if values.ndim == 3 and name == "dark" else values


def _stored_image(path: Path, name: str, scan: Scan) -> NDArray[Any]:
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r", locking="best-effort") as file:
                if name not in file:
                    raise DataError(f"{path} has no dataset /{name}. It contains: {', '.join(file)}.")
                dataset = file[name]
                _refuse_large(path, name, dataset.shape, scan)
                values = dataset[()]
        else:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
            if not isinstance(values, np.ndarray):
                values.close()
                raise DataError(f"{path} is an archive; give an NPY or HDF5 file with the {name}.")
            _refuse_large(path, name, values.shape, scan)
            values = np.array(values)
    except (OSError, ValueError, EOFError, RuntimeError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read as a {name} ({error}); give an NPY or HDF5 file.") from error
    return np.asarray(values)


def _refuse_large(path: Path, name: str, shape: tuple[int, ...] | None, scan: Scan) -> None:
    largest = scan.detector.shape if scan.detector else (scan.patch_size, scan.patch_size)
    if shape is None or math.prod(shape) > 1000 * max(math.prod(largest), scan.patch_size**2):
        raise DataError(f"{path}: {name} of shape {shape}; the frames are {scan.patch_size} × {scan.patch_size}.")


def _on_frames(path: Path, name: str, image: NDArray[Any], scan: Scan) -> NDArray[Any]:
    """The image as the frames show it."""
    size, view = scan.patch_size, scan.detector
    if view is not None and image.shape == view.shape:
        return view.see(image)
    if image.shape == (size, size):
        return image
    whole = f", the detector {view.shape[0]} × {view.shape[1]}" if view and view.shape != (size, size) else ""
    raise DataError(f"{path}: {name} of shape {image.shape}; the frames are {size} × {size}{whole}.")


def _coarser_truth(truth: Truth, crop_px: int, size: int) -> Truth:
    return Truth(
        object=resample(truth.object, crop_px, size),
        grid=coarser_grid(truth.grid, crop_px, size),
        probe=None if truth.probe is None else crop_probe(truth.probe, crop_px),
        positions_px=None if truth.positions_px is None else truth.positions_px * (crop_px / size),
    )
