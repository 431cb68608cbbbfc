"""Options of the iterative engines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

EngineName = Literal["none", "rpie", "epie", "mpie", "dm", "raar", "lsqml", "gradient", "auto"]
Likelihood = Literal["amplitude", "poisson"]
Optimizer = Literal["adam", "lbfgs"]
Batching = Literal["sparse", "compact", "uniform"]
ProbeStart = Literal["scan", "autofocus", "guess"]
PositionMethod = Literal["none", "gradient"]
BackgroundKind = Literal["none", "constant", "pixel"]
PositionModel = Literal["free", "affine", "drift", "any"]

# Batches between two momentum steps of mPIE (T of Maiden, Johnson & Li 2017, in batches instead of positions).
_MPIE_EVERY = 8


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """How an iterative engine improves object and probe. Defaults were measured with benchmarks/engines.py.

    engine:        "rpie" (Maiden, Johnson & Li 2017), "epie" (Maiden & Rodenburg 2009: alpha = probe_alpha = 1),
                   "mpie" (rpie with momentum after every few batches), "lsqml" (Odstrcil et al. 2018), "dm" (Thibault
                   et al. 2009), "raar" (Luke 2005), "gradient" (Adam or L-BFGS), "auto" (mpie; lsqml
                   for thick objects; rpie where there is less than a photon per pixel), "none"
    epochs:        sweeps over all frames; the steps are annealed towards the last one
    coarse_epochs: epochs before the first, on the central half of the detector alone: an object of pixels twice as
                   wide, whose image is the start. Not with slices, nor after a first image
    batch_size:    frames updated at once, over all ranks; None: a 32nd of the scan, at least 32, at most an eighth.
                   Larger batches need fewer passes over a large object image; batches whose windows overlap much
                   converge slower
    batching:      members of a batch: "sparse" (spread evenly over the scan), "compact" (neighbours) or
                   "uniform" (random)
    alpha:         regularisation of the object's step, 0 (only local illumination) to 1 (only its maximum); None: by
                   the dose, 0.2 + 0.4/√(photons per detector pixel), at most 1
    probe_alpha:   the same for the probe
    object_step:   multiple of the step that rPIE prescribes
    probe_step:    the same for the probe
    momentum:      share of the object's velocity kept from epoch to epoch
    probe_momentum: the same for the probe
    anneal_from:   share of the epochs after which steps and momentum begin to shrink, so that photon noise averages out
    relaxation:    how far dm and raar reflect; None: 1 for dm, 0.75 for raar; it is annealed towards 1/2
    likelihood:    what the gradient engine minimises: the "poisson" deviance of the counts or that of the "amplitude"
    optimizer:     of the gradient engine: "adam" moves after each batch, "lbfgs" once an epoch on all frames
    learning_rate: Adam's step in the object, whose vacuum is 1, and in the probe relative to its mean
    slices:        slices of a thick object, through which light flies in turn; 1 is a thin object. Not for dm, raar
    slice_spacing_m: distance from one slice to the next
    tiles:         whether each of several ranks holds only the part of the object that its frames see, and exchanges
                   rims with its neighbours; with gradient and object_tv every rank holds the whole object all the same
    memory_limit_mb: largest size of the measured frames kept in memory, per rank; larger scans are read from the file
                   chunk by chunk in every epoch; None: all that this machine has free
    update_probe:  whether the probe is refined at all
    probe_start_epoch: first epoch, from 1, in which the probe moves
    probe_start:   "scan": the scan's own probe; "autofocus": the same, propagated to where it explains a part of the
                   scan best; "guess": made of the mean pattern, for scans without a probe
    probe_modes:   incoherent modes; None: as many as the start probe has
    stop_at_plateau: whether to stop before `epochs` when annealed sweeps no longer lower the R-factor

    position_correction: how recorded positions are corrected: "gradient" (Odstrcil et al. 2018) or "none"
    position_search: whether frames are first registered with their neighbours, pair by pair: for errors of many pixels
    position_model: what the corrections may be: every frame "free" but for their common affine part, which the data
                   hardly tell; one "affine" map of all; a smooth "drift" in time; or "any"
    position_limit_px: largest distance of a corrected position from the recorded one
    position_step: multiple of the step that the method prescribes
    position_start_epoch: first epoch, from 1, after which positions move
    frame_intensity: whether every frame has an intensity of its own
    background:    counts that belong to no wave: "none", one "constant", or one for each detector "pixel"
    probe_variations: parts of the probe that change from frame to frame (orthogonal probe relaxation, Odstrcil 2016)
    object_tv:     weight of the object's total variation, which smooths it and keeps edges; 0 is off
    object_amplitude_max: largest amplitude of the object, whose vacuum is 1; None: no limit
    probe_support_px: diameter of the disk outside which the probe is dark, in object pixels; None: no limit
    """

    engine: EngineName = "rpie"
    epochs: int = 30
    coarse_epochs: int = 0
    batch_size: int | None = None
    batching: Batching = "sparse"
    alpha: float | None = None
    probe_alpha: float = 0.1
    object_step: float = 1.0
    probe_step: float = 1.0
    momentum: float = 0.9
    probe_momentum: float = 0.5
    anneal_from: float = 0.4
    relaxation: float | None = None
    likelihood: Likelihood = "amplitude"
    optimizer: Optimizer = "adam"
    learning_rate: float = 0.02
    slices: int = 1
    slice_spacing_m: float | None = None
    tiles: bool = True
    memory_limit_mb: float | None = None
    update_probe: bool = True
    probe_start_epoch: int = 1
    probe_start: ProbeStart = "scan"
    probe_modes: int | None = None
    stop_at_plateau: bool = True
    position_correction: PositionMethod = "none"
    position_search: bool = False
    position_model: PositionModel = "free"
    position_limit_px: float = 5.0
    position_step: float = 1.0
    position_start_epoch: int = 4
    frame_intensity: bool = False
    background: BackgroundKind = "none"
    probe_variations: int = 0
    object_tv: float = 0.0
    object_amplitude_max: float | None = None
    probe_support_px: float | None = None

    def __post_init__(self) -> None:
        problems = [
            *_not_among("engine", self.engine, get_args(EngineName)),
            *_out_of("epochs", self.epochs, self.epochs >= 1, "at least 1"),
            *_not_among("batching", self.batching, get_args(Batching)),
            *_not_among("likelihood", self.likelihood, get_args(Likelihood)),
            *_not_among("optimizer", self.optimizer, get_args(Optimizer)),
            *_out_of(
                "relaxation",
                self.relaxation,
                self.relaxation is None or 0.5 <= self.relaxation <= 1,
                "between 0.5 and 1",
            ),
            *_out_of("learning_rate", self.learning_rate, 0 < self.learning_rate <= 1, "above 0 and at most 1"),
            *_out_of(
                "memory_limit_mb",
                self.memory_limit_mb,
                self.memory_limit_mb is None or self.memory_limit_mb > 0,
                "above 0",
            ),
            *_out_of("coarse_epochs", self.coarse_epochs, 0 <= self.coarse_epochs <= 1000, "between 0 and 1000"),
            *_out_of("slices", self.slices, 1 <= self.slices <= 64, "between 1 and 64"),
            *_out_of(
                "slice_spacing_m",
                self.slice_spacing_m,
                self.slice_spacing_m is None or 0 < self.slice_spacing_m <= 1,
                "above 0 and at most 1",
            ),
            *self._slice_contradictions(),
            *_out_of("batch_size", self.batch_size, self.batch_size is None or self.batch_size >= 1, "at least 1"),
            *_out_of("alpha", self.alpha, self.alpha is None or 0 < self.alpha <= 1, "above 0 and at most 1"),
            *_out_of("probe_alpha", self.probe_alpha, 0 < self.probe_alpha <= 1, "above 0 and at most 1"),
            *_out_of("object_step", self.object_step, 0 < self.object_step <= 2, "above 0 and at most 2"),
            *_out_of("probe_step", self.probe_step, 0 < self.probe_step <= 2, "above 0 and at most 2"),
            *_out_of("momentum", self.momentum, 0 <= self.momentum < 1, "at least 0 and below 1"),
            *_out_of("probe_momentum", self.probe_momentum, 0 <= self.probe_momentum < 1, "at least 0 and below 1"),
            *_out_of("anneal_from", self.anneal_from, 0 <= self.anneal_from <= 1, "between 0 and 1"),
            *_out_of("probe_start_epoch", self.probe_start_epoch, self.probe_start_epoch >= 1, "at least 1"),
            *_not_among("probe_start", self.probe_start, get_args(ProbeStart)),
            *_out_of("probe_modes", self.probe_modes, self.probe_modes is None or self.probe_modes >= 1, "at least 1"),
            *_not_among("position_correction", self.position_correction, get_args(PositionMethod)),
            *_not_among("position_model", self.position_model, get_args(PositionModel)),
            *_out_of("position_limit_px", self.position_limit_px, self.position_limit_px > 0, "above 0"),
            *_out_of("position_step", self.position_step, 0 < self.position_step <= 10, "above 0 and at most 10"),
            *_out_of("position_start_epoch", self.position_start_epoch, self.position_start_epoch >= 1, "at least 1"),
        ]
        if problems:
            raise ValueError("; ".join(problems))

    def _slice_contradictions(self) -> list[str]:
        if self.slices <= 1:
            return []
        found = []
        if self.slice_spacing_m is None:
            found.append(f"slices = {self.slices}: needs slice_spacing_m, the distance from one slice to the next")
        if self.coarse_epochs:
            found.append(f"slices = {self.slices}: coarse epochs know one thin object; leave coarse_epochs out")
        if self.engine in ("dm", "raar"):
            found.append(
                f'slices = {self.slices}: engine "{self.engine}" projects onto one thin object;'
                ' choose "mpie", "rpie", "lsqml" or "gradient"'
            )
        return found

    @property
    def moves_positions(self) -> bool:
        """Whether any correction of positions is on."""
        return self.position_correction != "none" or self.position_search

    @property
    def uses_tiles(self) -> bool:
        """Whether several ranks hold tiles: what looks at pixels beyond a rank's own frames needs the whole object."""
        return self.tiles and self.engine != "gradient" and self.object_tv == 0

    @property
    def constrains(self) -> bool:
        """Whether any constraint on object or probe is on."""
        return self.object_tv > 0 or self.object_amplitude_max is not None or self.probe_support_px is not None

    def object_alpha(self, photons_per_pixel: float) -> float:
        """Regularisation of the object's step for a dose: ePIE is rPIE with alpha = 1."""
        if self.engine == "epie":
            return 1.0
        if self.alpha is not None:
            return self.alpha
        # Fitted to the best of 0.1, 0.2, 0.3, 0.5 and 1 at 0.2, 2 and 200 photons per pixel.
        return min(1.0, 0.2 + 0.4 / math.sqrt(photons_per_pixel))

    @property
    def momentum_every(self) -> int | None:
        """Batches between two momentum steps; None: momentum acts between epochs."""
        return _MPIE_EVERY if self.engine == "mpie" else None

    @property
    def effective_relaxation(self) -> float:
        """How far the projection engines reflect: the difference map is RAAR with 1."""
        if self.relaxation is not None:
            return self.relaxation
        return 1.0 if self.engine == "dm" else 0.75

    @property
    def effective_probe_alpha(self) -> float:
        """Regularisation of the probe's step: ePIE is rPIE with alpha = 1."""
        return 1.0 if self.engine == "epie" else self.probe_alpha


def _not_among(name: str, value: str, known: tuple[str, ...]) -> list[str]:
    return _out_of(name, value, value in known, f"one of {known}")


def _out_of(name: str, value: object, is_good: bool, expected: str) -> list[str]:
    return [] if is_good else [f"{name} = {value!r}: must be {expected}"]
