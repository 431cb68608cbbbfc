"""What to simulate: the options of a scan with known truth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args, get_type_hints

from ptycho.errors import SpecError

ObjectKind = Literal["natural", "leaves", "star", "field", "lines", "grains"]
ProbeKind = Literal["zone_plate", "gaussian", "disk", "measured"]
PathKind = Literal["raster", "jittered", "spiral", "fermat"]
StartProbe = Literal["wrong", "true", "none"]

# λ·z/dx² of a zone plate whose beam is about 20 object pixels wide at the default aperture.
ZONE_PLATE_DEFOCUS_PX2 = 60.0


@dataclass(frozen=True, kw_only=True)
class SimulateConfig:
    """A simulated measurement. The defaults are a scan as a beamline takes it, with a start as a beamline gives it:
    1,024 frames of 64², 65 % overlap, a zone-plate beam about 20 px wide, and a probe guess that is somewhat wrong.

    The sentence in each annotation is the field's documentation, on the command line too (option_help). Lengths are
    in object pixels unless the name says otherwise.
    Raises SpecError with every fault found.
    """

    name: Annotated[str, "Name of the scan."] = "simulated"
    seed: Annotated[int, "Another seed is another object, other positions and other noise."] = 0
    patch_size: Annotated[int, "Detector pixels along each side of a frame (N)."] = 64
    photons: Annotated[float, "Mean photons that fall on the sample in each frame."] = 1e6
    background_photons: Annotated[float, "Mean background counts in each detector pixel of each frame."] = 0.0

    object: Annotated[ObjectKind, "What is measured."] = "natural"
    phase_range_rad: Annotated[float, "Phase of the object, from lowest to highest; it is centred on zero."] = 1.2
    amplitude_min: Annotated[float, "Amplitude where the object absorbs most; 1 is vacuum."] = 0.8
    feature_px: Annotated[float, "Size of the object's typical features, in object pixels."] = 8.0

    path: Annotated[PathKind, "Order and place of the scan positions."] = "jittered"
    n_positions: Annotated[int, "Number of scan positions, and so of frames."] = 1024
    step_px: Annotated[float, "Mean distance of neighbouring positions, in object pixels."] = 7.0
    jitter_px: Annotated[float, "Largest random shift of a position along each axis; for path jittered."] = 1.5
    position_error_px: Annotated[float, "Standard deviation, along each axis, of recorded minus true positions."] = 0.0
    position_drift_px: Annotated[
        float, "Distance that true positions drift from the recorded ones during the scan."
    ] = 0.0
    position_scale_error: Annotated[float, "Relative error of the recorded positions' scale."] = 0.0
    position_rotation_deg: Annotated[
        float, "Angle by which the recorded positions are turned against the true ones."
    ] = 0.0

    probe: Annotated[ProbeKind, "Shape of the illumination."] = "zone_plate"
    probe_aperture: Annotated[float, "Outer radius of a zone plate's far field, in cycles per object pixel."] = 0.22
    probe_stop: Annotated[float, "Radius of the central stop's shadow, in cycles per object pixel; 0 is no stop."] = (
        0.07
    )
    probe_diameter_px: Annotated[float, "Width at half intensity of a gaussian or disk probe, in object pixels."] = 20.0
    probe_defocus_px2: Annotated[
        float | None, "Defocus λz/dx² in square object pixels; left out: 60 for a zone plate, 0 for the others."
    ] = None
    probe_file: Annotated[Path | None, "File of a measured probe: .npy, .npz or a scan."] = None
    probe_key: Annotated[str | None, "Name of the probe's array in an .npz file."] = None
    mode_fractions: Annotated[tuple[float, ...], "Share of the photons in each incoherent probe mode."] = (1.0,)
    intensity_variation: Annotated[
        float, "Relative standard deviation of the beam's intensity from frame to frame."
    ] = 0.0
    probe_variation: Annotated[
        float, "Share of the photons in a part of the probe that changes from frame to frame."
    ] = 0.0

    n_slices: Annotated[int, "Slices of a thick object, each a part of the whole with features of its own."] = 1
    slice_spacing_m: Annotated[float | None, "Distance of neighbouring slices; needed when there are several."] = None

    start_probe: Annotated[StartProbe, "Probe that the scan hands to a reconstruction."] = "wrong"
    defocus_error: Annotated[float, "Relative error of the wrong probe's defocus."] = -0.15
    aperture_error: Annotated[float, "Relative error of the wrong probe's aperture or diameter."] = -0.05
    stop_error: Annotated[float, "Relative error of the wrong probe's central stop."] = -0.15

    energy_eV: Annotated[float, "Photon energy."] = 8800.0
    distance_m: Annotated[float, "Distance from sample to detector."] = 2.0
    focus_distance_m: Annotated[
        float | None, "Distance from focus to sample of a near-field measurement; left out: the far field."
    ] = None
    detector_pixel_m: Annotated[float, "Side of one detector pixel."] = 75e-6

    def __post_init__(self) -> None:
        problems = [*self._wrong_numbers(), *self._wrong_choices(), *self._contradictions()]
        if problems:
            raise SpecError(problems)

    @property
    def defocus_px2(self) -> float:
        """The defocus λz/dx² with its default resolved."""
        if self.probe_defocus_px2 is not None:
            return self.probe_defocus_px2
        return ZONE_PLATE_DEFOCUS_PX2 if self.probe == "zone_plate" else 0.0

    def _wrong_numbers(self) -> list[str]:
        found = []
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                limits = f"at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"
                found.append(f"{name} = {value:g}: must be {limits}.")
        return found

    def _wrong_choices(self) -> list[str]:
        choices = {"object": ObjectKind, "probe": ProbeKind, "path": PathKind, "start_probe": StartProbe}
        return [
            f"{name} = {getattr(self, name)!r}: must be one of {', '.join(get_args(kinds))}."
            for name, kinds in choices.items()
            if getattr(self, name) not in get_args(kinds)
        ]

    def _contradictions(self) -> list[str]:
        found = []
        if self.probe_stop >= self.probe_aperture:
            found.append(
                f"probe_stop = {self.probe_stop:g}: must be smaller than probe_aperture = {self.probe_aperture:g},"
                " or no light passes."
            )
        if self.n_slices > 1 and self.slice_spacing_m is None:
            found.append(f"n_slices = {self.n_slices}: needs slice_spacing_m, the distance of neighbouring slices.")
        if not self.mode_fractions or min(self.mode_fractions) <= 0 or not math.isclose(sum(self.mode_fractions), 1):
            found.append(f"mode_fractions = {self.mode_fractions}: must be positive numbers that add up to 1.")
        if self.probe == "measured" and self.probe_file is None:
            found.append("probe = 'measured' needs probe_file: the .npy, .npz or scan file to take the probe from.")
        if self.probe != "measured" and self.probe_file is not None:
            found.append(f"probe_file is set but probe = {self.probe!r}; set probe = 'measured' or leave the file out.")
        if self.probe == "measured" and self.start_probe == "wrong" and self.defocus_px2 * self.defocus_error == 0:
            found.append(
                "start_probe = 'wrong': a measured probe is made wrong by its defocus, which is 0;"
                " set probe_defocus_px2, or start_probe to 'true' or 'none'."
            )
        if self.probe == "measured" and len(self.mode_fractions) > 1:
            found.append("mode_fractions: a measured probe brings its own modes; leave mode_fractions out.")
        return found


# Lowest and highest value that each number may have; NaN lies in no range.
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("seed", 0, 2**63 - 1),
    ("patch_size", 8, 4096),
    # Together at most what one detector pixel of 32 bits can count.
    ("photons", 1e-3, 4e9),
    ("background_photons", 0, 1e8),
    ("phase_range_rad", 0, 100),
    ("amplitude_min", 0, 1),
    ("feature_px", 1, 1e4),
    ("n_positions", 1, 10**8),
    ("step_px", 1e-3, 1e4),
    ("jitter_px", 0, 1e4),
    ("position_error_px", 0, 1e3),
    ("position_drift_px", 0, 1e3),
    ("position_scale_error", -0.5, 0.5),
    ("position_rotation_deg", -180, 180),
    ("intensity_variation", 0, 1),
    ("probe_variation", 0, 0.5),
    ("n_slices", 1, 64),
    ("slice_spacing_m", 1e-12, 1),
    ("focus_distance_m", 1e-6, 1e9),
    ("probe_aperture", 0.01, 0.5),
    ("probe_stop", 0, 0.5),
    ("probe_diameter_px", 1, 1e4),
    ("probe_defocus_px2", -1e6, 1e6),
    ("defocus_error", -10, 10),
    ("aperture_error", -0.9, 1),
    ("stop_error", -1, 1),
    ("energy_eV", 1, 1e6),
    ("distance_m", 1e-6, 1e4),
    ("detector_pixel_m", 1e-9, 1),
)


def option_help() -> dict[str, str]:
    """The sentence that documents each field of SimulateConfig, by field name."""
    return {name: hint.__metadata__[0] for name, hint in get_type_hints(SimulateConfig, include_extras=True).items()}
