"""The lock of a run folder: at most one execution works in it."""

from __future__ import annotations

import os
import time
from dataclasses import asdict

from ptycho.errors import RequestError, WorkError
from ptycho.jobs.json_file import read_json, write_json
from ptycho.jobs.listener import Listener
from ptycho.jobs.process import Process
from ptycho.jobs.ranks_record import read_records
from ptycho.jobs.run_folder import RunFolder
from ptycho.whole_file import write_problem

# A run touches its lock this often, so that another host can tell a living run from a dead one ...
HEARTBEAT_S = 5.0
# ... which it is when the lock has not been touched for this long, by the file system's own clock.
STALE_AFTER_S = 120.0


def acquire(folder: RunFolder) -> None:
    """Take the lock for this process. Raises RequestError, naming the owner, while another execution lives."""
    _refuse_if_in_use(folder)
    mine = folder.path / f".lock-{os.getpid()}"
    write_json(mine, asdict(Process.current()))
    try:
        for _ in range(3):
            try:
                # A hard link is made whole or not at all, also on network file systems.
                os.link(mine, folder.lock_path)
            except FileExistsError:
                _refuse_or_clear(folder)
            else:
                return
        raise RequestError(f"{folder.path} is being started by another process; wait a moment.")
    except OSError as error:
        raise RequestError(write_problem(folder.lock_path, error)) from error
    finally:
        mine.unlink(missing_ok=True)


def _refuse_if_in_use(folder: RunFolder) -> None:
    living = owner(folder)
    if living is not None and living != Process.current():
        raise _in_use(folder, living)


def _refuse_or_clear(folder: RunFolder) -> None:
    """Refuse while the lock's owner lives; otherwise move the dead one's lock away."""
    stale = _lock_text(folder)
    _refuse_if_in_use(folder)
    _refuse_if_heard(folder)
    aside = folder.path / f".lock-stale-{os.getpid()}"
    try:
        folder.lock_path.rename(aside)
        if aside.read_text(encoding="utf-8") != stale:
            # Somebody else cleared the dead lock first and this is theirs: give it back.
            os.link(aside, folder.lock_path)
    except (FileNotFoundError, FileExistsError):
        return
    finally:
        aside.unlink(missing_ok=True)


def _refuse_if_heard(folder: RunFolder) -> None:
    """Refuse when the owner's heart beats although its time stamps look old: its machine's clock may be wrong."""
    try:
        locked_by = Process(**read_json(folder.lock_path))
        lives = not locked_by.is_here and Listener(folder.lock_path).hears_within(2.5 * HEARTBEAT_S)
    except (RequestError, TypeError, FileNotFoundError):
        return
    if lives:
        raise _in_use(folder, locked_by)


def _in_use(folder: RunFolder, process: Process) -> RequestError:
    return RequestError(
        f"{folder.path} is in use by process {process.pid} on {process.host}."
        f" See what it does: ptycho status {folder.path}; stop it: ptycho cancel {folder.path}"
    )


def _lock_text(folder: RunFolder) -> str:
    try:
        return folder.lock_path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def hand_over(folder: RunFolder, process: Process) -> None:
    """Make another process (the controller of the ranks, rank 0 of a cluster job) the lock's owner."""
    write_json(folder.lock_path, asdict(process))


def release(folder: RunFolder) -> None:
    """Give the lock back."""
    folder.lock_path.unlink(missing_ok=True)


def touch(folder: RunFolder) -> None:
    """The heartbeat that tells other hosts that the run lives."""
    if folder.lock_path.exists():
        os.utime(folder.lock_path)


def owner(folder: RunFolder) -> Process | None:
    """The living process that works in the folder: the lock's owner or one of its ranks; None when all are gone."""
    try:
        locked_by = Process(**read_json(folder.lock_path))
    except (RequestError, TypeError):
        locked_by = None
    known = [record.process for record in read_records(folder) if not record.ended]
    if locked_by is not None:
        known.insert(0, locked_by)
    for process in known:
        if process.is_alive:
            return process
    # A stamp from the future comes from a wrong clock and tells nothing.
    if locked_by is not None and not locked_by.is_here and -HEARTBEAT_S < _heartbeat_age_s(folder) < STALE_AFTER_S:
        return locked_by
    return None


def _heartbeat_age_s(folder: RunFolder) -> float:
    """Seconds since the last heartbeat. Both times come from the file system, whose clock may differ from ours."""
    probe = folder.path / f".clock-{os.getpid()}"
    try:
        probe.touch()
        server_now = probe.stat().st_mtime
        return server_now - folder.lock_path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    except OSError as error:
        raise WorkError(write_problem(probe, error)) from error
    finally:
        probe.unlink(missing_ok=True)


def wait_until_free(folder: RunFolder, seconds: float) -> bool:
    """Wait for the run to end; False when it still lives after that time."""
    end = time.monotonic() + seconds
    while owner(folder) is not None:
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
