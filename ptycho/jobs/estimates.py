"""What a job will need: each rank's share of the scan, its memory by a stated model, its time by earlier runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ptycho.data.scan import Scan
from ptycho.data.sharding import hilbert_order, shard_bounds
from ptycho.errors import RequestError
from ptycho.jobs.json_file import read_json
from ptycho.jobs.resolved_job import ResolvedJob

# Halos of more ranks than this are not counted one by one: pieces of a scan are alike.
_COUNTED_RANKS = 64
# Runs of an output folder that are looked through for a rate, the newest first.
_LOOKED_AT = 50
# The module that knows which neighbours a network's patches need; it needs torch, so it is named by a string.
_NEIGHBOURS_MODULE = "ptycho_torch.phase_sync"


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one rank has of the scan. halo: frames of others that it reads too."""

    rank: int
    frames: int
    halo: int


def shares(job: ResolvedJob, scan: Scan) -> list[Share]:
    """The share of every rank; of very many ranks, of the first and the last."""
    size = job.resources.n_ranks
    counted = range(size) if size <= _COUNTED_RANKS else (0, size - 1)
    order = hilbert_order(scan.positions_px)
    found = []
    for rank in counted:
        first, last = shard_bounds(scan.n_positions, rank, size)
        halo = 0
        if job.uses_network and size > 1:
            neighbours = import_module(_NEIGHBOURS_MODULE).neighbours_of
            # Of the whole frame; the lit window is narrower, so this is the most that it can be.
            halo = len(neighbours(order[first:last], scan.positions_px, scan.patch_size))
        found.append(Share(rank=rank, frames=last - first, halo=halo))
    return found


@dataclass(frozen=True, kw_only=True)
class MemoryModel:
    """The memory that a rank holds at its peak, on a CPU, in MB; `benchmarks/memory_model.py` compares it with runs.

    program:  interpreter, libraries and figures
    frames:   what each of its own frames and its halo keeps: counts and amplitudes, for a network its patches too
    canvas:   complex images of the whole object grid and their weights
    network:  weights, gradients and Adam's moments, and the workspace of the library that convolves
    step:     what one step makes: for a network the activations of its share of a batch, kept for the gradient
    """

    program_mb: float
    frames_mb: float
    canvas_mb: float
    network_mb: float
    step_mb: float

    @property
    def total_mb(self) -> float:
        """The sum."""
        return self.program_mb + self.frames_mb + self.canvas_mb + self.network_mb + self.step_mb


# Fitted to the measured peaks of whole runs (docs/performance.md): terms say what grows with what, the fit how fast.
_PROGRAM_MB, _PROGRAM_NETWORK_MB = 375.0, 615.0
_FRAME_BYTES, _FRAME_BYTES_NETWORK = 8.0, 16.0
_CANVAS_BYTES = 80.0
# The evaluate stage looks at so many frames at once.
_EVALUATED_AT_ONCE, _EVALUATED_BYTES = 256, 12.0
# A network with so many channels on its first level: weights grow with their square, activations with their number.
_CHANNELS_PER_SCALE, _WEIGHTS_MB, _ACTIVATION_BYTES = 16, 0.08, 18.5


def memory_of(job: ResolvedJob, scan: Scan, share: Share) -> MemoryModel:
    """The memory of a rank with this share."""
    frame_px, canvas_px = scan.patch_size**2, math.prod(scan.grid.shape)
    step_bytes = min(share.frames, _EVALUATED_AT_ONCE) * _EVALUATED_BYTES
    network_mb = 0.0
    if job.uses_network:
        members = math.ceil(job.training.batch_size / job.resources.n_ranks) * job.training.model.gridsize**2
        channels = _CHANNELS_PER_SCALE * job.training.model.n_filters_scale
        step_bytes = max(step_bytes, members * channels * _ACTIVATION_BYTES)
        network_mb = channels**2 * _WEIGHTS_MB
    frame_bytes = _FRAME_BYTES_NETWORK if job.uses_network else _FRAME_BYTES
    return MemoryModel(
        program_mb=_PROGRAM_NETWORK_MB if job.uses_network else _PROGRAM_MB,
        frames_mb=(share.frames + share.halo) * frame_px * frame_bytes / 1e6,
        canvas_mb=canvas_px * _CANVAS_BYTES / 1e6,
        network_mb=network_mb,
        step_mb=step_bytes * frame_px / 1e6,
    )


@dataclass(frozen=True, kw_only=True)
class TimeEstimate:
    """Seconds of each stage, scaled from what an earlier run took. run: that run's folder."""

    seconds: dict[str, float]
    run: Path

    @property
    def total_s(self) -> float:
        """The sum over stages."""
        return sum(self.seconds.values())


def time_of(job: ResolvedJob, scan: Scan) -> TimeEstimate | None:
    """The time that a job like an earlier one will take; None where none of the same kind is in its output folder.

    Of the same kind: the same engines, frame size, network and accelerator. Each stage is scaled by its work (frames
    times epochs) for each rank, as if ranks cost one another nothing.
    """
    for folder, earlier, state in _earlier_runs(job.output_dir):
        if not _is_alike(job, scan, earlier, state):
            continue
        seconds = {}
        for stage in job.stages:
            entry = state["stages"].get(stage, {})
            if "seconds" not in entry:
                break
            done = _work(stage, earlier, state["n_frames"]) / max(1, state["n_ranks"])
            seconds[stage] = entry["seconds"] * _work(stage, job, scan.n_positions) / job.resources.n_ranks / done
        else:
            return TimeEstimate(seconds=seconds, run=folder)
    return None


def _earlier_runs(parent: Path) -> Iterator[tuple[Path, ResolvedJob, dict[str, Any]]]:
    """Folder, job and state of the finished runs in an output folder, the newest first, those of series included."""
    places = ("*/state.json", "*/scans/*/state.json", "*/train/state.json")
    paths = [path for place in places for path in parent.glob(place)]
    for path in _newest(paths):
        try:
            state = read_json(path)
            if state.get("status") == "finished" and "n_frames" in state:
                yield path.parent, ResolvedJob.read(path.with_name("resolved.json")), state
        except RequestError:
            # Of another version, or just being removed: it tells nothing.
            continue


def _newest(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)[:_LOOKED_AT]


def _is_alike(job: ResolvedJob, scan: Scan, earlier: ResolvedJob, state: dict[str, Any]) -> bool:
    def kind(one: ResolvedJob) -> tuple[object, ...]:
        network = (one.training.model, one.training.batch_size) if one.uses_network else ()
        has_gpus = one.resources.gpus_per_node > 0
        return one.engine, one.refine.engine, one.execution.accelerator, has_gpus, network

    return kind(job) == kind(earlier) and state["frame_px"] == scan.patch_size


def _work(stage: str, job: ResolvedJob, n_frames: int) -> float:
    """Frames times epochs of a stage."""
    epochs = {"train": job.training.nepochs, "refine": job.refine.epochs, "evaluate": 1 + min(job.refine.epochs, 20)}
    return n_frames * epochs.get(stage, 1)
