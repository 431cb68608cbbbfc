"""Damaged and hostile files of every format: each is read or refused in a sentence, in bounded time and memory.

PTYCHO_TESTS_FUZZ sets how many files of each format are tried.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.data.format_samples import SAMPLES

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
N_FILES = int(os.environ.get("PTYCHO_TESTS_FUZZ", "60"))
# A file that makes the HDF5 library hang costs 20 s; the clock is for all files of one format on a busy machine.
LIMIT_S = 1200
PEAK_MIB = 1024


def fuzz(name, folder):
    folder.mkdir()
    command = [sys.executable, "-m", "tests.data.fuzzing", name, str(N_FILES), str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)


def test_no_damaged_file_crashes_hangs_fills_memory_or_runs_code(tmp_path, capsys):
    with ThreadPoolExecutor(2) as pool:
        done = dict(zip(SAMPLES, pool.map(lambda name: fuzz(name, tmp_path / name), SAMPLES), strict=True))
    failed = {
        name: f"file {run.stdout.splitlines()[-1:]}: exit code {run.returncode}\n{run.stderr[-1500:]}"
        for name, run in done.items()
        if run.returncode
    }
    assert not failed, "\n".join(f"{name}, {text}" for name, text in failed.items())
    figures = {name: json.loads(run.stdout.splitlines()[-1]) for name, run in done.items()}
    with capsys.disabled():
        sys.stdout.write(f"\n{N_FILES} damaged files of each of {len(figures)} samples:\n")
        for name, found in figures.items():
            sys.stdout.write(
                f"  {name:17} {found['read']:4} read, {found['refused']:4} refused"
                f" ({found['library_failed']} for HDF5 itself), slowest {found['slowest_s']:.2f} s,"
                f" memory +{found['peak_MiB']} MiB\n"
            )
    assert all(found["read"] + found["refused"] == N_FILES for found in figures.values())
    assert max(found["peak_MiB"] for found in figures.values()) < PEAK_MIB
