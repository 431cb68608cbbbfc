"""What every engine that sweeps over the frames shares: estimate, gauge, history, stopping, state."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.config.refine import RefineConfig
from ptycho.data.grid import ObjectGrid
from ptycho.data.image import ObjectImage
from ptycho.parallel import CountedRanks, Ranks
from ptycho_torch.engines.corrections import corrections_of
from ptycho_torch.engines.estimate import Estimate
from ptycho_torch.engines.interface import EpochResult
from ptycho_torch.engines.problem import Problem
from ptycho_torch.engines.schedule import annealed_step, check_convergence
from ptycho_torch.engines.start import illumination, orthogonal_modes, start_object, start_probe
from ptycho_torch.engines.tiles import Tile

# Wave pixels handled at once on a CPU: half a MB of complex64 stays in the cache, which halves the time of a sweep.
_CHUNK_PX_CPU = 2**16
_CHUNK_PX_GPU = 2**26


class SweepingEngine:
    """Base of the siblings. Each writes `_sweep`; those that keep more than object and probe extend the states.

    Siblings look at frames chunk by chunk (`_chunks`, `Estimate.look`, `Estimate.project`), tell each correction
    (`Correction.see`), add to `Sums` and move the estimate by them. See `corrections.py` for where corrections act.
    """

    def __init__(
        self,
        problem: Problem,
        config: RefineConfig,
        ranks: Ranks,
        probe: NDArray[np.complex64],
        object_start: NDArray[np.complex64] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """probe: (mode, y, x), any power; object_start: (y, x) on the problem's grid, any scale, or None for flat.

        Every rank must call it with the same starts. Raises ValueError when a start cannot be used.
        """
        self.config = config
        self._problem, self._ranks, self._seed = problem, CountedRanks(ranks), seed
        first_probe = start_probe(probe, problem, config.probe_modes)
        image, self._start_scale = start_object(object_start, first_probe, problem, ranks, config.slices)
        self._start = object_start
        spacing_m = config.slice_spacing_m if config.slices > 1 else None
        self.estimate = Estimate(problem, image, first_probe, corrections_of(config, problem, first_probe), spacing_m)
        self._power = float(first_probe.abs().square().sum(dtype=torch.float64))
        self._history: list[float] = []
        limit = _CHUNK_PX_CPU if problem.device.type == "cpu" else _CHUNK_PX_GPU
        self._chunk_size = max(1, limit // first_probe.numel())

    @property
    def grid(self) -> ObjectGrid:
        return self._problem.whole_grid

    @property
    def tile(self) -> Tile | None:
        """The part of the object that this rank holds; None: all of it."""
        return self._problem.tile

    @property
    def canvas_names(self) -> tuple[str, ...]:
        """The tensors of the state that lie on the object's grid, or on the tile's; siblings add theirs."""
        return ("object",)

    @property
    def object(self) -> NDArray[np.complex64]:
        """(y, x) transmission on `grid`, the product of all slices; the probe has the photons of the data.

        Every rank must come here; where ranks hold tiles, all but rank 0 get their own.
        """
        return self._gathered(self._slices().prod(0), self._unlit().prod(0))

    @property
    def probe(self) -> NDArray[np.complex64]:
        """(mode, y, x), sqrt(photons), orthogonal modes, strongest first."""
        modes: NDArray[np.complex64] = orthogonal_modes(self.estimate.probe * self._gauge()).cpu().numpy()
        return modes

    def image(self) -> ObjectImage:
        """Object, probe, coverage (photons per object pixel), what corrections found. Every rank must call it."""
        problem, gauge = self._problem, self._gauge()
        light = illumination(self.estimate.probe * gauge, problem, self._ranks, self.estimate.windows)
        frames: dict[str, NDArray[Any]] = {}
        common: dict[str, NDArray[Any]] = {}
        for correction in self.estimate.corrections:
            frames |= {name: self._of_all_frames(own) for name, own in correction.findings().items()}
            common |= {name: values.cpu().numpy() for name, values in correction.common_findings().items()}
        if "variations" in common:
            common["variations"] = (common["variations"] * gauge).astype(np.complex64)
        if "position_offset_px" in frames:
            corners = self._of_all_frames(problem.whole_corners_px) + frames["position_offset_px"]
            common["positions_px"] = corners + np.asarray(self.grid.origin_px) + problem.patch_size // 2
        return ObjectImage(
            object=self.object,
            coverage=self._gathered(light, torch.zeros(())),
            # Rank 0 has the whole, the others their tiles.
            grid=self.grid if self._ranks.rank == 0 else problem.grid,
            # Turning the modes would part the variations from the mode that they belong to.
            probe=(self.estimate.probe * gauge).cpu().numpy() if "variations" in common else self.probe,
            per_frame=frames,
            slices=self._gathered(self._slices(), self._unlit()) if self.config.slices > 1 else None,
            slice_spacing_m=self.config.slice_spacing_m if self.config.slices > 1 else None,
            **common,
        )

    @torch.no_grad()
    def run_epoch(self, epoch: int) -> EpochResult:
        """Sweep once over all frames; see `Engine.run_epoch`."""
        started_s = time.perf_counter()
        sent_before, waited_before_s = self._ranks.sent_bytes, self._ranks.seconds
        step = self._step(epoch)
        number = int(self.estimate.n_epochs) + 1
        for correction in self.estimate.corrections:
            correction.begin_epoch(self.estimate, self._ranks, number)
        self._history.append(self._sweep(epoch, step) / self._problem.amplitude_sum)
        is_converged = check_convergence(self._history, self.config)
        for correction in self.estimate.corrections:
            correction.end_epoch(self.estimate, self._ranks, number, step)
        self.estimate.n_epochs += 1
        self._end_epoch(epoch, step)
        return EpochResult(
            epoch=epoch,
            r_factor=self._history[-1],
            seconds=time.perf_counter() - started_s,
            step=step,
            is_converged=is_converged,
            sent_bytes=self._ranks.sent_bytes - sent_before,
            communication_s=self._ranks.seconds - waited_before_s,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """All that the next epoch depends on and every rank holds alike, as copies on the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self._state().items()}

    def frame_state_dict(self) -> dict[str, Tensor]:
        """What the next epoch depends on of each frame that this rank owns: (owned frame, …), copies on the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self._frame_state().items()}

    def load_state_dict(self, state: dict[str, Tensor], frame_state: dict[str, Tensor] | None = None) -> None:
        """Go on exactly where the states were taken. Raises ValueError when they are of another problem."""
        own, own_frames, frames = self._state(), self._frame_state(), frame_state or {}
        for kind, needed, given in [("engine", own, state), ("frame", own_frames, frames)]:
            for name, tensor in needed.items():
                if name not in given or (name != "history" and given[name].shape != tensor.shape):
                    found = tuple(given[name].shape) if name in given else "absent"
                    raise ValueError(f"{kind} state {name!r} is {found}, this scan needs {tuple(tensor.shape)}")
        for needed, given in [(own, state), (own_frames, frames)]:
            for name, tensor in needed.items():
                if name != "history":
                    tensor.copy_(given[name])
        self._history = state["history"].tolist()
        for correction in self.estimate.corrections:
            correction.restored(self.estimate)

    def _of_all_frames(self, own: Tensor) -> NDArray[Any]:
        """Values (position, …) of the whole scan from those of this rank's frames, on every rank."""
        values = own.detach().cpu().numpy()
        everyone = np.zeros((self._problem.n_total, *values.shape[1:]), values.dtype)
        everyone[self._problem.frame_index] = values
        self._ranks.all_sum(everyone.view(everyone.real.dtype))
        return everyone

    def _gathered(self, canvas: Tensor, outside: Tensor) -> NDArray[Any]:
        """A canvas (…, y, x) as an array; of tiles the whole on rank 0, elsewhere the tile. Every rank must call it."""
        tile = self._problem.tile
        whole = None if tile is None else tile.gather(canvas, self._ranks, outside)
        values: NDArray[Any] = (canvas if whole is None else whole).cpu().numpy()
        return values

    def _sweep(self, epoch: int, step: float) -> float:
        """Go over all frames once; returns Σ|√k − √λ| over all ranks, each frame as it was met."""
        raise NotImplementedError

    def _step(self, epoch: int) -> float:
        """Part of the full step in this epoch."""
        return annealed_step(epoch, self.config)

    def _end_epoch(self, epoch: int, step: float) -> None:
        """What an engine does after a sweep, its history already longer by one."""

    def _state(self) -> dict[str, Tensor]:
        """The tensors themselves, by name; siblings add theirs."""
        state = {
            "object": self.estimate.object,
            "probe": self.estimate.probe,
            "n_epochs": self.estimate.n_epochs,
            "history": torch.tensor(self._history, dtype=torch.float64),
        }
        for correction in self.estimate.corrections:
            state |= correction.state()
        return state

    def _frame_state(self) -> dict[str, Tensor]:
        """The tensors themselves (owned frame, …), by name; siblings add theirs."""
        state: dict[str, Tensor] = {}
        for correction in self.estimate.corrections:
            state |= correction.frame_state()
        return state

    def _chunks(self, rows: Tensor) -> Iterator[Tensor]:
        """Rows in pieces whose waves fit the cache."""
        return (rows[start : start + self._chunk_size] for start in range(0, len(rows), self._chunk_size))

    def _batches(self, epoch: int) -> list[Tensor]:
        """This rank's rows of each batch of an epoch."""
        size = self.config.batch_size or default_batch_size(self._problem.n_total)
        batches = self._problem.batches(size, self._seed, epoch, self.config.batching)
        self._problem.plan(rows for members in batches for rows in self._chunks(members))
        return batches

    def _moves_probe(self, epoch: int) -> bool:
        return self.config.update_probe and epoch >= self.config.probe_start_epoch

    def _slices(self) -> Tensor:
        """The slices (slice, y, x); together they take over what the probe has too little of."""
        return self.estimate.object / float(self._gauge() ** (1 / self.config.slices))

    def _unlit(self) -> Tensor:
        """The slices as no frame has moved them, (slice, y, x), or (slice, 1, 1) where pixels are alike; on the CPU."""
        n_slices = self.config.slices
        if self._start is None or self._ranks.rank != 0:
            slices = torch.ones(n_slices, 1, 1, dtype=torch.complex64)
        else:
            slices = torch.ones(n_slices, *self._start.shape, dtype=torch.complex64)
            slices[n_slices // 2] = torch.as_tensor(self._start) * self._start_scale
        return slices / float(self._gauge() ** (1 / n_slices))

    def _gauge(self) -> float:
        """Factor that gives the probe the photons of the data; the object is divided by it."""
        return math.sqrt(self._power / float(self.estimate.probe.abs().square().sum(dtype=torch.float64)))


def default_batch_size(n_frames: int) -> int:
    """A 32nd of the scan, at least 32, and never so much that an epoch has fewer than 8 batches.

    One batch of all frames moves object and probe at once by full steps that each explain the whole residual: together
    they overshoot, and small scans diverge.
    """
    return max(1, min(max(32, math.ceil(n_frames / 32)), n_frames // 8))
