"""How fast and how well the iterative engine refines a scan, on one CPU thread.

Prints one row per run: CPU seconds of an epoch and until the phase error was 0.045 rad, the errors at the end, whether
the phase error rose after its minimum, and the peak memory of the process. A scan without truth shows its R-factor.

    python benchmarks/refine_speed.py                         simulated scans: three objects, and three doses of one
    python benchmarks/refine_speed.py scan.h5 --epochs 20     a scan file, such as jobs/data/*.h5
    python benchmarks/refine_speed.py --engine epie --alpha 0.5 --momentum 0
    python benchmarks/refine_speed.py --engine auto --only "natural 1e+06" --warm
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from datetime import date
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho.config.refine import RefineConfig
from ptycho.config.simulate import SimulateConfig
from ptycho.data.formats import open_scan
from ptycho.data.scan import Scan
from ptycho.evaluation.alignment import align
from ptycho.evaluation.metrics import Scores, scanned_region, score
from ptycho.parallel import SerialRanks
from ptycho_torch.engines.choice import choose_engine
from ptycho_torch.engines.interface import Engine
from ptycho_torch.engines.problem import load_problem
from ptycho_torch.simulate import simulate_scan

GOAL_RAD = 0.045
# What a network leaves (docs/physics.md): slow phase errors, wider than a patch.
WARM_ERROR_RAD, WARM_ERROR_WIDTH_PX = 0.13, 12.0
WHOLE = ("epochs", "batch_size", "probe_modes")
WORDS = ("engine", "batching", "likelihood", "optimizer")
OPTIONS = (*WORDS, *WHOLE, "alpha", "probe_alpha", "momentum", "probe_momentum", "relaxation", "learning_rate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="*", type=Path, help="scan files; none: simulated scans")
    parser.add_argument("--seeds", type=int, default=1, help="orders of frames to try on each scan")
    parser.add_argument("--warm", action="store_true", help="start from an object with slow phase errors of 0.13 rad")
    parser.add_argument("--by-epoch", action="store_true", help="show the phase error of every fifth epoch, too")
    parser.add_argument("--only", help="simulated scans whose name holds this word")
    for name in OPTIONS:
        parse = int if name in WHOLE else str if name in WORDS else float
        parser.add_argument(f"--{name.replace('_', '-')}", type=parse, help="see RefineConfig")
    arguments = parser.parse_args()
    config = RefineConfig(**{name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None})
    torch.set_num_threads(1)
    print("command:", " ".join(["python", *sys.argv]))
    print(
        f"machine: {os.cpu_count()} cores, {platform.processor() or platform.machine()}, 1 thread used;", date.today()
    )
    print("options:", ", ".join(f"{field.name} = {getattr(config, field.name)}" for field in fields(config)))
    print(
        f"\n{'scan':22s} {'seed':>4s} {'epochs':>6s} {'CPU s/epoch':>11s} {f'CPU s to {GOAL_RAD}':>14s}"
        f" {'phase rad':>9s} {'after min':>9s} {'PSNR dB':>7s} {'R-factor':>8s} {'peak MB':>7s}"
    )
    for scan in chosen_scans(arguments.scans, arguments.only or ""):
        for seed in range(arguments.seeds):
            errors = measure(scan, config, seed, arguments.warm)
            if arguments.by_epoch:
                print(
                    "   ", "  ".join(f"{error:.4f} @{epoch}" for epoch, error in enumerate(errors, 1) if epoch % 5 == 0)
                )


def chosen_scans(paths: list[Path], word: str) -> Iterator[Scan]:
    """The scans named, or simulated ones."""
    for path in paths:
        yield open_scan(path)
    if not paths:
        for kind, photons in [("natural", 1e6), ("star", 1e6), ("leaves", 1e6), ("natural", 1e4), ("natural", 1e3)]:
            name = f"{kind} {photons:.0e}"
            if word in name:
                yield simulate_scan(SimulateConfig(object=kind, photons=photons, name=name))


def measure(scan: Scan, config: RefineConfig, seed: int, warm: bool) -> list[float]:
    """Refine the scan from its own start probe and a flat object, or a warm one, and print one row.

    Returns the phase error after each epoch, where truth is known.
    """
    if scan.probe is None:
        raise SystemExit(f"{scan.name} holds no probe to start from")
    problem = load_problem(scan, np.arange(scan.n_positions), SerialRanks())
    kind, config = choose_engine(config, problem)
    engine = kind(problem, config, SerialRanks(), scan.probe, warm_start(scan) if warm else None, seed=seed)
    cpu_s, reached_s, errors, scores = 0.0, None, [], None
    for epoch in range(1, config.epochs + 1):
        start_s = time.process_time()
        result = engine.run_epoch(epoch)
        cpu_s += time.process_time() - start_s
        scores = compare(engine, scan)
        if scores is not None:
            errors.append(scores.phase_rmse_rad)
            if reached_s is None and errors[-1] <= GOAL_RAD:
                reached_s = cpu_s
        if result.is_converged:
            break
    rise = max(errors[int(np.argmin(errors)) :]) / min(errors) - 1 if errors else None
    print(
        f"{scan.name[:22]:22s} {seed:4d} {epoch:6d} {cpu_s / epoch:11.3f} {shown(reached_s, '14.2f')}"
        f" {shown(scores and scores.phase_rmse_rad, '9.4f')} {shown(rise, '+9.1%')}"
        f" {shown(scores and scores.amplitude_psnr_db, '7.1f')} {result.r_factor:8.4f} {peak_mb():7.0f}",
        flush=True,
    )
    return errors


def warm_start(scan: Scan) -> NDArray[np.complex64]:
    """An object as a network gives it: the truth with a slow phase error of 0.13 rad."""
    if scan.truth is None:
        raise SystemExit(f"{scan.name} has no known truth to make a warm start from")
    truth = scan.truth.object
    noise = np.random.default_rng(0).normal(size=truth.shape)
    radius2 = sum(np.square(axis) for axis in np.meshgrid(*map(np.fft.fftfreq, truth.shape), indexing="ij"))
    slow = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-radius2 * (2 * np.pi * WARM_ERROR_WIDTH_PX) ** 2 / 2)).real
    warm: NDArray[np.complex64] = (truth * np.exp(1j * WARM_ERROR_RAD * slow / slow.std())).astype(np.complex64)
    return warm


def compare(engine: Engine, scan: Scan) -> Scores | None:
    """Errors against the truth in the scanned region, where the scan knows it on the engine's grid."""
    truth = scan.truth
    if truth is None or truth.object.shape != engine.grid.shape:
        return None
    region = scanned_region(scan.positions_px, engine.probe, engine.grid)
    return score(align(engine.object, truth.object, region).image, truth.object, region)


def shown(value: float | None, form: str) -> str:
    """The number, or a dash as wide where there is none."""
    width = int("".join(c for c in form.split(".")[0] if c.isdigit()))
    return f"{'–':>{width}s}" if value is None else f"{value:{form}}"


def peak_mb() -> float:
    """Largest resident memory that this process has had, in MB, imports included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
