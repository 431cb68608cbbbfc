"""The evaluate stage: how far the image can be believed, in numbers; then result, figures and report."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho.data.image import ObjectImage, read_image
from ptycho.data.scan import Scan
from ptycho.data.sharding import hilbert_order
from ptycho.data.subset import subset
from ptycho.errors import DataError
from ptycho.evaluation.alignment import align
from ptycho.evaluation.frc import RingCorrelation, ring_correlation
from ptycho.evaluation.metrics import scanned_region, score
from ptycho.jobs.publication import Findings, TruthComparison, publish
from ptycho.jobs.runner import StageContext
from ptycho.parallel import Ranks
from ptycho_torch.device import rank_device
from ptycho_torch.physics.propagate import Propagator
from ptycho_torch.residuals import Residuals, measure_residuals
from ptycho_torch.stages.refinement import build_engine, owned_frames, refined_path

log = logging.getLogger(__name__)

# Each half starts from a flat object and needs its own sweeps; more would double the cost of a long refinement.
HALF_EPOCHS = 20
# Halves of a scan with fewer positions leave too many holes for their correlation to mean anything.
FEWEST_FOR_HALVES = 64


def evaluate(context: StageContext) -> None:
    """Measure residuals, resolution and, where the truth is known, errors; rank 0 writes result, figures and report."""
    scan, job, ranks = context.scan, context.job, context.ranks
    device = rank_device(job.execution.accelerator)
    network = read_image(context.folder.network_path) if job.uses_network else None
    refined = refined_path(context.folder)
    final = read_image(refined) if "refine" in job.stages else network
    if final is None:
        raise DataError(f"{context.folder.path} has no image to evaluate; start the run again.")
    owned = owned_frames(scan, ranks)
    start = _powered_probe(scan, ranks, final.probe)
    probe = final.probe if final.probe is not None else start
    final = replace(final, probe=probe)
    seen = final.seen_by(scan)

    def residuals(image: ObjectImage, with_probe: NDArray[np.complex64]) -> Residuals:
        return measure_residuals(scan, owned, image, with_probe, ranks, device=device)

    found = residuals(final, probe)
    flat = ObjectImage(object=np.ones_like(final.object), coverage=final.coverage, grid=final.grid)
    # The scan's own probe may be far off, and the final one was made for another object: a flat one gets the better.
    flat_r = min(residuals(flat, one).r_factor for one in (start, probe))
    network_r = (
        None if network is None else residuals(network, start if network.probe is None else network.probe).r_factor
    )
    region = scanned_region(seen.positions_px, probe, seen.grid)
    correlation = _half_correlation(context, seen, probe, region, device)
    if ranks.rank == 0:
        findings = Findings(
            image=final,
            network=network,
            region=region,
            r_factor=found.r_factor,
            frame_r_factor=found.frame_r_factor,
            mean_counts=found.mean_counts,
            mean_residual=found.mean_residual,
            flat_r_factor=flat_r,
            network_r_factor=network_r,
            ring_correlation=correlation,
            truth=_compare_with_truth(scan, final, probe),
            network_truth=_compare_with_truth(scan, network, probe) if network is not None else None,
        )
        numbers = publish(context.folder, job, seen, findings)
        context.report.result(**{name: value for name, value in numbers.items() if value is not None})
    ranks.barrier()


def _powered_probe(scan: Scan, ranks: Ranks, final: NDArray[np.complex64] | None) -> NDArray[np.complex64]:
    """The scan's own probe, or where it has none the final one, with the power that the data have."""
    own = scan.probe if scan.probe is not None else final
    assert own is not None  # the stages before could not have run without
    owned = owned_frames(scan, ranks)
    mask = np.ones((scan.patch_size,) * 2, bool) if scan.mask is None else scan.mask
    counts = np.zeros(1)
    for start in range(0, len(owned), 256):
        counts += scan.frames.read(owned[start : start + 256])[:, mask].sum(dtype=np.float64)
    ranks.all_sum(counts)
    propagator = Propagator.of(scan.geometry, scan.patch_size)
    pattern = propagator.to_file_order(propagator.forward(torch.as_tensor(own)).abs().square().sum(0)).numpy()
    seen = pattern[mask].sum()
    powered: NDArray[np.complex64] = (own * np.sqrt(counts[0] / scan.n_positions / seen)).astype(np.complex64)
    return powered


def _half_correlation(
    context: StageContext, scan: Scan, probe: NDArray[np.complex64], region: NDArray[np.bool_], device: torch.device
) -> RingCorrelation | None:
    """Fourier ring correlation, on rank 0, of two images, each from every other frame along the space-filling curve.

    Both start from a flat object, so that nothing but the data makes them agree; the probe is the final one.
    """
    ranks, config = context.ranks, context.job.refine
    if scan.n_positions < max(FEWEST_FOR_HALVES, 2 * ranks.size):
        return None
    engine_name = "rpie" if config.engine == "none" else config.engine
    settings = replace(config, engine=engine_name, epochs=min(config.epochs, HALF_EPOCHS), update_probe=False)
    # The scan is the corrected one; positions move no more.
    settings = replace(settings, position_correction="none", position_search=False)
    order = hilbert_order(scan.positions_px)
    halves = []
    for number in (0, 1):
        half = subset(scan, order[number::2])
        start = ObjectImage(
            object=np.ones(scan.grid.shape, np.complex64),
            coverage=np.zeros(scan.grid.shape, np.float32),
            grid=scan.grid,
            probe=probe,
        )
        engine = build_engine(half, settings, ranks, device, start=start, seed=context.job.seed + number)
        for epoch in range(1, settings.epochs + 1):
            result = engine.run_epoch(epoch)
            context.report.progress("evaluate", number * settings.epochs + epoch, 2 * settings.epochs)
            if result.is_converged:
                break
        halves.append(engine.object)
    if ranks.rank != 0:
        return None
    first = align(halves[0], halves[1], region, max_shift_px=0).image
    pixel = scan.geometry.object_pixel(scan.patch_size)
    return ring_correlation(first, halves[1], region, pixel_size_m=pixel[0] if pixel else None)


def _compare_with_truth(scan: Scan, image: ObjectImage, probe: NDArray[np.complex64]) -> TruthComparison | None:
    """Errors against the truth, where the scan knows it on a grid of the same pixels."""
    truth = scan.truth
    if truth is None:
        return None
    try:
        image = image.on(truth.grid)
    except ValueError:
        log.warning("the truth lies on another grid than the image and is not compared with it")
        return None
    true_positions = scan.positions_px if truth.positions_px is None else truth.positions_px
    region = scanned_region(true_positions, probe, truth.grid)
    aligned = align(image.object, truth.object, region).image
    scores = score(aligned, truth.object, region)
    return TruthComparison(aligned=aligned, truth=truth.object, region=region, scores=scores)
