"""Corrections: what single frames may do otherwise than the plain forward model says.

Every engine looks at its frames in chunks (`Estimate.look`, `Estimate.project`) and calls each correction at the same
places, so a correction is written once for all engines:

    begin_epoch  before a sweep, with the number of the epoch over all engines that worked on the estimate. Every rank
                 comes here together
    probe_of     before exit waves are made: another probe for every frame (OPR, intensity per frame)
    see          after the modulus projection of a chunk: patches, probe, exit waves and their change are at hand
                 (position gradients, per-frame coefficients). Gather here; do not move anything yet
    end_epoch    after a sweep over all frames, before momentum: move what was gathered (positions: give the estimate
                 new windows; support or smoothness: change object and probe in place). Every rank comes here together
    state        tensors equal on every rank, for the checkpoint
    frame_state  tensors whose first axis is this rank's frames, for the checkpoint; they follow their frames when a
                 job resumes on another number of ranks
    findings     values of this rank's frames that belong into the result, and what all frames share of it

What is in both states is restored by copying into the very tensors, so they must be views of what is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ptycho.config.refine import RefineConfig
from ptycho.parallel import Ranks
from ptycho_torch.engines.problem import Problem

if TYPE_CHECKING:
    from ptycho_torch.engines.estimate import Estimate, Trace


class Correction:
    """A correction that does nothing: each one overrides the places that it needs."""

    def begin_epoch(self, estimate: Estimate, ranks: Ranks, epoch: int) -> None:
        """Prepare for the sweep of this epoch (from 1). Every rank must call it."""

    def probe_of(self, rows: Tensor, probe: Tensor) -> Tensor:
        """The probe (mode, y, x) or (position, mode, y, x) of the frames at `rows`."""
        return probe

    def see(self, trace: Trace) -> None:
        """Gather from a chunk and what the modulus projection adds to its waves, on each slice, the last one first."""

    def end_epoch(self, estimate: Estimate, ranks: Ranks, epoch: int, step: float) -> None:
        """Move what was gathered. step: part of the full step that annealing left. Every rank must call it."""

    def state(self) -> dict[str, Tensor]:
        """Tensors equal on every rank that the next epoch depends on."""
        return {}

    def frame_state(self) -> dict[str, Tensor]:
        """Tensors (owned frame, …) that the next epoch depends on."""
        return {}

    def findings(self) -> dict[str, Tensor]:
        """What was found about each of this rank's frames, by name: (owned frame, …), for the result."""
        return {}

    def common_findings(self) -> dict[str, Tensor]:
        """What was found that is the same for all frames, by the name of a field of `ObjectImage`."""
        return {}

    def restored(self, estimate: Estimate) -> None:
        """Take up what was copied into the states (positions: make windows anew)."""


def corrections_of(config: RefineConfig, problem: Problem, probe: Tensor) -> tuple[Correction, ...]:
    """The corrections that the options ask for, in the order in which they act."""
    # Each of these modules imports the class above; what is not asked for is not loaded.
    made: list[Correction] = []
    if config.moves_positions:
        from ptycho_torch.engines.positions import PositionCorrection

        made.append(PositionCorrection(problem, config))
    if config.probe_variations or config.frame_intensity or config.background != "none":
        made += _light_corrections(config, problem, probe)
    if config.constrains:
        from ptycho_torch.engines.constraints import Constraints

        made.append(Constraints(config))
    return tuple(made)


def _light_corrections(config: RefineConfig, problem: Problem, probe: Tensor) -> list[Correction]:
    from ptycho_torch.engines.light import BackgroundCorrection, IntensityCorrection, ProbeVariation

    made: list[Correction] = []
    if config.probe_variations:
        made.append(ProbeVariation(problem, config, probe))
    if config.frame_intensity:
        made.append(IntensityCorrection(problem))
    if config.background != "none":
        made.append(BackgroundCorrection(problem, config))
    return made
