"""How training, reconstruction and refinement scale with ranks, and how far a model says they would.

Runs each on 1, 2 and 4 ranks of this machine, one thread each, connected by gloo. Prints CPU seconds of the slowest
rank and wall seconds (the least of several), efficiency T(1) / (n · T(n)) of both, and the bytes that a rank hands to
collectives; then calibrates `scaling_model` on one rank, compares it with what was measured, and lets it predict a
large scan on up to 1,024 ranks of a stated network. CPU seconds leave out waiting, for other ranks and for other
programs: on a shared machine they are what can be repeated. Wall seconds mean something where as many cores are idle
as there are ranks.

    python benchmarks/scaling.py [--frames 256] [--latency-us 5] [--gigabytes-per-s 10]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scaling_model import (
    Costs,
    Network,
    Terms,
    Workload,
    fit_lines,
    largest_halo,
    reconstruction,
    refinement_epoch,
    training_step,
)

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.config.refine import RefineConfig
from ptycho.config.simulate import SimulateConfig
from ptycho.data.scan import Scan
from ptycho.data.subset import subset
from ptycho.parallel import Ranks, SerialRanks, find_ranks
from ptycho_torch import phase_sync
from ptycho_torch.pinn import gradient_mean
from ptycho_torch.pinn.progress import SilentReport
from ptycho_torch.pinn.trained import TrainedModel
from ptycho_torch.pinn.training import train
from ptycho_torch.simulate.scan import simulate_scan
from ptycho_torch.stages.network import stitch_scan
from ptycho_torch.stages.refinement import build_engine

SIZES = (1, 2, 4)
N_GROUPS, TRAINING_BATCH, REFINE_BATCH, REPEATS = 64, 16, 32, 3
CPU = torch.device("cpu")


class CountingRanks:
    """Ranks that count the bytes handed to their collectives."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks, self.rank, self.size = ranks, ranks.rank, ranks.size
        self.n_bytes = self.n_calls = 0

    def _count(self, buffer: Any) -> None:
        if self.size > 1:
            self.n_bytes += np.asarray(buffer).nbytes
            self.n_calls += 1

    def broadcast(self, value: Any) -> Any:
        self._count(value if isinstance(value, np.ndarray) else np.zeros(1))
        return self._ranks.broadcast(value)

    def all_sum(self, buffer: Any) -> None:
        self._count(buffer)
        self._ranks.all_sum(buffer)

    def sum_to_root(self, buffer: Any) -> None:
        self._count(buffer)
        self._ranks.sum_to_root(buffer)

    def slowest(self, seconds: list[float]) -> list[float]:
        """The largest of each number over ranks; not counted."""
        table = np.zeros((self.size, len(seconds)))
        table[self.rank] = seconds
        self._ranks.all_sum(table)
        return [float(worst) for worst in table.max(axis=0)]

    def barrier(self) -> None:
        self._ranks.barrier()

    def close(self) -> None:
        self._ranks.close()


class Clock(SilentReport):
    """Seconds and bytes of every training epoch."""

    def __init__(self, ranks: CountingRanks) -> None:
        self._ranks = ranks
        self.cpu_s, self.wall_s = [time.process_time()], [time.perf_counter()]
        self.n_bytes: list[int] = []

    def epoch(self, stage: str, epoch: int, n_epochs: int, **numbers: float) -> None:
        self.cpu_s.append(time.process_time())
        self.wall_s.append(time.perf_counter())
        self.n_bytes.append(self._ranks.n_bytes)


def measure_training(scan: Scan, ranks: CountingRanks, batch_size: int) -> tuple[dict[str, float], TrainedModel]:
    """Seconds and bytes of a step, the least of several epochs, without the first."""
    config = TrainingConfig(
        model=ModelConfig(N=scan.patch_size, gridsize=1), nepochs=1 + REPEATS, batch_size=batch_size, n_groups=N_GROUPS
    )
    clock = Clock(ranks)
    plain_mean = gradient_mean.mean_over_ranks

    def counted_mean(buffer: torch.Tensor, group: Any = None) -> torch.Tensor:
        ranks.n_bytes += buffer.numel() * buffer.element_size()
        return plain_mean(buffer, group)

    gradient_mean.mean_over_ranks = counted_mean
    model = train(
        scan, config, PyTorchExecutionConfig(accelerator="cpu"), validation_fraction=0, ranks=ranks, report=clock
    )
    gradient_mean.mean_over_ranks = plain_mean
    n_steps = N_GROUPS / batch_size
    per_step = (clock.n_bytes[-1] - clock.n_bytes[0]) / REPEATS / n_steps
    cpu_s, wall_s = (min(ranks.slowest(list(np.diff(times)[1:]))) / n_steps for times in (clock.cpu_s, clock.wall_s))
    return {"s": cpu_s, "wall_s": wall_s, "bytes": per_step}, model


def least(work: Callable[[], object], ranks: CountingRanks) -> dict[str, float]:
    """Least CPU and wall seconds of the slowest rank, when all begin together, and the bytes of one time."""
    cpu_s, wall_s, before = [], [], ranks.n_bytes
    for _ in range(REPEATS):
        ranks.barrier()
        start_s, cpu_start_s = time.perf_counter(), time.process_time()
        work()
        cpu_s.append(time.process_time() - cpu_start_s)
        wall_s.append(time.perf_counter() - start_s)
    return {
        "s": min(ranks.slowest(cpu_s)),
        "wall_s": min(ranks.slowest(wall_s)),
        "bytes": (ranks.n_bytes - before) / REPEATS,
    }


def measure_refinement(scan: Scan, ranks: CountingRanks, batch_size: int) -> dict[str, float]:
    engine = build_engine(scan, RefineConfig(batch_size=batch_size, epochs=30), ranks, CPU)
    engine.run_epoch(1)
    epochs = iter(range(2, 30))
    return least(lambda: engine.run_epoch(next(epochs)), ranks)


def solve_seconds(model: TrainedModel, scan: Scan) -> float:
    """Seconds that rank 0 solves for the phases while the others wait."""
    plain_solve, spent = phase_sync._solve, []

    def timed_solve(*arguments: Any) -> Any:
        start_s = time.process_time()
        solution = plain_solve(*arguments)
        spent.append(time.process_time() - start_s)
        return solution

    phase_sync._solve = timed_solve
    for _ in range(REPEATS):
        stitch_scan(model, scan, SerialRanks(), CPU)
    phase_sync._solve = plain_solve
    return min(spent)


def transport(ranks: CountingRanks) -> dict[str, float]:
    """Latency and bandwidth of a sum over ranks, as the model counts them."""
    if ranks.size == 1:
        return {}
    small, large = np.zeros(1, np.float32), np.zeros(2**21, np.float32)
    small_s = least(lambda: [ranks.all_sum(small) for _ in range(20)], ranks)["wall_s"] / 20
    large_s = least(lambda: ranks.all_sum(large), ranks)["wall_s"]
    n = ranks.size
    return {
        "latency_s": small_s / (2 * np.ceil(np.log2(n))),
        "bytes_per_s": 2 * (n - 1) / n * large.nbytes / max(large_s - small_s, 1e-9),
    }


def work_as_rank(n_frames: int, path: Path) -> None:
    """Everything that one rank measures; rank 0 writes it down."""
    torch.set_num_threads(1)
    found_ranks = find_ranks()
    ranks = CountingRanks(found_ranks)
    scan = measured_scan(n_frames)
    training, model = measure_training(scan, ranks, TRAINING_BATCH)
    found: dict[str, Any] = {
        "training step": training,
        "reconstruction": least(lambda: stitch_scan(model, scan, ranks, CPU), ranks),
        "refinement epoch": measure_refinement(scan, ranks, REFINE_BATCH),
        "transport": transport(ranks),
    }
    if ranks.size == 1:
        found["costs"] = costs_of(scan, model, ranks, found).__dict__
        found["window_px"] = model.window
    if ranks.rank == 0:
        path.write_text(json.dumps(found))
    ranks.close()


def measured_scan(n_frames: int, step_px: float = 7.0) -> Scan:
    return simulate_scan(SimulateConfig(n_positions=n_frames, step_px=step_px))


def costs_of(scan: Scan, model: TrainedModel, ranks: CountingRanks, found: dict[str, Any]) -> Costs:
    """Costs of one rank: what changes with the size of batch and object tells the parts of a time apart."""
    small_batch, _ = measure_training(scan, ranks, TRAINING_BATCH // 4)
    step_s, group_s = fit_lines(
        [[1, TRAINING_BATCH], [1, TRAINING_BATCH // 4]], [found["training step"]["s"], small_batch["s"]]
    )
    half = subset(scan, np.arange(scan.n_positions // 2))
    frame_s, _ = fit_lines(
        [[scan.n_positions, 1], [half.n_positions, 1]],
        [found["reconstruction"]["s"], least(lambda: stitch_scan(model, half, ranks, CPU), ranks)["s"]],
    )
    rows, seconds = [], []
    for refined, batch in (
        (scan, REFINE_BATCH),
        (scan, REFINE_BATCH // 4),
        (measured_scan(scan.n_positions, 28.0), REFINE_BATCH),
    ):
        n_batches = scan.n_positions / batch
        rows.append([scan.n_positions, n_batches, n_batches * refined.grid.shape[0] * refined.grid.shape[1]])
        seconds.append(measure_refinement(refined, ranks, batch)["s"])
    refined_frame_s, refined_batch_s, px_s = fit_lines(rows, seconds)
    trained = [value for value in model.network.parameters() if value.requires_grad]
    return Costs(
        step_s=step_s,
        group_s=group_s,
        gradient_bytes=sum(value.numel() * value.element_size() for value in trained),
        frame_s=frame_s,
        solve_s=solve_seconds(model, scan) / scan.n_positions,
        refined_frame_s=refined_frame_s,
        refined_batch_s=refined_batch_s,
        px_s=px_s,
    )


def run_ranks(n: int, n_frames: int, folder: Path) -> dict[str, Any]:
    """What n processes of this machine measure together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    path = folder / f"{n}.json"
    command = [sys.executable, __file__, "--frames", str(n_frames), "--as-rank", str(path)]
    common = {**os.environ, "OMP_NUM_THREADS": "1"}
    meeting = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(command, env={**common, **({**meeting, "RANK": str(rank)} if n > 1 else {})})
        for rank in range(n)
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit(f"a rank of {n} failed")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def modelled(work: Workload, costs: Costs, network: Network, n: int) -> dict[str, Terms]:
    return {
        "training step": training_step(work, costs, network, n),
        "reconstruction": reconstruction(work, costs, network, n, largest_halo(work, n)),
        "refinement epoch": refinement_epoch(work, costs, network, n),
    }


def print_measured(measured: dict[int, dict[str, Any]], work: Workload, costs: Costs) -> None:
    heads = ("ranks", "CPU s", "efficiency", "model s", "wall s", "efficiency", "kB per rank")
    print(f"\n{'':17s}" + "".join(f"{head:>12s}" for head in heads))
    at_once = Network(0.0, math.inf)
    for what in ("training step", "reconstruction", "refinement epoch"):
        first = measured[1][what]
        for n, found in measured.items():
            cpu_s, wall_s, n_bytes = (found[what][key] for key in ("s", "wall_s", "bytes"))
            # What a rank computes; CPU seconds know no waiting.
            model_s = sum(modelled(work, costs, at_once, n)[what].values())
            efficiencies = first["s"] / (n * cpu_s), first["wall_s"] / (n * wall_s)
            print(
                f"{what:17s}{n:12d}{cpu_s:12.4f}{efficiencies[0]:12.0%}{model_s:12.4f}{wall_s:12.4f}"
                f"{efficiencies[1]:12.0%}{n_bytes / 1e3:12.1f}"
            )


def print_predicted(work: Workload, costs: Costs, network: Network) -> None:
    sizes = [2**k for k in range(11)]
    table = {n: modelled(work, costs, network, n) for n in sizes}
    for what in table[1]:
        totals = {n: sum(table[n][what].values()) for n in sizes}
        halved = next((n for n in sizes if totals[1] / (n * totals[n]) < 0.5), None)
        best = min(sizes, key=lambda n: totals[n])
        print(f"\n{what}: seconds (efficiency) by ranks")
        print("  " + ", ".join(f"{n}: {totals[n]:.3g} ({totals[1] / (n * totals[n]):.0%})" for n in sizes))
        if halved is None:
            print("  more than half as efficient on 1,024 ranks as on one")
            continue
        terms = {name: seconds for name, seconds in table[halved][what].items() if "of the rank" not in name}
        print(
            f"  less than half as efficient from {halved} ranks on: {max(terms, key=lambda name: terms[name])}"
            f" takes {max(terms.values()) / totals[halved]:.0%} of the time; fastest on {best} ranks"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=256, help="of the scan that is measured")
    parser.add_argument("--latency-us", type=float, default=5.0, help="of a message in the network to predict")
    parser.add_argument("--gigabytes-per-s", type=float, default=10.0, help="of each rank in the network to predict")
    parser.add_argument("--large-frames", type=int, default=2**16, help="of the scan to predict")
    parser.add_argument("--as-rank", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_rank is not None:
        work_as_rank(arguments.frames, arguments.as_rank)
        return
    print("command:", " ".join(["python", *sys.argv]))
    print(
        f"machine: {os.cpu_count()} cores, {platform.processor() or platform.machine()}, 1 thread a rank;", date.today()
    )
    with tempfile.TemporaryDirectory() as folder:
        measured = {n: run_ranks(n, arguments.frames, Path(folder)) for n in SIZES}
    costs, window_px = Costs(**measured[1]["costs"]), measured[1]["window_px"]
    print("costs of one rank:", ", ".join(f"{name} = {value:.3g}" for name, value in costs.__dict__.items()))
    for n in SIZES[1:]:
        print(f"sums over {n} ranks here:", ", ".join(f"{k} = {v:.3g}" for k, v in measured[n]["transport"].items()))
    scan = measured_scan(arguments.frames)
    here = Workload(
        positions_px=scan.positions_px,
        object_px=scan.grid.shape[0] * scan.grid.shape[1],
        patch_px=scan.patch_size,
        window_px=window_px,
        training_batch=TRAINING_BATCH,
        refine_batch=REFINE_BATCH,
    )
    print_measured(measured, here, costs)
    side = round(arguments.large_frames**0.5)
    raster = np.stack(np.divmod(np.arange(side**2), side), 1) * 7.0
    large = replace(
        here, positions_px=raster, object_px=int(7 * side + 64) ** 2, training_batch=1024, refine_batch=side**2 // 32
    )
    network = Network(arguments.latency_us * 1e-6, arguments.gigabytes_per_s * 1e9)
    print(
        f"\npredicted: {side**2} frames of {large.patch_px}², {large.object_px / 1e6:.1f} Mpx of object, training"
        f" batches of {large.training_batch}, refinement batches of {large.refine_batch};"
    )
    print(
        f"ranks as fast as one here, messages of {arguments.latency_us:g} µs, {arguments.gigabytes_per_s:g} GB/s a rank"
    )
    print_predicted(large, costs, network)


if __name__ == "__main__":
    main()
