"""The model card: what a network has been trained on, and whether a scan is like it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho.config.synthetic import SyntheticConfig
from ptycho.data.scan import Scan

# A scan's value may lie outside the trained range by this factor before it is warned of.
DOSE_SLACK = 3.0
DIAMETER_SLACK = 1.25
# Share of the probe's power inside its diameter.
_POWER_SHARE = 0.9


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a network was trained on.

    trained_on:     "scan", or "synthetic" for random scenes under many probes; the latter serves frames of any size
    patch_sizes:    detector pixels along each side of a frame
    photons:        mean photons of a frame, lowest and highest
    probe_diameter: width of the beam as a share of the frame's, lowest and highest; see `probe_diameter`
    objects:        in words or as statistics, JSON-like
    n_patterns:     patterns shown in training, the same one counted as often as it was shown
    """

    trained_on: str
    patch_sizes: tuple[int, ...]
    photons: tuple[float, float]
    probe_diameter: tuple[float, float]
    objects: dict[str, Any]
    n_patterns: int = 0

    @classmethod
    def of_scenes(cls, synthetic: SyntheticConfig, n_patterns: int) -> ModelCard:
        """The card of a network that was trained on random scenes."""
        facts = asdict(synthetic)
        names = ("objects", "phase_range_rad", "amplitude_min", "feature_px", "probes", "wrong_share", "probe_error")
        return cls(
            trained_on="synthetic",
            patch_sizes=tuple(sorted(set(synthetic.patch_sizes))),
            photons=synthetic.photons,
            probe_diameter=synthetic.probe_diameter,
            objects={name: list(value) if isinstance(value := facts[name], tuple) else value for name in names},
            n_patterns=n_patterns,
        )

    @classmethod
    def of_scan(cls, scan: Scan, mean_photons: float, n_patterns: int) -> ModelCard:
        """The card of a network that was trained on one scan."""
        assert scan.probe is not None
        width = probe_diameter(scan.probe)
        return cls(
            trained_on="scan",
            patch_sizes=(scan.patch_size,),
            photons=(mean_photons, mean_photons),
            probe_diameter=(width, width),
            objects={"scan": scan.name, "n_positions": scan.n_positions},
            n_patterns=n_patterns,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelCard:
        """The card that `asdict` made. Raises KeyError, TypeError or ValueError for anything else."""
        low, high = (float(value) for value in values["photons"])
        narrow, wide = (float(value) for value in values["probe_diameter"])
        return cls(
            trained_on=str(values["trained_on"]),
            patch_sizes=tuple(int(size) for size in values["patch_sizes"]),
            photons=(low, high),
            probe_diameter=(narrow, wide),
            objects=dict(values["objects"]),
            n_patterns=int(values["n_patterns"]),
        )

    @property
    def serves_any_size(self) -> bool:
        return self.trained_on == "synthetic"

    def doubts(self, probe: NDArray[np.complex64], photons: float) -> list[str]:
        """Sentences, with the numbers, about what in a scan lies outside of what the network has seen.

        probe: (mode, y, x); photons: the scan's mean photons per frame
        """
        found = []
        size = probe.shape[-1]
        if size not in self.patch_sizes:
            sizes = ", ".join(str(known) for known in self.patch_sizes)
            found.append(f"frames are {size} pixels wide, it was trained on {sizes}")
        width = probe_diameter(probe)
        if _outside(width, self.probe_diameter, DIAMETER_SLACK):
            low, high = self.probe_diameter
            found.append(f"the probe takes {width:.2f} of the frame's width, it was trained on {low:.2f} to {high:.2f}")
        if _outside(photons, self.photons, DOSE_SLACK):
            low, high = self.photons
            found.append(f"{photons:.2g} photons fall on a frame, it was trained on {low:.2g} to {high:.2g}")
        return found


def probe_diameter(probe: NDArray[np.complex64]) -> float:
    """Diameter of the circle about the centre of mass that holds 90 % of a probe's power, as a share of its width."""
    power = (np.abs(probe) ** 2).sum(0).astype(np.float64)
    y, x = np.indices(power.shape)
    total = power.sum()
    radius = np.hypot(y - (y * power).sum() / total, x - (x * power).sum() / total).ravel()
    order = radius.argsort()
    held = power.ravel()[order].cumsum()
    inside = int(np.searchsorted(held, _POWER_SHARE * held[-1]))
    return float(2 * radius[order[inside]] / power.shape[-1])


def _outside(value: float, span: tuple[float, float], slack: float) -> bool:
    return not span[0] / slack <= value <= span[1] * slack
