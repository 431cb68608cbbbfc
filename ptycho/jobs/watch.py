"""A thread of every rank that watches over the run: a request to cancel, the death of another rank."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable

from ptycho.errors import PtychoError
from ptycho.jobs import lock
from ptycho.jobs.ranks_record import RankRecord, first_cause, read_records
from ptycho.jobs.run_folder import RunFolder
from ptycho.jobs.stopping import StopFlag

log = logging.getLogger(__name__)

PERIOD_S = 1.0
# Time for the main thread to notice by itself (gloo reports a broken connection) before the process is ended.
GRACE_S = 3.0


class RunWatch:
    """Watches while the stages run.

    A rank that waits in a collective for a dead one would hang until the library's own timeout, half an hour later.
    Collectives release Python's lock, so this thread can end the process and say why.
    """

    def __init__(
        self, folder: RunFolder, record: RankRecord, flag: StopFlag, on_failure: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._record = record
        self._flag = flag
        self._on_failure = on_failure
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="run-watch", daemon=True)

    def __enter__(self) -> RunWatch:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        last_beat_s = 0.0
        while not self._done.wait(PERIOD_S):
            # A shared file system that stumbles for a moment must not end the run.
            with contextlib.suppress(OSError, PtychoError):
                if self._folder.cancel_path.exists():
                    self._flag.set("ptycho cancel")
                if self._record.rank == 0 and time.monotonic() - last_beat_s > lock.HEARTBEAT_S:
                    lock.touch(self._folder)
                    last_beat_s = time.monotonic()
                cause = self.failure_elsewhere()
                if cause and not self._done.wait(GRACE_S):
                    self._end(cause)

    def failure_elsewhere(self) -> str | None:
        """What happened to another rank of this attempt, or None while all live."""
        records = [record for record in read_records(self._folder) if record.attempt == self._record.attempt]
        return first_cause([record for record in records if record.rank != self._record.rank])

    def cause_elsewhere(self, within_s: float) -> str | None:
        """Wait a moment for another rank's record: an error here may only be the broken connection to it."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            cause = self.failure_elsewhere()
            if cause:
                return cause
            time.sleep(0.1)
        return None

    def _end(self, cause: str) -> None:
        log.error("ending because another rank has failed: %s", cause)
        with contextlib.suppress(OSError, PtychoError):
            self._on_failure(cause)
        logging.shutdown()
        # Nothing gentler ends a process whose main thread waits inside a collective.
        os._exit(1)
