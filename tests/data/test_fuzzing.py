"""Damaged and hostile files of every format: each is opened or refused in a sentence, in bounded time and memory.

PTYCHO_TESTS_FUZZ sets how many files of each format are tried.
"""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.data.format_samples import SAMPLES

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
N_FILES = int(os.environ.get("PTYCHO_TESTS_FUZZ", "500"))
# For all files of one format, on a busy machine; each file is bounded by the time of the processor that it takes.
LIMIT_S = 1200
CPU_LIMIT_S = 1.2
PEAK_MIB = 1024
# What a library does that fell over a file; the time of the processor ends by SIGPROF.
LIBRARY_ENDS = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGPROF}


def test_no_damaged_file_crashes_hangs_fills_memory_or_runs_code(tmp_path, capsys):
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(SAMPLES, pool.map(lambda name: outcomes(name, tmp_path), SAMPLES), strict=True))
    with capsys.disabled():
        print_table(found)
    failed = [file["failed"] for files in found.values() for file in files if "failed" in file]
    assert not failed, "\n".join(failed)
    for files in found.values():
        assert len(files) == N_FILES
        assert max(file["cpu_s"] for file in files) < CPU_LIMIT_S
        assert max(file["peak_MiB"] for file in files) < PEAK_MIB


def outcomes(name, folder):
    """What came of each damaged file of a sample; where the library fell over one, of that file behind the guard."""
    found = []
    while (number := len(found)) < N_FILES:
        code, files, said = fuzz(name, folder / f"{name}-{number}", number, N_FILES)
        found += files
        number = len(found)
        if -code in LIBRARY_ENDS:
            code, files, said = fuzz(name, folder / f"{name}-{number}-guarded", number, number + 1, "guarded")
            found += [{**file, "library_failed": True} for file in files]
        if code:
            failed = f"{name}, file {number}: exit code {code}\n{said[-1500:]}"
            found.append({"outcome": "failed", "cpu_s": 0, "peak_MiB": 0, "failed": failed})
    return found


def fuzz(name, folder, first, stop, *more):
    """The exit code of one process, what it says of each file, and its errors."""
    command = [sys.executable, "-m", "tests.data.fuzzing", name, str(first), str(stop), str(folder), *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")], done.stderr


def print_table(found):
    write = sys.stdout.write
    write(f"\n{'format':17}{'files':>6}{'opened':>8}{'refused':>9}{'for HDF5':>10}{'slowest':>11}{'memory':>10}\n")
    for name, files in found.items():
        opened, refused = (sum(file["outcome"] == what for file in files) for what in ("opened", "refused"))
        library = sum(file.get("library_failed", False) for file in files)
        slowest, peak = (max(file[key] for file in files) for key in ("cpu_s", "peak_MiB"))
        write(f"{name:17}{len(files):6}{opened:8}{refused:9}{library:10}{slowest:9.2f} s{peak:+6} MiB\n")
    write("for HDF5: the library crashed or looped, which the guard refuses in a sentence; slowest: processor time\n")
