"""What a network that is trained on no scan at all is shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ptycho.config.simulate import ObjectKind

# data.source of a training on random scenes, and trained_on in its model card.
SYNTHETIC = "synthetic"
SyntheticProbe = Literal["zone_plate", "gaussian", "disk", "file"]
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Scenes drawn at random, without end and without files, for training with data.source = "synthetic".

    A range [low, high] is drawn from evenly; phase_range_rad, feature_px and photons evenly in their logarithm. Raises
    ValueError with every fault found.

    patch_sizes:      detector pixels along each side of a frame; each batch takes one of these, larger frames in
                      smaller batches
    objects:          kinds of object: natural, leaves, field, lines, grains, star
    phase_range_rad:  phase from lowest to highest
    amplitude_min:    amplitude where the object absorbs most
    feature_px:       size of typical features, in object pixels
    photons:          mean photons of a frame
    probes:           kinds of probe: zone_plate, gaussian, disk, file
    probe_file:       file of measured probes for kind "file": .npz, each array (…, y, x) complex; the strongest mode is
                      taken and scaled to the drawn width
    probe_diameter:   width of the beam, as a share of the frame's
    wrong_share:      share of the samples whose network is told a somewhat wrong probe
    probe_error:      largest relative error of such a probe's defocus and central stop; a third of it for its aperture
    step:             mean distance of a group's neighbours, as a share of the beam's width; matters with gridsize > 1
    frames_per_scene: frames cut out of one scene
    batches_per_epoch: batches that count as one epoch
    validation_batches: batches, the same after each epoch, that are never trained on
    """

    patch_sizes: tuple[int, ...] = (64,)
    objects: tuple[ObjectKind, ...] = ("natural", "leaves", "field", "lines", "grains")
    phase_range_rad: Range = (0.3, 2.5)
    amplitude_min: Range = (0.6, 1.0)
    feature_px: Range = (3.0, 16.0)
    photons: Range = (1e4, 1e7)
    probes: tuple[SyntheticProbe, ...] = ("zone_plate", "gaussian", "disk")
    probe_file: Path | None = None
    probe_diameter: Range = (0.2, 0.42)
    wrong_share: float = 0.5
    probe_error: float = 0.15
    step: Range = (0.15, 0.5)
    frames_per_scene: int = 16
    batches_per_epoch: int = 100
    validation_batches: int = 8

    def __post_init__(self) -> None:
        problems = [*self._wrong_ranges(), *self._wrong_choices(), *self._wrong_numbers()]
        if problems:
            raise ValueError("; ".join(problem.rstrip(".") for problem in problems))

    def _wrong_ranges(self) -> list[str]:
        found = []
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not (low <= value[0] <= value[1] <= high):
                limits = f"at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"
                found.append(f"{name} = {list(value)}: must be [lowest, highest], both {limits}.")
        return found

    def _wrong_choices(self) -> list[str]:
        choices = {"objects": get_args(ObjectKind), "probes": get_args(SyntheticProbe)}
        found = [
            f"{name} = {list(getattr(self, name))}: must be one or more of {', '.join(known)}."
            for name, known in choices.items()
            if not getattr(self, name) or not set(getattr(self, name)) <= set(known)
        ]
        if ("file" in self.probes) != (self.probe_file is not None):
            found.append('probe_file: is given where probes holds "file", and only there.')
        return found

    def _wrong_numbers(self) -> list[str]:
        found = []
        if not self.patch_sizes or any(size < 32 or size % 16 for size in self.patch_sizes):
            found.append(f"patch_sizes = {list(self.patch_sizes)}: must be multiples of 16, at least 32.")
        for name, low, high in (("wrong_share", 0, 1), ("probe_error", 0, 0.5)):
            if not low <= getattr(self, name) <= high:
                found.append(f"{name} = {getattr(self, name):g}: must be between {low:g} and {high:g}.")
        found += [
            f"{name} = {getattr(self, name)}: must be at least 1."
            for name in ("frames_per_scene", "batches_per_epoch", "validation_batches")
            if getattr(self, name) < 1
        ]
        return found


# Lowest and highest value that each range may have.
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("phase_range_rad", 1e-3, 20),
    ("amplitude_min", 0, 1),
    ("feature_px", 1, 1e3),
    ("photons", 1, 4e9),
    ("probe_diameter", 0.05, 0.5),
    ("step", 0.01, 1),
)
