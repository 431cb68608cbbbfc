"""The network's stages: train without labels, then reconstruct in one pass and stitch."""

from __future__ import annotations

import numpy as np
import torch

from ptycho.data.image import ObjectImage, write_image
from ptycho.errors import DataError
from ptycho.jobs.runner import StageContext
from ptycho_torch.device import rank_device
from ptycho_torch.phase_sync import neighbours_of, synchronise_phases
from ptycho_torch.stages.refinement import owned_frames
from ptycho_torch.stitching import Canvas


def train(context: StageContext) -> None:
    """Train the network on the scan (resuming where an earlier attempt stopped) and write the model bundle."""
    # Lightning takes seconds to import, which a purely iterative job should not pay.
    from ptycho_torch.pinn.bundle import save_bundle
    from ptycho_torch.pinn.training import train as train_network

    job = context.job
    if context.scan.probe is None:
        raise DataError(f"{job.data.scan} holds no probe, which a physics-informed network needs. Add one to the file.")
    model = train_network(
        context.scan,
        job.training,
        job.execution,
        seed=job.seed,
        validation_fraction=job.data.validation_fraction,
        ranks=context.ranks,
        checkpoint_dir=context.folder.checkpoints / "train",
        report=context.report,
        should_stop=context.should_stop,
    )
    if context.ranks.rank == 0:
        save_bundle(model, context.folder.model)
    context.ranks.barrier()


def reconstruct(context: StageContext) -> None:
    """Apply the trained network to every frame, synchronise the patches' phases, stitch, and write network.h5.

    Each rank infers the frames that it owns and the neighbours that overlap them; only canvases travel.
    """
    from ptycho_torch.pinn.bundle import load_bundle
    from ptycho_torch.pinn.inference import infer_patches, mean_photons

    job, scan, ranks = context.job, context.scan, context.ranks
    device = rank_device(job.execution.accelerator)
    model = load_bundle(job.bundle or context.folder.model)
    owned = owned_frames(scan, ranks)
    halo = neighbours_of(owned, scan.positions_px, model.window)
    indices = np.concatenate([owned, halo])
    patches = torch.empty(len(indices), model.window, model.window, dtype=torch.complex64)
    residual = np.zeros(len(indices), np.float32)
    weight = torch.zeros(model.window, model.window)
    row = {int(index): number for number, index in enumerate(indices)}
    photons = mean_photons(scan, owned, ranks)
    inferred = infer_patches(
        model, scan, indices, batch_size=job.execution.inference_batch_size, device=device, photons=photons
    )
    for done in inferred:
        rows = [row[int(index)] for index in done.indices]
        patches[rows], residual[rows], weight = done.patches.cpu(), done.residual, done.weight.cpu()
        context.report.progress("reconstruct", max(rows) + 1, len(indices))
    sync = synchronise_phases(patches, scan.positions_px, weight, indices=indices, owned=owned, ranks=ranks)
    canvas = Canvas(scan.grid, model.window, device)
    phasors = torch.from_numpy(sync.phasors[owned])
    canvas.add(patches[: len(owned)], scan.positions_px[owned], weight, phasors)
    canvas.merge(ranks)
    image, coverage = canvas.image()
    frame_residual = np.zeros(scan.n_positions, np.float32)
    frame_residual[owned] = residual[: len(owned)]
    ranks.all_sum(frame_residual)
    if sync.n_components > 1:
        context.report.message(
            f"The scan falls into {sync.n_components} pieces without overlap; the phase between them stays unknown."
        )
    if ranks.rank == 0:
        write_image(
            ObjectImage(
                object=image.cpu().numpy(),
                coverage=coverage.cpu().numpy(),
                grid=scan.grid,
                per_frame={"confidence": sync.confidence, "residual": frame_residual},
            ),
            context.folder.network_path,
        )
    ranks.barrier()
