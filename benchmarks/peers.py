"""The iterative engines beside other packages, on the same scan, one thread each, CPU seconds of their epochs alone.

Peers are no dependencies of ours: give the interpreter of an environment that has pty-chi (pip install ptychi torch
torchvision). Every run starts from the scan's wrong probe and a flat object, in a process of its own; errors are
against the truth after alignment.

    python benchmarks/peers.py --peer-python ~/peers/bin/python
    python benchmarks/peers.py --photons 1e3 --ours mpie --peers LSQML-poisson ePIE --peer-epochs 50
    python benchmarks/peers.py --scan jobs/data/siemens-star.h5 --peers LSQML --peer-epochs 20

A scan without truth shows the R-factor of object and probe as they were left.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PEER_BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, help="a scan file; without it one is simulated")
    parser.add_argument("--photons", type=float, default=1e6, help="of the simulated scan, per frame")
    parser.add_argument("--ours", nargs="*", default=["mpie", "rpie", "lsqml"])
    parser.add_argument("--epochs", type=int, default=20, help="of our engines")
    parser.add_argument("--peer-python", type=Path, help="interpreter with pty-chi; without it only ours run")
    parser.add_argument("--peers", nargs="*", default=["LSQML"], help="LSQML, LSQML-poisson, ePIE, rPIE, DM")
    parser.add_argument("--peer-epochs", type=int, default=20)
    parser.add_argument("--worker", nargs=3, metavar=("PACKAGE", "ENGINE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        package, engine, folder = arguments.worker
        work = run_ours if package == "ours" else run_ptychi
        work(engine, Path(folder), arguments.epochs)
        return
    print("command:", " ".join(["python", *sys.argv]))
    with tempfile.TemporaryDirectory() as folder:
        scan = prepared(arguments, Path(folder))
        print(f"{scan.name}: {scan.n_positions} frames of {scan.patch_size}²")
        print(f"{'run':24s} {'CPU s/epoch':>11s} {'peak MB':>7s}  by epoch")
        runs = [("ours", engine, Path(sys.executable), arguments.epochs) for engine in arguments.ours]
        if arguments.peer_python:
            runs += [("pty-chi", peer, arguments.peer_python, arguments.peer_epochs) for peer in arguments.peers]
        for package, engine, python, epochs in runs:
            report(scan, package, engine, python, epochs, Path(folder))


def prepared(arguments: argparse.Namespace, folder: Path) -> Any:
    """The scan, and its arrays in the folder for every worker."""
    from ptycho.config.simulate import SimulateConfig
    from ptycho.data.formats import open_scan
    from ptycho_torch.simulate import simulate_scan

    scan = open_scan(arguments.scan) if arguments.scan else simulate_scan(SimulateConfig(photons=arguments.photons))
    counts = scan.frames.read(np.arange(scan.n_positions))
    good = np.ones(counts.shape[1:], bool) if scan.mask is None else scan.mask
    np.savez(
        folder / "scan.npz", counts=counts, good=good, probe=scan.probe, positions=scan.positions_px,
        origin=scan.grid.origin_px, shape=scan.grid.shape,
    )  # fmt: skip
    return scan


def report(scan: Any, package: str, engine: str, python: Path, epochs: int, folder: Path) -> None:
    """Run one worker and print its row."""
    for path in folder.glob("epoch-*.npz"):
        path.unlink()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [str(python), __file__, "--worker", package, engine, str(folder), "--epochs", str(epochs)]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    found = [dict(np.load(path)) for path in sorted(folder.glob("epoch-*.npz"))]
    marks = "  ".join(f"{quality(scan, state)} @{state['epoch']} ({state['cpu_s']:.1f} s)" for state in found)
    last = found[-1]
    print(
        f"{package + ' ' + engine:24s} {last['cpu_s'] / last['epoch']:11.2f} {last['peak_mb']:7.0f}  {marks}",
        flush=True,
    )


def quality(scan: Any, state: dict[str, Any]) -> str:
    """Phase error against the truth, or the R-factor where there is none."""
    from ptycho.evaluation.alignment import align
    from ptycho.evaluation.metrics import scanned_region, score

    if scan.truth is None:
        return f"R {r_factor(scan, state['object'], state['probe']):.4f}"
    region = scanned_region(scan.positions_px, scan.truth.probe, scan.grid)
    aligned = align(state["object"].astype(np.complex64), scan.truth.object, region).image
    return f"{score(aligned, scan.truth.object, region).phase_rmse_rad:.4f} rad"


def r_factor(scan: Any, image: Any, probe: Any) -> float:
    """Σ|√k − √λ| / Σ√k with our forward model, after the best common scale."""
    import torch

    from ptycho.parallel import SerialRanks
    from ptycho_torch.engines.problem import load_problem
    from ptycho_torch.physics.forward import expected_counts
    from ptycho_torch.physics.patches import extract_patches

    problem = load_problem(scan, np.arange(scan.n_positions), SerialRanks())
    windows, image = problem.windows(), torch.as_tensor(image, dtype=torch.complex64)
    modes = torch.as_tensor(probe, dtype=torch.complex64)
    good = 1.0 if problem.good is None else problem.good
    roots = [
        (expected_counts(modes, extract_patches(image, windows[rows])).sqrt() * good, problem.amplitude[rows])
        for rows in torch.arange(scan.n_positions).split(64)
    ]
    scale = sum(float((r * a).sum()) for r, a in roots) / sum(float((r * r).sum()) for r, _ in roots)
    return sum(float((a - scale * r).abs().sum()) for r, a in roots) / problem.amplitude_sum


def keep(folder: Path, epoch: int, cpu_s: float, image: Any, probe: Any) -> None:
    """Leave a state for the parent to judge; called outside the timed part."""
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    np.savez(folder / f"epoch-{epoch:04d}.npz", epoch=epoch, cpu_s=cpu_s, object=image, probe=probe, peak_mb=peak_mb)


def is_kept(epoch: int, epochs: int) -> bool:
    """The epochs that a row shows."""
    return epoch in (5, 10, 20, 50, epochs)


def run_ours(engine_name: str, folder: Path, epochs: int) -> None:
    """One of our engines."""
    import torch

    from ptycho.config.refine import RefineConfig
    from ptycho.data.geometry import Geometry
    from ptycho.data.grid import ObjectGrid
    from ptycho.data.scan import ArrayFrames, Scan
    from ptycho.parallel import SerialRanks
    from ptycho_torch.engines.choice import choose_engine
    from ptycho_torch.engines.problem import load_problem

    torch.set_num_threads(1)
    data = np.load(folder / "scan.npz")
    scan = Scan(
        name="peers", path=None, frames=ArrayFrames(data["counts"]), positions_px=data["positions"],
        probe=data["probe"], geometry=Geometry(), mask=data["good"], provenance={},
        object_grid=ObjectGrid(shape=tuple(data["shape"].tolist()), origin_px=tuple(data["origin"].tolist())),
    )  # fmt: skip
    problem = load_problem(scan, np.arange(scan.n_positions), SerialRanks())
    config = RefineConfig(engine=engine_name, epochs=epochs, stop_at_plateau=False)  # type: ignore[arg-type]
    kind, config = choose_engine(config, problem)
    engine = kind(problem, config, SerialRanks(), data["probe"])
    cpu_s = 0.0
    for epoch in range(1, epochs + 1):
        start_s = time.process_time()
        engine.run_epoch(epoch)
        cpu_s += time.process_time() - start_s
        if is_kept(epoch, epochs):
            keep(folder, epoch, cpu_s, engine.object, engine.probe)


def run_ptychi(engine_name: str, folder: Path, epochs: int) -> None:
    """One of pty-chi's reconstructors with its own defaults, momentum of LSQML switched on as its examples do."""
    import ptychi.api as api
    import torch
    from ptychi.api.task import PtychographyTask

    torch.set_num_threads(1)
    torch.set_default_device("cpu")
    data = np.load(folder / "scan.npz")
    kinds = {
        "LSQML": api.LSQMLOptions, "ePIE": api.EPIEOptions, "rPIE": api.RPIEOptions, "DM": api.DMOptions,
    }  # fmt: skip
    options = kinds[engine_name.split("-")[0]]()
    options.data_options.data = data["counts"].astype(np.float32)
    options.data_options.valid_pixel_mask = data["good"]
    options.data_options.save_data_on_device = True
    height, width = data["shape"]
    relative = data["positions"] - data["origin"] - (np.array([height, width]) - 1) / 2
    options.object_options.initial_guess = np.ones((1, height, width), np.complex64)
    options.probe_options.initial_guess = data["probe"][None]
    options.probe_position_options.position_y_px = relative[:, 0]
    options.probe_position_options.position_x_px = relative[:, 1]
    options.probe_position_options.optimizable = False
    options.reconstructor_options.batch_size = PEER_BATCH
    options.reconstructor_options.num_epochs = epochs
    options.reconstructor_options.default_device = api.Devices.CPU
    if engine_name.startswith("LSQML"):
        options.reconstructor_options.momentum_acceleration_gain = 0.5
    if engine_name == "LSQML-poisson":
        options.reconstructor_options.noise_model = api.NoiseModels.POISSON
    task = PtychographyTask(options)
    cpu_s = 0.0
    for epoch in range(1, epochs + 1):
        start_s = time.process_time()
        task.run(1)
        cpu_s += time.process_time() - start_s
        if is_kept(epoch, epochs):
            image, probe = task.get_data_to_cpu("object", as_numpy=True), task.get_data_to_cpu("probe", as_numpy=True)
            keep(folder, epoch, cpu_s, image[0], probe[0])


if __name__ == "__main__":
    main()
