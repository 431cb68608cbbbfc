"""What each correction of the iterative engine recovers, on simulated scans with known truth: with it on, and off.

    python benchmarks/corrections.py
    python benchmarks/corrections.py --only positions --engine mpie --epochs 60

Each scan has one fault of measurement put in. "recovered" is how near the correction came to it, in the words of the
row; phase errors are against the truth after alignment. One thread.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho.config.refine import RefineConfig
from ptycho.config.simulate import SimulateConfig
from ptycho.data.image import ObjectImage
from ptycho.data.scan import Scan
from ptycho.evaluation.alignment import align
from ptycho.evaluation.metrics import scanned_region, score
from ptycho.parallel import SerialRanks
from ptycho_torch.simulate import simulate_scan
from ptycho_torch.simulate.probes import with_photons
from ptycho_torch.simulate.scan import true_probe
from ptycho_torch.stages.refinement import build_engine

CPU = torch.device("cpu")
BASE = {"n_positions": 256, "patch_size": 64, "step_px": 6.0, "jitter_px": 1.5, "photons": 1e6, "start_probe": "true"}
Finding = Callable[[ObjectImage, Scan], str]


@dataclass(frozen=True)
class Case:
    """A fault, the option that corrects it, and how to tell that it was found."""

    name: str
    fault: dict[str, Any]
    options: dict[str, Any]
    found: Finding
    both: dict[str, Any] = field(default_factory=dict)


def distance_px(positions: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Mean distance of positions (position, 2) after the best shift, scale, rotation and shear."""
    base = np.column_stack([positions, np.ones(len(positions))])
    return float(np.linalg.norm(base @ np.linalg.lstsq(base, truth, rcond=None)[0] - truth, axis=1).mean())


def positions_found(image: ObjectImage, scan: Scan) -> str:
    left = distance_px(scan.positions_px if image.positions_px is None else image.positions_px, scan.truth.positions_px)
    return f"{left:.2f} px off, of {distance_px(scan.positions_px, scan.truth.positions_px):.2f}"


def intensity_found(image: ObjectImage, scan: Scan) -> str:
    found = image.per_frame.get("intensity", np.ones(scan.n_positions))
    return f"{np.std(found / scan.truth.intensity):.1%} off, of {np.std(scan.truth.intensity):.1%}"


def background_found(image: ObjectImage, scan: Scan) -> str:
    put_in = scan.provenance["simulated"]["background_photons"]
    return f"{0 if image.background is None else image.background.mean():.2f} counts, of {put_in:g}"


def probe_found(image: ObjectImage, scan: Scan) -> str:
    """How much of the true light's modes lies in the span of the found ones."""
    truth = scan.truth.probe.reshape(len(scan.truth.probe), -1)
    basis, _ = np.linalg.qr(image.probe.reshape(len(image.probe), -1).T)
    return f"{np.linalg.norm(truth @ basis.conj()) ** 2 / np.linalg.norm(truth) ** 2:.1%} of the true probe's power"


def variation_found(image: ObjectImage, scan: Scan) -> str:
    share = 0.0
    if image.variations is not None:
        power = np.linalg.norm(image.variations.reshape(len(image.variations), -1), axis=1) ** 2
        shares = (np.abs(image.per_frame["probe_shares"]) ** 2).mean(0)
        share = float((power * shares).sum() / np.linalg.norm(image.probe) ** 2)
    return f"{share:.1%} of the light varies, of {scan.provenance['simulated']['probe_variation']:.0%}"


MOVING = {"position_correction": "gradient", "position_limit_px": 8.0}
CASES = [
    Case("3 probe modes", {"mode_fractions": (0.7, 0.2, 0.1)}, {"probe_modes": 3}, probe_found, {"probe_modes": 1}),
    Case("probe varies (OPR)", {"probe_variation": 0.1}, {"probe_variations": 2}, variation_found),
    Case("positions, σ 1 px", {"position_error_px": 1.0}, MOVING, positions_found),
    Case("positions, σ 3 px", {"position_error_px": 3.0}, MOVING | {"position_search": True}, positions_found),
    Case("background", {"background_photons": 20.0}, {"background": "constant"}, background_found),
    Case("background, pixels", {"background_photons": 20.0}, {"background": "pixel"}, background_found),
    Case("intensity of frames", {"intensity_variation": 0.2}, {"frame_intensity": True}, intensity_found),
    Case("defocus wrong by 20 %", {"start_probe": "wrong", "defocus_error": -0.2, "aperture_error": 0.0,
          "stop_error": 0.0}, {"probe_start": "autofocus"}, probe_found, {"update_probe": False}),
    Case("no probe", {}, {"probe_start": "guess"}, probe_found),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name holds this word")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("command:", " ".join(["python", *sys.argv]))
    print(f"machine: {os.cpu_count()} cores, {platform.machine()}, 1 thread used; {date.today()}")
    print(f"{'fault':24s} {'':4s} {'phase rad':>9s} {'R':>7s} {'CPU s':>6s}  recovered")
    for case in CASES:
        if arguments.only not in case.name:
            continue
        scan = simulate_scan(SimulateConfig(seed=arguments.seed, **(BASE | case.fault)))
        common = {"engine": arguments.engine, "epochs": arguments.epochs} | case.both
        for label, options in (("off", common), ("on", common | case.options)):
            print(f"{case.name:24s} {label:4s} {row(case, scan, options)}", flush=True)


def row(case: Case, scan: Scan, options: dict[str, Any]) -> str:
    """One reconstruction, as it is printed."""
    began_s = time.process_time()
    if case.name == "no probe":
        # Off: a disk of light, as one would draw who knows nothing.
        scan = replace(scan, probe=None if "probe_start" in options else plain_disk(scan))
    engine = build_engine(scan, RefineConfig(**options), SerialRanks(), CPU, seed=0)
    for epoch in range(1, options["epochs"] + 1):
        result = engine.run_epoch(epoch)
        if result.is_converged:
            break
    image, seconds = engine.image(), time.process_time() - began_s
    truth = scan.truth
    region = scanned_region(truth.positions_px, truth.probe, truth.grid)
    found = score(align(image.on(truth.grid).object, truth.object, region).image, truth.object, region)
    return f"{found.phase_rmse_rad:9.4f} {result.r_factor:7.4f} {seconds:6.1f}  {case.found(image, scan)}"


def plain_disk(scan: Scan) -> NDArray[np.complex64]:
    """A flat disk of light a third of the window wide."""
    options = SimulateConfig(patch_size=scan.patch_size, probe="disk", probe_diameter_px=scan.patch_size / 3)
    disk: NDArray[np.complex64] = with_photons(true_probe(options), 1e6).numpy()
    return disk


if __name__ == "__main__":
    main()
