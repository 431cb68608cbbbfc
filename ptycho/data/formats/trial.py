"""Opening a file in a child process first, because a damaged one can crash the HDF5 library, or hang it for ever."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from ptycho.data.formats import open_scan
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.errors import DataError


def try_apart(path: Path, said: ReadOverrides, limit_s: float = 120.0) -> None:
    """Open the scan and read one frame in a forked child; what that finds is forgotten.

    Raises DataError only when the child crashes or does not end within `limit_s`: whatever else is wrong with the file,
    opening it here will say. Does nothing where forking is not safe (under MPI, beside other threads).
    """
    if not hasattr(os, "fork") or "mpi4py.MPI" in sys.modules or threading.active_count() > 1:
        return
    child = os.fork()
    if child == 0:
        try:
            open_scan(path, said).frames.read(np.array([0]))
        finally:
            os._exit(0)
    status = _wait(child, limit_s)
    if status is None:
        raise DataError(f"{path}: opening it takes more than {limit_s:g} s; the file is damaged, or its disk hangs.")
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        raise DataError(f"{path}: the file is damaged in a way that crashes the HDF5 library ({name}). Copy it again.")


def _wait(child: int, limit_s: float) -> int | None:
    """The child's exit status; None when it had to be killed."""
    end, pause_s = time.monotonic() + limit_s, 0.001
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
