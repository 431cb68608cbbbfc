"""The network alone, trained without labels on one scan: is its stitched image worth its CPU time?

    python benchmarks/network_from_scratch.py [scan] [--gridsize 2] [--epochs 6] …

Without a scan, one of 1,024 frames of a photograph-like object is simulated, with the wrong start probe that `simulate`
gives. Where the truth is known, phase errors after alignment are printed for a flat object, one rPIE sweep from flat,
and the network's patches stitched as they are and with their phases synchronised. One thread; times are CPU seconds.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import numpy as np
import torch

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.config.refine import RefineConfig
from ptycho.config.simulate import SimulateConfig
from ptycho.data.formats import open_scan
from ptycho.data.preparation import prepare
from ptycho.data.scan import Scan
from ptycho.evaluation.alignment import align
from ptycho.evaluation.metrics import scanned_region, score
from ptycho.parallel import SerialRanks
from ptycho_torch.engines.pie import Pie
from ptycho_torch.engines.problem import load_problem
from ptycho_torch.phase_sync import synchronise_phases
from ptycho_torch.physics.forward import expected_counts
from ptycho_torch.physics.patches import Windows, extract_patches
from ptycho_torch.physics.propagate import to_fft_order
from ptycho_torch.pinn.inference import infer_patches
from ptycho_torch.pinn.progress import SilentReport
from ptycho_torch.pinn.trained import TrainedModel
from ptycho_torch.pinn.training import train
from ptycho_torch.simulate.scan import simulate_scan
from ptycho_torch.stitching import Canvas


class PrintedReport(SilentReport):
    """One line for each epoch, with the CPU time so far."""

    def epoch(self, stage: str, epoch: int, n_epochs: int, **numbers: float) -> None:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        print(f"{time.process_time():7.0f} CPU s  epoch {epoch}/{n_epochs}: {shown}", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", nargs="?", type=Path)
    parser.add_argument("--crop-px", type=int, help="detector pixels to keep")
    parser.add_argument("--photons", type=float, default=1e6, help="of the simulated scan")
    parser.add_argument("--frames", type=int, default=1024, help="of the simulated scan")
    parser.add_argument("--architecture", default="cnn")
    parser.add_argument("--gridsize", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--filters", type=int, default=2, help="n_filters_scale")
    parser.add_argument("--fixed-probe", action="store_true", help="do not train the probe along")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image", type=Path, help="npz file for the images")
    return parser.parse_args()


def train_on(scan: Scan, options: argparse.Namespace) -> TrainedModel:
    config = TrainingConfig(
        model=ModelConfig(
            N=scan.patch_size,
            gridsize=options.gridsize,
            architecture=options.architecture,
            n_filters_scale=options.filters,
        ),
        nepochs=options.epochs,
        batch_size=options.batch_size,
        n_groups=scan.n_positions,
        neighbor_count=max(4, options.gridsize**2 - 1),
        probe_trainable=not options.fixed_probe,
        scheduler="WarmupCosine",
        lr_min_ratio=0.02,
        gradient_clip_val=1.0,
    )
    execution = PyTorchExecutionConfig(accelerator="cpu", learning_rate=options.learning_rate)
    return train(scan, config, execution, seed=options.seed, validation_fraction=0.05, report=PrintedReport())


def network_images(model: TrainedModel, scan: Scan) -> dict[str, np.ndarray]:
    batches = list(infer_patches(model, scan, np.arange(scan.n_positions)))
    patches, weight = torch.cat([batch.patches for batch in batches]), batches[0].weight
    patches = patches[torch.from_numpy(np.argsort(np.concatenate([batch.indices for batch in batches])))]
    sync = synchronise_phases(patches, scan.positions_px, weight)
    images = {}
    for name, phasors in (("stitched", None), ("synchronised", torch.from_numpy(sync.phasors))):
        canvas = Canvas(grid_of(scan), model.window)
        canvas.add(patches, scan.positions_px, weight, phasors)
        images[name] = canvas.image()[0].numpy()
    return images


def one_engine_sweep(scan: Scan) -> np.ndarray:
    """rPIE with the same wrong probe, one sweep from a flat object."""
    ranks = SerialRanks()
    problem = load_problem(scan, np.arange(scan.n_positions), ranks)
    engine = Pie(problem, RefineConfig(anneal_from=1.0), ranks, scan.probe, None)
    engine.run_epoch(1)
    height, width = grid_of(scan).shape
    top, left = (np.subtract(grid_of(scan).origin_px, engine.grid.origin_px)).round().astype(int)
    padded = np.pad(engine.object, ((height, height), (width, width)), constant_values=1)
    return padded[height + top : 2 * height + top, width + left : 2 * width + left]


def grid_of(scan: Scan):  # noqa: ANN201
    return scan.truth.grid if scan.truth is not None else scan.grid


def r_factor(image: np.ndarray, scan: Scan, probe: np.ndarray) -> float:
    """R-factor of an image under a probe, over all frames."""
    corners = torch.from_numpy(grid_of(scan).corners_px(scan.positions_px, scan.patch_size))
    windows = Windows.at(corners, scan.patch_size, image.shape)
    good = 1.0 if scan.mask is None else to_fft_order(torch.from_numpy(scan.mask))
    missed = total = 0.0
    for part in np.array_split(np.arange(scan.n_positions), max(1, scan.n_positions // 64)):
        patches = extract_patches(torch.from_numpy(image), windows[torch.from_numpy(part)])
        expected = expected_counts(torch.from_numpy(probe), patches).sqrt()
        amplitude = to_fft_order(torch.from_numpy(scan.frames.read(part).astype(np.float32))).sqrt()
        missed += float(((expected - amplitude).abs() * good).sum())
        total += float((amplitude * good).sum())
    return missed / total


def main() -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)
    options = parse_arguments()
    simulation = SimulateConfig(photons=options.photons, n_positions=options.frames)
    scan = open_scan(options.scan) if options.scan else simulate_scan(simulation)
    if options.crop_px:
        scan = prepare(scan, crop_px=options.crop_px)
    began = time.process_time()
    model = train_on(scan, options)
    trained = time.process_time()
    images = network_images(model, scan)
    print(f"training {trained - began:.0f} CPU s, inference and stitching {time.process_time() - trained:.0f} CPU s")
    print("  ".join(f"{name} {value:.4g}" for name, value in model.metrics.items()))
    probe = model.probe
    images = {"flat": np.ones(grid_of(scan).shape, np.complex64), "one rPIE sweep": one_engine_sweep(scan)} | images
    for name, image in images.items():
        line = f"{name:15} R-factor {r_factor(image.astype(np.complex64), scan, probe):.3f}"
        if scan.truth is not None:
            region = scanned_region(scan.positions_px, scan.probe, scan.truth.grid)
            found = score(align(image, scan.truth.object, region).image, scan.truth.object, region)
            line += f", phase RMSE {found.phase_rmse_rad:.4f} rad, amplitude PSNR {found.amplitude_psnr_db:.1f} dB"
        print(line)
    if options.image:
        np.savez(options.image, **images)


if __name__ == "__main__":
    main()
