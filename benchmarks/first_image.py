"""The first image without training on the scan: is it worth its CPU time, and is it a start for the engine?

    python benchmarks/first_image.py [bundle] [--scan jobs/data/siemens-star.h5] [--seed 3] …

Without a bundle the linear inverse makes the image, else the bundle's network. Without a scan: 1,024 frames of 64² of a
photograph-like object at 1e6 and 1e4 photons, the true start probe and the wrong one that `simulate` gives. For each,
phase errors after alignment and CPU seconds of: a flat object; the first image, its patches stitched as they are and
with phases synchronised; the engine from flat in as many epochs as take as long; then epochs of it from the first image
and from flat. With a scan: R-factors. One thread; about 1 CPU minute for the simulated scans, as much for the star.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ptycho.config.config import ModelConfig
from ptycho.config.refine import RefineConfig
from ptycho.config.simulate import SimulateConfig
from ptycho.data.formats import open_scan
from ptycho.data.image import ObjectImage
from ptycho.data.preparation import prepare
from ptycho.data.scan import Scan
from ptycho.evaluation.alignment import align
from ptycho.evaluation.metrics import scanned_region, score
from ptycho.parallel import SerialRanks
from ptycho_torch.pinn.bundle import load_bundle
from ptycho_torch.pinn.inference import linear_model
from ptycho_torch.pinn.trained import TrainedModel
from ptycho_torch.residuals import measure_residuals
from ptycho_torch.stages.network import stitch_scan
from ptycho_torch.stages.refinement import build_engine

CPU = torch.device("cpu")
# Epochs of refinement from the first image and from flat.
EPOCHS = (3, 5, 10)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--scan", type=Path, help="a scan file instead of the simulated ones")
    parser.add_argument("--crop-px", type=int, help="detector pixels to keep")
    parser.add_argument("--seed", type=int, default=3, help="of the simulated scans")
    parser.add_argument("--photons", type=float, nargs="+", default=[1e6, 1e4])
    parser.add_argument("--object", default="natural")
    parser.add_argument("--engine", default="rpie", help="what refines")
    parser.add_argument("--anneal-from", type=float, default=0.4, help="share of the epochs after which steps shrink")
    parser.add_argument("--image", type=Path, help="npz file for the first images")
    return parser.parse_args()


def measure(image: ObjectImage, scan: Scan) -> str:
    """Phase error against the truth, where there is one, and R-factor."""
    probe = scan.probe if image.probe is None else image.probe
    everything = np.arange(scan.n_positions)
    found = measure_residuals(scan, everything, image, probe, SerialRanks(), device=CPU)
    line = f"R-factor {found.r_factor:.4f}"
    if scan.truth is not None:
        region = scanned_region(scan.positions_px, scan.probe, scan.truth.grid)
        errors = score(align(image.object, scan.truth.object, region).image, scan.truth.object, region)
        line += f"  phase RMSE {errors.phase_rmse_rad:.4f} rad  amplitude PSNR {errors.amplitude_psnr_db:.1f} dB"
    return line


def refined(scan: Scan, config: RefineConfig, epochs: int, start: ObjectImage | None) -> ObjectImage:
    """The engine's image after so many epochs, steps annealed towards the last."""
    engine = build_engine(scan, replace(config, epochs=epochs), SerialRanks(), CPU, start=start)
    for epoch in range(1, epochs + 1):
        engine.run_epoch(epoch)
    return engine.image()


def timed(make: Callable[[], ObjectImage]) -> tuple[ObjectImage, float]:
    began = time.process_time()
    image = make()
    return image, time.process_time() - began


def first_image(bundle: TrainedModel | None, scan: Scan, *, synchronise: bool) -> ObjectImage:
    """From reading the frames to the stitched image."""
    everything = np.arange(scan.n_positions)
    if bundle is None:
        config = ModelConfig(N=scan.patch_size, architecture="linear")
        model = linear_model(scan, config, everything, SerialRanks())
    else:
        model = bundle.with_probe(scan.probe, scan.mask)
    return stitch_scan(model, scan, SerialRanks(), CPU, synchronise=synchronise, on_message=print)


def compare(name: str, bundle: TrainedModel | None, scan: Scan, config: RefineConfig) -> ObjectImage:
    print(f"\n{name}: {scan.n_positions} frames of {scan.patch_size}²", flush=True)

    def show(what: str, image: ObjectImage, seconds: float) -> None:
        print(f"{what:34} {seconds:6.2f} CPU s  {measure(image, scan)}", flush=True)

    photons = float(np.mean([scan.frames.read(np.arange(k, k + 1)).sum() for k in range(0, scan.n_positions, 16)]))
    power = np.sqrt(photons / (np.abs(scan.probe) ** 2).sum())
    ones = np.ones(scan.grid.shape, np.complex64)
    flat = ObjectImage(object=ones, coverage=ones.real, grid=scan.grid, probe=scan.probe * power)
    show("flat", flat, 0.0)
    plain, _ = timed(lambda: first_image(bundle, scan, synchronise=False))
    show("first image, stitched as it is", plain, 0.0)
    image, seconds = timed(lambda: first_image(bundle, scan, synchronise=True))
    show("first image, phases synchronised", image, seconds)
    _, one_epoch = timed(lambda: refined(scan, config, 3, None))
    for epochs in sorted({max(1, round(seconds / (one_epoch / 3))), *EPOCHS}):
        show(f"{config.engine} from flat, {epochs} epochs", *timed(lambda n=epochs: refined(scan, config, n, None)))
    start = replace(image, probe=None)
    for epochs in EPOCHS:
        show(
            f"{config.engine} from the first image, {epochs} epochs",
            *timed(lambda n=epochs: refined(scan, config, n, start)),
        )
    return image


def main() -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)
    options = parse_arguments()
    model = load_bundle(options.bundle) if options.bundle else None
    config = RefineConfig(engine=options.engine, anneal_from=options.anneal_from)
    images = {}
    if options.scan:
        scan = prepare(open_scan(options.scan), crop_px=options.crop_px)
        images[options.scan.stem] = compare(str(options.scan), model, scan, config).object
    else:
        for photons in options.photons:
            for start in ("true", "wrong"):
                settings = SimulateConfig(photons=photons, start_probe=start, seed=options.seed, object=options.object)
                name = f"{options.object}, {photons:.0e} photons, {start} probe"
                images[name] = compare(name, model, _with_own_grid(settings), config).object
    if options.image:
        np.savez(options.image, **images)


def _with_own_grid(settings: SimulateConfig) -> Scan:
    """The simulated scan, reconstructed on the truth's own grid."""
    from ptycho_torch.simulate.scan import simulate_scan

    scan = simulate_scan(settings)
    return replace(scan, object_grid=scan.truth.grid)


if __name__ == "__main__":
    main()
