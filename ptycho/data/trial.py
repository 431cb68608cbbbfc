"""Reading an HDF5 file in a child process first, because a damaged one can crash the HDF5 library, or make it loop."""

from __future__ import annotations

import faulthandler
import os
import resource
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from ptycho.errors import DataError

# What opening takes is reading headers and some frames. Time of the processor, because disks may be slow for long.
CPU_LIMIT_S = 30
WALL_LIMIT_S = 600.0
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Where HDF5 looks for its signature: a file may begin with a block of its user's (HDF5 file format, section II.A).
USER_BLOCKS = (0, 512, 1024, 2048)


def starts_as_hdf5(path: Path) -> bool:
    """Whether the file's first bytes are HDF5's, found without the HDF5 library."""
    try:
        with path.open("rb") as file:
            start = file.read(2 * USER_BLOCKS[-1])
    except OSError:
        return False
    return any(start[at:].startswith(HDF5_SIGNATURE) for at in USER_BLOCKS)


def try_apart(paths: Iterable[Path | None], work: Callable[[], object]) -> None:
    """Do work that reads these files in a forked child, and forget what comes of it.

    paths: the first one is named in the error; without an HDF5 file among them nothing is done

    Raises DataError only when the child crashes or does not end: whatever else is wrong with the files, doing the work
    here will say. Does nothing where forking is not safe (under MPI, beside other threads of Python).
    """
    files = [path for path in paths if path is not None]
    if not any(map(starts_as_hdf5, files)):
        return
    if not hasattr(os, "fork") or "mpi4py.MPI" in sys.modules or threading.active_count() > 1:
        return
    ended, held = os.pipe()
    with warnings.catch_warnings():
        # Newer Pythons warn of threads that C libraries keep; the child uses none of these libraries.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _work_and_end(work)
    os.close(held)
    # The pipe ends when its last writer does, however that comes about.
    is_over = bool(select.select([ended], [], [], WALL_LIMIT_S)[0])
    os.close(ended)
    if not is_over:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not is_over:
        raise DataError(f"{files[0]}: not open after {WALL_LIMIT_S:g} s; its disk hangs, or the file is damaged.")
    if not os.WIFSIGNALED(status):
        return
    if os.WTERMSIG(status) == signal.SIGXCPU:
        raise DataError(
            f"{files[0]}: the HDF5 library computes for more than {CPU_LIMIT_S} s without opening it; the file is"
            " damaged. Copy it again."
        )
    name = signal.Signals(os.WTERMSIG(status)).name
    raise DataError(f"{files[0]}: the file is damaged in a way that crashes the HDF5 library ({name}). Copy it again.")


def _work_and_end(work: Callable[[], object]) -> None:
    """Never returns: what the parent has begun must not be ended twice."""
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S + 1))
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        # A crash is told in one sentence, by the parent.
        faulthandler.disable()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
        work()
    finally:
        os._exit(0)
