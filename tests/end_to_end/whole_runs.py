"""Whole runs of the command in processes of their own, on a small simulated scan."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from ptycho.config.simulate import SimulateConfig
from ptycho.data.formats.hdf5 import write_scan
from ptycho.data.formats.product import read_product
from ptycho_torch.simulate import simulate_scan

ROOT = Path(__file__).parents[2]

SPEC = """
[job]
name = "{name}"
engine = "{engine}"
seed = 3

[data]
scan = "{scan}"

[model]
n_filters_scale = 1

[training]
nepochs = 3
batch_size = 16

[refine]
epochs = {epochs}

[resources]
executor = "local"
ranks_per_node = {ranks}

[output]
dir = "{output}"
"""


def simulate(path, **options):
    """A simulated scan in a file; small unless told otherwise."""
    write_scan(simulate_scan(SimulateConfig(**{"n_positions": 144, "patch_size": 64, **options})), path)
    return path


def write_spec(folder, *, name="run", engine="pinn", scan="scan.h5", epochs=6, ranks=1):
    path = folder / f"{name}.toml"
    path.write_text(
        SPEC.format(name=name, engine=engine, scan=scan, epochs=epochs, ranks=ranks, output=folder / "runs" / name)
    )
    return path


def environment():
    """One thread for each rank, so that sums have one order and results can be compared to the last digit."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def ptycho(*arguments, cwd, prefix=()):
    """Run the command to its end."""
    return subprocess.run(
        [*prefix, sys.executable, "-m", "ptycho", *map(str, arguments)],
        cwd=cwd, env=environment(), capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip


def finished_run(spec):
    """The run folder of a spec that was run to its end."""
    done = ptycho("run", spec, cwd=spec.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return only_run(spec)


def only_run(spec):
    (folder,) = (spec.parent / "runs" / spec.stem).iterdir()
    return folder


def object_of(folder):
    return read_product(folder / "result.h5").object


def relative_difference(image, reference):
    return np.linalg.norm(image - reference) / np.linalg.norm(reference)


def events(folder):
    path = folder / "events.ndjson"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def run_until(spec, is_time, timeout_s=600):
    """Start a run, and kill every process of it with SIGKILL as soon as an event satisfies `is_time`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ptycho", "run", str(spec)],
        cwd=spec.parent, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + timeout_s
    try:
        while True:
            folders = list((spec.parent / "runs" / spec.stem).glob("*/"))
            if folders and any(is_time(event) for event in events(folders[0])):
                break
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < end, "the run never came to the point where it was to be killed"
            time.sleep(0.005)
    finally:
        kill_all(folders[0] if folders else None, process)
    return folders[0]


def kill_all(folder, process):
    """SIGKILL for the launcher and every rank."""
    records = [json.loads(path.read_text()) for path in (folder / "ranks").glob("*.json")] if folder else []
    for pid in [record["process"]["pid"] for record in records]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
