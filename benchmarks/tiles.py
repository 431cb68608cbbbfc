"""What tiles save: pixels of the object that a rank holds, what it sends, and its CPU time, an epoch of refinement.

    python benchmarks/tiles.py --frames 4096 --ranks 1 2 4 8

Ranks are processes joined by gloo on this machine, one thread each. Times are CPU seconds of the slowest rank, the
least of the epochs after the first: cores may be shared, and waiting for other ranks is not in them.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import socket
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context

import numpy as np
import torch

from ptycho.config.refine import RefineConfig
from ptycho.config.simulate import SimulateConfig
from ptycho.parallel import SerialRanks, find_ranks
from ptycho_torch.simulate import simulate_scan
from ptycho_torch.stages.refinement import build_engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=4096)
    parser.add_argument("--frame-px", type=int, default=32)
    parser.add_argument("--step-px", type=float, default=8.0)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--engine", default="mpie")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    print("command:", " ".join(["python", *sys.argv]))
    print(f"machine: {os.cpu_count()} cores, 1 thread a rank; {date.today()}")
    print(
        f"{'object':>6s} {'ranks':>5s} {'Mpx held':>8s} {'MB sent':>8s} {'CPU s':>6s} {'peak MB':>7s} {'R-factor':>8s}"
    )
    for n_ranks in options.ranks:
        for tiles in (False, True):
            if tiles and n_ranks == 1:
                continue
            port = _free_port()
            with ProcessPoolExecutor(n_ranks, get_context("spawn")) as pool:
                futures = [pool.submit(refine_as, rank, n_ranks, port, tiles, options) for rank in range(n_ranks)]
                found = np.array([future.result() for future in futures]).max(0)
            held, sent, cpu_s, peak, r_factor = found
            kind = "tiles" if tiles else "whole"
            print(
                f"{kind:>6s} {n_ranks:5d} {held / 1e6:8.3f} {sent / 1e6:8.2f} {cpu_s:6.2f} {peak:7.0f} {r_factor:8.4f}",
                flush=True,
            )


def refine_as(rank: int, size: int, port: int, tiles: bool, options: argparse.Namespace) -> list[float]:
    """Pixels held, bytes sent and CPU seconds in an epoch, peak memory in MB, and the last R-factor, of one rank."""
    torch.set_num_threads(1)
    environment = {"WORLD_SIZE": str(size), "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = SerialRanks() if size == 1 else find_ranks(environment)
    scan = simulate_scan(
        SimulateConfig(
            n_positions=options.frames,
            patch_size=options.frame_px,
            step_px=options.step_px,
            probe_defocus_px2=25.0,
            object="field",
        )
    )
    config = RefineConfig(engine=options.engine, tiles=tiles)
    engine = build_engine(scan, config, ranks, torch.device("cpu"))
    seconds = []
    for epoch in range(1, options.epochs + 1):
        started_s = time.process_time()
        result = engine.run_epoch(epoch)
        seconds.append(time.process_time() - started_s)
    held = math.prod(engine.grid.shape if engine.tile is None else engine.tile.grid.shape)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    ranks.close()
    return [held, result.sent_bytes, min(seconds[1:]), peak_mb, result.r_factor]


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


if __name__ == "__main__":
    main()
