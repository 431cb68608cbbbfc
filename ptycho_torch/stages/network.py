"""The network's stages: train without labels, then reconstruct in one pass and stitch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho.data.image import ObjectImage, write_image
from ptycho.data.scan import Scan
from ptycho.errors import DataError
from ptycho.jobs.runner import StageContext
from ptycho.parallel import Ranks
from ptycho_torch.device import rank_device
from ptycho_torch.phase_sync import neighbours_of, synchronise_phases
from ptycho_torch.stages.refinement import owned_frames
from ptycho_torch.stitching import Canvas

LEAST_CONFIDENCE = 0.1

if TYPE_CHECKING:
    from ptycho_torch.pinn.trained import TrainedModel


def train(context: StageContext) -> None:
    """Train the network, afresh or from a bundle, on the scan or on random scenes, and write the model bundle.

    Training goes on where an earlier attempt stopped.
    """
    # Lightning takes seconds to import, which a purely iterative job should not pay.
    from ptycho_torch.pinn.bundle import load_bundle, save_bundle
    from ptycho_torch.pinn.metric_log import training_logs
    from ptycho_torch.pinn.training import train as train_network
    from ptycho_torch.pinn.training import train_on_scenes

    job = context.job
    if context.scan.probe is None:
        raise DataError(f"{job.data.scan} holds no probe, which a physics-informed network needs. Add one to the file.")
    start, training = None, job.training
    if job.bundle is not None:
        start = load_bundle(job.bundle)
        asked = training.model
        model_config = replace(start.config, N=asked.N, gridsize=asked.gridsize, model_type=asked.model_type)
        training = replace(training, model=model_config)
    settings: dict[str, Any] = {
        "seed": job.seed,
        "ranks": context.ranks,
        "checkpoint_dir": context.folder.checkpoints / "train",
        "report": context.report,
        "should_stop": context.should_stop,
        "start": start,
        "callbacks": training_logs(job.execution, context.folder.checkpoints / "train" / "logs", csv=False),
    }
    if job.synthetic is not None:
        model = train_on_scenes(job.synthetic, training, job.execution, **settings)
    else:
        fraction = job.data.validation_fraction
        model = train_network(context.scan, training, job.execution, validation_fraction=fraction, **settings)
    if context.ranks.rank == 0:
        save_bundle(model, context.folder.model)
    context.ranks.barrier()


def reconstruct(context: StageContext) -> None:
    """Apply the trained network to every frame, synchronise the patches' phases, stitch, and write network.h5."""
    from ptycho_torch.pinn.bundle import load_bundle
    from ptycho_torch.pinn.inference import linear_model

    job, ranks = context.job, context.ranks
    is_trained_here = "train" in job.stages
    if job.uses_linear_inverse:
        model = linear_model(context.scan, job.training.model, owned_frames(context.scan, ranks), ranks)
    else:
        model = load_bundle(context.folder.model if is_trained_here or job.bundle is None else job.bundle)
    is_another_scans = job.bundle is not None and not is_trained_here
    if (is_another_scans or job.synthetic is not None) and context.scan.probe is not None:
        # A model applied to another scan sees that scan's own illumination.
        model = model.with_probe(context.scan.probe, context.scan.mask)
    image = stitch_scan(
        model,
        context.scan,
        ranks,
        rank_device(str(job.execution.accelerator)),
        batch_size=job.execution.inference_batch_size,
        on_progress=lambda done, total: context.report.progress("reconstruct", done, total),
        on_message=context.report.message,
    )
    if ranks.rank == 0:
        write_image(image, context.folder.network_path)
    ranks.barrier()


def stitch_scan(
    model: TrainedModel,
    scan: Scan,
    ranks: Ranks,
    device: torch.device,
    *,
    batch_size: int | None = None,
    synchronise: bool = True,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_message: Callable[[str], None] = lambda text: None,
) -> ObjectImage:
    """The object that a network sees in a scan, on every rank. Every rank must call it.

    synchronise: whether the patches' global phases are made to agree first
    Each rank infers the frames that it owns and the neighbours that overlap them; only canvases travel.
    """
    patches = infer_scan(
        model, scan, ranks, device, batch_size=batch_size, on_progress=on_progress, on_message=on_message
    )
    return stitch(patches, ranks, device, synchronise=synchronise, on_message=on_message)


@dataclass(frozen=True, kw_only=True)
class ScanPatches:
    """What the network says about the frames of one rank, before it is put together.

    indices:  (patch,) scan indices: first the `owned` ones, then the neighbours that overlap them
    patches:  (patch, y, x) complex64 of the lit window, on the CPU; their global phases are free
    weight:   (y, x) float32 of a patch's pixels, largest value 1
    residual: (patch,) deviance per pixel
    probe:    (mode, y, x) complex64, sqrt(photons), to which the patches belong
    """

    scan: Scan
    indices: NDArray[np.int64]
    owned: NDArray[np.int64]
    patches: torch.Tensor
    weight: torch.Tensor
    residual: NDArray[np.float32]
    probe: NDArray[np.complex64]


def infer_scan(
    model: TrainedModel,
    scan: Scan,
    ranks: Ranks,
    device: torch.device,
    *,
    batch_size: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_message: Callable[[str], None] = lambda text: None,
) -> ScanPatches:
    """The patches of the frames that this rank owns and of their neighbours. Every rank must call it."""
    from ptycho_torch.pinn.inference import infer_patches, mean_photons

    owned = owned_frames(scan, ranks)
    halo = neighbours_of(owned, scan.positions_px, model.window)
    indices = np.concatenate([owned, halo])
    patches = torch.empty(len(indices), model.window, model.window, dtype=torch.complex64)
    residual = np.zeros(len(indices), np.float32)
    weight = torch.zeros(model.window, model.window)
    photons = mean_photons(scan, owned, ranks)
    for doubt in model.doubts(photons):
        on_message(doubt)
    row_of = np.zeros(scan.n_positions, np.int64)
    row_of[indices] = np.arange(len(indices))
    done = 0
    for batch in infer_patches(model, scan, indices, batch_size=batch_size, device=device, photons=photons):
        rows = row_of[batch.indices]
        patches[torch.from_numpy(rows)], residual[rows], weight = (
            batch.patches.cpu(),
            batch.residual,
            batch.weight.cpu(),
        )
        done += len(rows)
        on_progress(done, len(indices))
    return ScanPatches(
        scan=scan,
        indices=indices,
        owned=owned,
        patches=patches,
        weight=weight,
        residual=residual,
        # The patches belong to this probe, which may have been trained along with the network.
        probe=np.asarray(model.probe, dtype=np.complex64),
    )


def stitch(
    found: ScanPatches,
    ranks: Ranks,
    device: torch.device,
    *,
    synchronise: bool = True,
    on_message: Callable[[str], None] = lambda text: None,
) -> ObjectImage:
    """The object of patches, on every rank. Every rank must call it.

    synchronise: whether the patches' global phases are made to agree first
    """
    scan, owned = found.scan, found.owned
    sync = synchronise_phases(
        found.patches, scan.positions_px, found.weight, indices=found.indices, owned=owned, ranks=ranks
    )
    if sync.n_components > 1:
        on_message(
            f"The scan falls into {sync.n_components} pieces without overlap; the phase between them stays unknown."
        )
    canvas = Canvas(scan.grid, found.patches.shape[-1], device)
    weight = found.weight
    if synchronise:
        # A patch whose neighbours do not agree with it counts less; one without neighbours still makes its own image.
        weight = weight * torch.from_numpy(sync.confidence[owned])[:, None, None].clamp(min=LEAST_CONFIDENCE)
    phasors = torch.from_numpy(sync.phasors[owned]) if synchronise else None
    canvas.add(found.patches[: len(owned)], scan.positions_px[owned], weight, phasors)
    canvas.merge(ranks)
    image, coverage = canvas.image()
    frame_residual = np.zeros(scan.n_positions, np.float32)
    frame_residual[owned] = found.residual[: len(owned)]
    ranks.all_sum(frame_residual)
    return ObjectImage(
        object=image.cpu().numpy(),
        coverage=coverage.cpu().numpy(),
        grid=scan.grid,
        probe=found.probe,
        per_frame={"confidence": sync.confidence, "residual": frame_residual},
    )
