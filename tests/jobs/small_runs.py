"""Small scans, specs and real processes for the tests of jobs and of the command line."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np

from ptycho.data.formats.hdf5 import write_scan
from ptycho.data.scan import ArrayFrames, Scan
from ptycho.jobs.new_run import new_run
from ptycho.jobs.spec import load_spec

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).parent / "stand_in"


def write_small_scan(path, n_positions=12, patch_size=16):
    """A scan file of random counts, for work that does not look at them."""
    rng = np.random.default_rng(0)
    scan = Scan(
        name=path.stem,
        path=None,
        frames=ArrayFrames(rng.poisson(5, (n_positions, patch_size, patch_size)).astype(np.uint16)),
        positions_px=rng.uniform(0, 20, (n_positions, 2)),
        probe=np.ones((1, patch_size, patch_size), np.complex64),
    )
    write_scan(scan, path)
    return path


def write_spec(folder, **overrides):
    """A spec for a small scan beside it; keys as table__key, an iterative engine unless told otherwise."""
    if not (folder / "scan.h5").exists():
        write_small_scan(folder / "scan.h5")
    values = {"job__engine": "rpie", "data__scan": "scan.h5", "output__dir": str(folder / "runs"), **overrides}
    tables = {}
    for path, value in values.items():
        if value is None:
            continue
        table, _, key = path.partition("__")
        shown = str(value).lower() if isinstance(value, bool) else repr(value)
        tables.setdefault(table, []).append(f"{key} = {shown}")
    spec = folder / "job.toml"
    spec.write_text("\n".join("\n".join([f"[{table}]", *lines]) for table, lines in tables.items()) + "\n")
    return spec


def make_run(folder, **overrides):
    """A new run folder and its job."""
    run_folder, job, _ = new_run(load_spec(write_spec(folder, **overrides)))
    return run_folder, job


def stand_in_environment():
    """The environment in which processes find this repository, with stages that only count."""
    paths = [str(STAND_IN), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path), "NO_COLOR": "1"}


def ptycho(*arguments, cwd, prefix=()):
    """Runs the command in a process of its own, with stages that only count."""
    command = [*prefix, sys.executable, "-m", "ptycho", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=stand_in_environment(), capture_output=True, text=True, timeout=600, check=False
    )


def start_ptycho(*arguments, cwd):
    """Starts the command in a process group of its own and returns at once."""
    return subprocess.Popen(
        [sys.executable, "-m", "ptycho", *map(str, arguments)],
        cwd=cwd,
        env=stand_in_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that run in the background may have inherited to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def write_program(folder, name, script):
    """A program of this name for the front of PATH."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
