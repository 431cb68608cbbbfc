"""The refine stage: an iterative engine improves object and probe, from the network's image or from nothing."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho.config.refine import RefineConfig
from ptycho.data.grid import ObjectGrid
from ptycho.data.image import ObjectImage, read_image, write_image
from ptycho.data.scan import Scan
from ptycho.data.sharding import hilbert_order, shard_bounds
from ptycho.errors import CancelledError
from ptycho.parallel import Ranks
from ptycho_torch.device import rank_device
from ptycho_torch.engines.choice import choose_engine
from ptycho_torch.engines.coarse import coarse_config, coarse_scan, finer
from ptycho_torch.engines.interface import Engine
from ptycho_torch.engines.probe_start import choose_probe
from ptycho_torch.engines.problem import load_problem
from ptycho_torch.stages.refinement_checkpoint import RefinementCheckpoint

if TYPE_CHECKING:
    from ptycho.jobs.run_folder import RunFolder
    from ptycho.jobs.runner import StageContext

# A checkpoint holds the object twice (image and velocity), so it is not written after every short epoch.
CHECKPOINT_EVERY_S = 20.0


def refine(context: StageContext) -> None:
    """Run the engine's epochs, resuming after the last checkpoint, and write refined.h5."""
    job, ranks = context.job, context.ranks
    config, device = job.refine, rank_device(job.execution.accelerator)
    scan = context.scan
    engine = build_engine(scan, config, ranks, device, start=_start_image(context), seed=job.seed)
    checkpoint = RefinementCheckpoint(context.folder.checkpoints, ranks, owned_frames(scan, ranks))
    done, converged = checkpoint.restore(engine)
    saved_s = time.monotonic()
    for epoch in range(done + 1, config.epochs + 1):
        if converged:
            break
        if context.should_stop():
            checkpoint.save(engine, epoch - 1, converged)
            raise CancelledError(f"Stopped before refinement epoch {epoch}; {epoch - 1} epochs are saved.")
        result = engine.run_epoch(epoch)
        converged = result.is_converged
        seconds = result.seconds
        sent = {"sent_mb": result.sent_bytes / 1e6, "communication_s": result.communication_s}
        context.report.epoch(
            "refine",
            epoch,
            config.epochs,
            r_factor=result.r_factor,
            step=result.step,
            frames_per_s=scan.n_positions / max(seconds, 1e-9),
            seconds=seconds,
            **(sent if ranks.size > 1 else {}),
        )
        if ranks.broadcast(time.monotonic() - saved_s > CHECKPOINT_EVERY_S):
            checkpoint.save(engine, epoch, converged)
            context.report.checkpoint("refine", epoch)
            saved_s = time.monotonic()
    image = engine.image()
    if ranks.rank == 0:
        write_image(image, refined_path(context.folder))
        checkpoint.delete()


def refined_path(folder: RunFolder) -> Path:
    """Where the refined image lies until the result is written."""
    return folder.path / "refined.h5"


def build_engine(
    scan: Scan,
    config: RefineConfig,
    ranks: Ranks,
    device: torch.device,
    *,
    start: ObjectImage | None = None,
    seed: int = 0,
) -> Engine:
    """The engine that the configuration names, on this rank's share of the frames. Every rank must call it.

    start: object (and probe, where it has one) to start from; None starts flat with the scan's own probe.
    Raises DataError when there is no probe to start from.
    """
    owned = owned_frames(scan, ranks)
    if config.moves_positions:
        scan = _with_room(scan, config.position_limit_px)
    room_px = math.ceil(config.position_limit_px) if config.moves_positions else 0
    tile_room_px = room_px if config.uses_tiles else None
    problem = load_problem(scan, owned, ranks, device, config.memory_limit_mb, tile_room_px=tile_room_px)
    probe = start.probe if start is not None and start.probe is not None else None
    if probe is None:
        probe = choose_probe(scan, config, ranks, scan.probe)
    image = start.on(scan.grid).object if start is not None else None
    if start is None and config.coarse_epochs:
        image, probe = _coarse_start(scan, config, ranks, device, probe, seed)
    engine, config = choose_engine(config, problem)
    return engine(problem, config, ranks, probe, image, seed=seed)


def _coarse_start(
    scan: Scan, config: RefineConfig, ranks: Ranks, device: torch.device, probe: NDArray[np.complex64], seed: int
) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """Object and probe that the middle of the detector finds; a resumed run finds the same ones again."""
    engine = build_engine(coarse_scan(scan, probe), coarse_config(config), ranks, device, seed=seed)
    for epoch in range(1, config.coarse_epochs + 1):
        engine.run_epoch(epoch)
    return finer(engine.image(), scan, probe)


def _with_room(scan: Scan, limit_px: float) -> Scan:
    """The scan on a grid on which its frames may move that far."""
    room = math.ceil(limit_px)
    grid = scan.grid
    wider = ObjectGrid(
        shape=(grid.shape[0] + 2 * room, grid.shape[1] + 2 * room),
        origin_px=(grid.origin_px[0] - room, grid.origin_px[1] - room),
    )
    return replace(scan, object_grid=wider, object_start=None)


def owned_frames(scan: Scan, ranks: Ranks) -> NDArray[np.int64]:
    """The scan indices that this rank owns: a contiguous piece of the space-filling curve."""
    first, last = shard_bounds(scan.n_positions, ranks.rank, ranks.size)
    return hilbert_order(scan.positions_px)[first:last]


def _start_image(context: StageContext) -> ObjectImage | None:
    """The network's image, the scan's own first guess, or None for a flat start."""
    if context.job.uses_network:
        return read_image(context.folder.network_path)
    scan = context.scan
    if scan.object_start is not None and scan.object_grid == scan.grid and scan.object_start.shape == scan.grid.shape:
        light = np.zeros(scan.grid.shape, np.float32)
        return ObjectImage(object=scan.object_start, coverage=light, grid=scan.grid)
    return None
