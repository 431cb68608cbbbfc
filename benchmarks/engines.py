"""How fast, how well and in how much memory an iterative engine reconstructs, on one CPU thread.

Prints one row per run, and one for each scan over its seeds: CPU seconds of an epoch and until the goal was reached (a
phase error of 0.045 rad, or the R-factor named in brackets), errors at the end of the schedule, how far the phase error
rose after its minimum, and the peak memory of the process, imports included. Every run is a process of its own that
opens the scan from its file; another one judges it. A scan without truth shows its R-factor.

    python benchmarks/engines.py --seeds 5                 three objects at 1e6 photons per frame, one at 1e4 and at 1e3
    python benchmarks/engines.py --only "natural 1e+06" --start linear      from the linear inverse's image
    python benchmarks/engines.py scan.h5 --epochs 20       a scan file, such as jobs/data/*.h5
    python benchmarks/engines.py --real FOLDER             three public measured scans, where FOLDER holds them
    python benchmarks/engines.py --engine epie --alpha 0.5 --momentum 0
    python benchmarks/engines.py --peers-python ~/peers/bin/python --peers LSQML ePIE --peer-epochs 100

Peers are no dependencies of ours: give the interpreter of an environment that has them, made by

    python -m venv ~/peers && ~/peers/bin/pip install ptychi==2.2.0
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

GOAL_RAD = 0.045
# What a network leaves (docs/physics.md): slow phase errors, wider than a patch.
WARM_ERROR_RAD, WARM_ERROR_WIDTH_PX = 0.13, 12.0
SIMULATED = [("natural", 1e6), ("star", 1e6), ("leaves", 1e6), ("natural", 1e4), ("natural", 1e3)]
WHOLE = ("epochs", "batch_size", "probe_modes")
WORDS = ("engine", "batching", "likelihood", "optimizer")
OPTIONS = (*WORDS, *WHOLE, "alpha", "probe_alpha", "momentum", "probe_momentum", "relaxation", "learning_rate")
STARTS = ("flat", "slow", "linear")
# After this epoch only every fifth is judged.
EVERY_EPOCH_TO = 8
ROW = "{:28s} {:>4s} {:>6s} {:>6s} {:>7s} {:>9s} {:>9s} {:>9s} {:>7s} {:>8s} {:>7s}"
HEAD = ("run", "seed", "epochs", "load s", "s/epoch", "s to goal", "phase rad", "after min", "PSNR dB", "R")


def main() -> None:
    arguments = parse_arguments()
    if arguments.worker is not None:
        reconstruct(arguments.worker)
        return
    chosen = {name: value for name in OPTIONS if (value := getattr(arguments, name)) is not None}
    print("command:", " ".join(["python", *sys.argv]))
    print(
        f"machine: {os.cpu_count()} cores, {platform.machine()}, 1 thread used; {date.today()}; times are CPU seconds"
    )
    print(ROW.format(*HEAD, "peak MB"))
    rows: dict[str, list[Row]] = {}
    for case in cases(arguments, {"engine": "auto"} | chosen):
        with tempfile.TemporaryDirectory() as folder:
            for name, row in measured(case, arguments, Path(folder)):
                rows.setdefault(name, []).append(row)
                print(row.line(name, case.seed), flush=True)
                if arguments.by_epoch:
                    shown = [f"{error:.4f} @{epoch}" for epoch, error in row.errors.items()]
                    print("   ", "  ".join(shown))
                if case.positions_px is not None:
                    print(
                        f"    positions: {row.distance_px:.2f} px from the reference, {case.distance_px:.2f} at first"
                    )
    if arguments.seeds > 1:
        print("\nover seeds: mean, and the worst")
        for name, of_seeds in rows.items():
            summarise(name, of_seeds)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="*", type=Path, help="scan files; none: simulated scans")
    parser.add_argument("--real", type=Path, help="folder of the public measured scans")
    parser.add_argument("--seeds", type=int, default=1, help="objects, paths, noise and orders of frames to try")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--start", choices=STARTS, default="flat", help="object to start from; slow: off by 0.13 rad")
    parser.add_argument("--by-epoch", action="store_true", help="show the phase errors by epoch, too")
    parser.add_argument("--only", default="", help="scans whose name holds this word")
    parser.add_argument("--peers-python", type=Path, help="interpreter that has the peers")
    parser.add_argument("--peers", nargs="*", default=["LSQML"], help="see benchmarks/peers.py")
    parser.add_argument("--peer-epochs", type=int, default=50)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    for name in OPTIONS:
        parse = int if name in WHOLE else str if name in WORDS else float
        parser.add_argument(f"--{name.replace('_', '-')}", type=parse, help="see RefineConfig")
    return parser.parse_args()


@dataclass(frozen=True)
class Case:
    """A scan and how to reconstruct it.

    positions_px: (position, 2) reference that the found ones are to be compared with, or None
    goal_r: R-factor to reach, where no truth is known
    """

    name: str
    scan: Any
    options: dict[str, Any]
    seed: int = 0
    positions_px: NDArray[np.float64] | None = None
    goal_r: float | None = None

    @property
    def distance_px(self) -> float:
        """Mean distance of the recorded positions from the reference."""
        assert self.positions_px is not None
        return distance_px(self.scan.positions_px, self.positions_px)


@dataclass(frozen=True)
class Row:
    """What one run has come to.

    errors: phase error after some epochs (from 1), where truth is known; r_factors: of all epochs, where a goal is set
    """

    epochs: int
    load_s: float
    epoch_s: list[float]
    errors: dict[int, float]
    r_factors: list[float]
    goal_r: float | None
    psnr_db: float | None
    r_factor: float | None
    peak_mb: float
    distance_px: float = float("nan")

    @property
    def reached_s(self) -> float | None:
        """CPU seconds of the epochs until the goal was reached."""
        good = [epoch for epoch, error in self.errors.items() if error <= GOAL_RAD]
        if self.goal_r is not None:
            good = [epoch for epoch, value in enumerate(self.r_factors, 1) if value <= self.goal_r]
        return sum(self.epoch_s[: good[0]]) if good else None

    @property
    def end(self) -> float | None:
        """Phase error after the last epoch."""
        return list(self.errors.values())[-1] if self.errors else None

    @property
    def rise(self) -> float | None:
        """Largest phase error after the least one, relative to it, minus 1."""
        errors = list(self.errors.values())
        return max(errors[int(np.argmin(errors)) :]) / min(errors) - 1 if errors else None

    def line(self, name: str, seed: int) -> str:
        """The row as it is printed."""
        return ROW.format(
            name, str(seed), str(self.epochs), f"{self.load_s:.2f}", f"{sum(self.epoch_s) / self.epochs:.3f}",
            shown(self.reached_s, ".2f"), shown(self.end, ".4f"), shown(self.rise, "+.1%"), shown(self.psnr_db, ".1f"),
            shown(self.r_factor, ".4f"), f"{self.peak_mb:.0f}",
        )  # fmt: skip


def cases(arguments: argparse.Namespace, options: dict[str, Any]) -> Iterator[Case]:
    """The scans named, or public ones, or simulated ones."""
    from ptycho.config.simulate import SimulateConfig
    from ptycho.data.formats import open_scan
    from ptycho_torch.simulate import simulate_scan

    for path in arguments.scans:
        yield Case(path.stem, open_scan(path), options)
    if arguments.real is not None:
        yield from (case for case in public_cases(arguments.real, options) if arguments.only in case.name)
    if arguments.scans or arguments.real is not None:
        return
    for kind, photons in SIMULATED:
        name = f"{kind} {photons:.0e}"
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            if arguments.only in name:
                scan = simulate_scan(SimulateConfig(object=kind, photons=photons, name=name, seed=seed))  # type: ignore[arg-type]
                yield Case(name, scan, options, seed)


def public_cases(folder: Path, options: dict[str, Any]) -> Iterator[Case]:
    """Measured scans with what they need: two of tike's test data, and a near-field scan (Zenodo 17899482)."""
    from ptycho.data.formats import open_scan

    yield Case("Siemens star (0.155)", open_scan(folder / "aps_siemens_star.npz.bz2"), options, goal_r=0.155)
    cnm = open_scan(folder / "cnm_position_error.npz")
    with np.load(folder / "cnm_position_error.npz") as file:
        corrected = cnm.positions_px + file["scan_truth"] - file["scan"]
    yield Case(
        "CNM, corrected (0.125)", replace(cnm, positions_px=corrected), {"probe_modes": 3} | options, goal_r=0.125
    )
    moving = {
        "probe_modes": 3, "epochs": 60, "position_correction": "gradient", "position_search": True,
        "position_model": "any", "position_limit_px": 40.0,
    }  # fmt: skip
    yield Case("CNM, nominal (0.15)", cnm, moving | options, positions_px=corrected, goal_r=0.15)
    yield Case("P25, near field", open_scan(folder / "petra_p25_near_field.cxi"), {"probe_start": "guess"} | options)


def measured(case: Case, arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Row]]:
    """Rows of our engine and of the peers on one scan."""
    from ptycho.data.formats.hdf5 import write_scan

    write_scan(case.scan, folder / "scan.h5")
    settings = {"options": case.options, "seed": case.seed, "start": arguments.start}
    (folder / "settings.json").write_text(json.dumps(settings))
    if arguments.start == "slow":
        np.save(folder / "start.npy", slow_errors(case.scan))
    label = "" if arguments.start == "flat" else f", {arguments.start}"
    yield f"{case.name}{label}", row_of([sys.executable, __file__, "--worker", str(folder)], case, folder)
    if arguments.peers_python is None:
        return
    counts = case.scan.frames.read(np.arange(case.scan.n_positions))
    good = np.ones(counts.shape[1:], bool) if case.scan.mask is None else case.scan.mask
    grid = case.scan.grid if case.scan.truth is None else case.scan.truth.grid
    np.savez(
        folder / "scan.npz", counts=counts, good=good, probe=case.scan.probe, positions=case.scan.positions_px,
        origin=grid.origin_px, shape=grid.shape,
    )  # fmt: skip
    for peer in arguments.peers:
        script = str(Path(__file__).with_name("peers.py"))
        command = [str(arguments.peers_python), script, peer, str(arguments.peer_epochs), str(folder)]
        yield f"{case.name}, {peer}", row_of(command, case, folder)


def row_of(command: list[str], case: Case, folder: Path) -> Row:
    """Run a worker and judge what it left."""
    for path in folder.glob("epoch-*.npy"):
        path.unlink()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found = json.loads((folder / "run.json").read_text())
    images = {int(path.stem[6:]): np.load(path) for path in sorted(folder.glob("epoch-*.npy"))}
    scores = {epoch: compare(case.scan, image, found) for epoch, image in images.items()}
    last = scores[max(scores)] if scores else None
    found_px = found.pop("positions_px", None)
    distance = float("nan")
    if found_px is not None and case.positions_px is not None:
        distance = distance_px(np.array(found_px), case.positions_px)
    return Row(
        epochs=len(found["epoch_s"]),
        load_s=found["load_s"],
        epoch_s=found["epoch_s"],
        errors={epoch: one.phase_rmse_rad for epoch, one in scores.items()},
        r_factors=found.get("r_factors", []),
        goal_r=case.goal_r,
        psnr_db=last.amplitude_psnr_db if last else None,
        r_factor=found["r_factors"][-1] if "r_factors" in found else None,
        peak_mb=found["peak_mb"],
        distance_px=distance,
    )


def compare(scan: Any, image: NDArray[np.complex64], found: dict[str, Any]) -> Any:
    """Scores against the truth in the scanned region."""
    from ptycho.data.grid import ObjectGrid
    from ptycho.data.image import ObjectImage
    from ptycho.evaluation.alignment import align
    from ptycho.evaluation.metrics import scanned_region, score

    truth = scan.truth
    grid = ObjectGrid(shape=image.shape, origin_px=tuple(found.get("origin_px", truth.grid.origin_px)))
    light = np.ones(image.shape, np.float32)
    image = ObjectImage(object=image.astype(np.complex64), coverage=light, grid=grid).on(truth.grid).object
    region = scanned_region(scan.positions_px, truth.probe, truth.grid)
    return score(align(image, truth.object, region).image, truth.object, region)


def reconstruct(folder: Path) -> None:
    """The worker: run our engine on the scan in the folder and leave objects, times and the peak of memory there."""
    import torch

    from ptycho.config.refine import RefineConfig
    from ptycho.data.formats import open_scan
    from ptycho.data.image import ObjectImage
    from ptycho.parallel import SerialRanks
    from ptycho_torch.stages.refinement import build_engine

    torch.set_num_threads(1)
    settings = json.loads((folder / "settings.json").read_text())
    known = {field.name for field in fields(RefineConfig)}
    config = RefineConfig(**{name: value for name, value in settings["options"].items() if name in known})
    began_s = time.process_time()
    scan = open_scan(folder / "scan.h5")
    start = None
    if settings["start"] == "linear":
        start = linear_image(scan)
    elif settings["start"] == "slow":
        image = np.load(folder / "start.npy")
        start = ObjectImage(object=image, coverage=np.ones(image.shape, np.float32), grid=scan.grid)
    engine = build_engine(scan, config, SerialRanks(), torch.device("cpu"), start=start, seed=settings["seed"])
    load_s, epoch_s, r_factors = time.process_time() - began_s, [], []
    for epoch in range(1, config.epochs + 1):
        began_s = time.process_time()
        result = engine.run_epoch(epoch)
        epoch_s.append(time.process_time() - began_s)
        r_factors.append(result.r_factor)
        if scan.truth is not None and (epoch <= EVERY_EPOCH_TO or epoch % 5 == 0 or result.is_converged):
            np.save(folder / f"epoch-{epoch:04d}.npy", engine.object)
        if result.is_converged:
            break
    found: dict[str, Any] = {"load_s": load_s, "epoch_s": epoch_s, "r_factors": r_factors}
    image = engine.image()
    found |= {"peak_mb": peak_mb(), "origin_px": list(engine.grid.origin_px)}
    if image.positions_px is not None:
        found["positions_px"] = image.positions_px.tolist()
    (folder / "run.json").write_text(json.dumps(found))


def linear_image(scan: Any) -> Any:
    """The linear inverse's image, phases synchronised, without its probe."""
    import torch

    from ptycho.config.config import ModelConfig
    from ptycho.parallel import SerialRanks
    from ptycho_torch.pinn.inference import linear_model
    from ptycho_torch.stages.network import stitch_scan

    config = ModelConfig(N=scan.patch_size, architecture="linear")
    model = linear_model(scan, config, np.arange(scan.n_positions), SerialRanks())
    image = stitch_scan(model, scan, SerialRanks(), torch.device("cpu"), synchronise=True, on_message=print)
    return replace(image, probe=None)


def slow_errors(scan: Any) -> NDArray[np.complex64]:
    """An object as a network gives it: the truth with a slow phase error of 0.13 rad."""
    if scan.truth is None:
        raise SystemExit(f"{scan.name} has no known truth to make a warm start from")
    truth = scan.truth.object
    noise = np.random.default_rng(0).normal(size=truth.shape)
    radius2 = sum(np.square(axis) for axis in np.meshgrid(*map(np.fft.fftfreq, truth.shape), indexing="ij"))
    slow = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-radius2 * (2 * np.pi * WARM_ERROR_WIDTH_PX) ** 2 / 2)).real
    warm: NDArray[np.complex64] = (truth * np.exp(1j * WARM_ERROR_RAD * slow / slow.std())).astype(np.complex64)
    return warm


def distance_px(found: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Mean distance of positions (position, 2) after the best shift, scale, rotation and shear."""
    base = np.column_stack([found, np.ones(len(found))])
    fitted = base @ np.linalg.lstsq(base, reference, rcond=None)[0]
    return float(np.linalg.norm(fitted - reference, axis=1).mean())


def summarise(name: str, rows: list[Row]) -> None:
    """Print what the seeds of one scan have in common."""
    reached = [row.reached_s for row in rows]
    failures = sum(one is None for one in reached)
    times = [one for one in reached if one is not None]
    ends = [row.end for row in rows if row.end is not None]
    print(
        f"{name:28s} s to goal: {_both(times, '.2f')} ({failures} of {len(rows)} never);"
        f" end {_both(ends, '.4f')} rad; rise {_both([row.rise or 0 for row in rows], '.1%')};"
        f" s/epoch {_both([sum(row.epoch_s) / row.epochs for row in rows], '.3f')};"
        f" peak {_both([row.peak_mb for row in rows], '.0f')} MB"
    )


def _both(values: list[float], form: str) -> str:
    return f"{np.mean(values):{form}} (≤ {max(values):{form}})" if values else "–"


def shown(value: float | None, form: str) -> str:
    """The number, or a dash where there is none."""
    return "–" if value is None else f"{value:{form}}"


def peak_mb() -> float:
    """Largest resident memory that this process has had, in MB. (`ru_maxrss` would begin with the parent's.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    main()
