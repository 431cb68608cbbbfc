"""Coarse to fine: the middle of the detector alone sees an object of larger pixels, whose slow phase comes sooner."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ptycho.config.refine import RefineConfig
from ptycho.data.image import ObjectImage
from ptycho.data.preparation import crop, crop_probe
from ptycho.data.scan import Scan
from ptycho.errors import DataError


def coarse_scan(scan: Scan, probe: NDArray[np.complex64]) -> Scan:
    """The scan as the central half of the detector sees it, on the same field of view, with its probe (mode, y, x).

    Raises DataError for frames that cannot be halved.
    """
    if scan.geometry.is_near_field or scan.patch_size % 4:
        raise DataError(
            f"refine.coarse_epochs: {scan.name} has frames of {scan.patch_size} pixels"
            f"{' in the near field' if scan.geometry.is_near_field else ''}; only far fields of a multiple of four"
            " pixels have a coarser middle. Leave the key out."
        )
    return crop(replace(scan, probe=probe, object_grid=scan.grid, object_start=None), scan.patch_size // 2)


def coarse_config(config: RefineConfig) -> RefineConfig:
    """The configuration of the coarse epochs: object and probe alone are handed on, so nothing else is looked for."""
    return replace(
        config,
        coarse_epochs=0,
        tiles=False,
        position_correction="none",
        position_search=False,
        frame_intensity=False,
        background="none",
        probe_variations=0,
        stop_at_plateau=False,
    )


def finer(
    image: ObjectImage, scan: Scan, probe: NDArray[np.complex64]
) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """Object (y, x) on the scan's grid and probe (mode, y, x) of its frames, from what coarse epochs found.

    probe: (mode, y, x), from which they began; what of it the middle of the detector does not see stays as it was
    """
    assert image.probe is not None  # every engine gives one
    height, width = scan.grid.shape
    fine = _doubled(_doubled(image.object).T).T[:height, :width]
    size, half = scan.patch_size, scan.patch_size // 2
    middle = crop_probe(probe, half)
    power = np.sqrt((np.abs(image.probe) ** 2).sum() / (np.abs(middle) ** 2).sum())
    found = crop_probe(image.probe, size)
    n_modes = min(len(found), len(probe))
    found[:n_modes] += (power * (probe - crop_probe(middle, size))[:n_modes]).astype(np.complex64)
    return np.ascontiguousarray(fine), found


def _doubled(image: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """The image (y, x) with pixels of half the height, linear between their centres; the first one stays in place."""
    result = np.empty((2 * len(image) - 1, image.shape[1]), np.complex64)
    result[::2] = image
    result[1::2] = (image[1:] + image[:-1]) / 2
    return result
