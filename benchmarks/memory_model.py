"""How close the memory that a dry run estimates comes to the peak of a whole run, in one process on a CPU.

Prints one row per run: what `ptycho submit --dry-run` says for it, and the most memory that the process really held
(ru_maxrss, noted in the run folder).

    python benchmarks/memory_model.py                 all cases, about ten minutes on a quiet core
    python benchmarks/memory_model.py --engine rpie   those of one engine
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from ptycho.config.simulate import SimulateConfig
from ptycho.data.formats.hdf5 import write_scan
from ptycho.jobs.estimates import memory_of, shares
from ptycho.jobs.resolve import open_job_scan
from ptycho.jobs.resolved_job import ResolvedJob
from ptycho_torch.simulate import simulate_scan

# Engine, frames, their width in pixels, further keys of the spec. One epoch each, over few groups for the network:
# memory does not grow with epochs or steps.
FEW = {"training.nepochs": 1, "training.n_groups": 16}
CASES: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("rpie", 100, 64, {}),
    ("rpie", 1500, 64, {}),
    ("rpie", 600, 128, {}),
    ("rpie", 1200, 128, {}),
    ("pinn", 100, 64, {}),
    ("pinn", 100, 128, {}),
    ("pinn", 100, 64, {"training.batch_size": 16}),
    ("pinn", 100, 64, {"model.n_filters_scale": 4}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", help="only the cases of this engine")
    arguments = parser.parse_args()
    print("command:", " ".join(["python", *sys.argv]))
    print(f"machine: {os.cpu_count()} cores, {platform.processor() or platform.machine()}; {date.today()}\n")
    print(
        f"{'engine':6s} {'frames':>6s} {'width':>5s} {'options':28s} {'estimated MB':>12s} {'measured MB':>11s}  ratio"
    )
    with tempfile.TemporaryDirectory() as folder:
        for engine, n_positions, width, options in CASES:
            if arguments.engine in (None, engine):
                estimated, measured = measure(Path(folder), engine, n_positions, width, options)
                shown = ", ".join(f"{key.partition('.')[2]} {value}" for key, value in options.items())
                print(
                    f"{engine:6s} {n_positions:6d} {width:5d} {shown:28s} {estimated:12.0f} {measured:11d}"
                    f"  {estimated / measured:.2f}",
                    flush=True,
                )


def measure(folder: Path, engine: str, n_positions: int, width: int, options: dict[str, int]) -> tuple[float, int]:
    """Estimated and measured peak, in MB, of a whole run in a process of its own."""
    scan = folder / f"scan-{n_positions}-{width}.h5"
    if not scan.exists():
        write_scan(simulate_scan(SimulateConfig(n_positions=n_positions, patch_size=width)), scan)
    spec = folder / "job.toml"
    spec.write_text(f'[job]\nengine = "{engine}"\n[data]\nscan = "{scan.name}"\n[resources]\nexecutor = "here"\n')
    wanted = {"refine.epochs": 1, "output.dir": str(folder / "runs"), **(FEW if engine == "pinn" else {}), **options}
    words = [word for key, value in wanted.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "ptycho", "run", str(spec), *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    run = max(folder.glob("runs/*/state.json"), key=lambda path: path.stat().st_mtime).parent
    job = ResolvedJob.read(run / "resolved.json")
    opened = open_job_scan(job.data)
    (share,) = shares(job, opened)
    peak: int = json.loads((run / "ranks" / "rank-0.json").read_text())["peak_memory_mb"]
    return memory_of(job, opened, share).total_mb, peak


if __name__ == "__main__":
    main()
