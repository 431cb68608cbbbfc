"""A thread of every rank that watches over the run: a request to cancel, the death of another rank."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from ptycho.errors import PtychoError
from ptycho.jobs import lock
from ptycho.jobs.listener import Listener
from ptycho.jobs.ranks_record import FOLLOWED, RankRecord, first_cause, read_records
from ptycho.jobs.run_folder import RunFolder
from ptycho.jobs.stopping import StopFlag

log = logging.getLogger(__name__)

PERIOD_S = 1.0
# Time for the main thread to notice by itself (gloo reports a broken connection) before the process is ended.
GRACE_S = 3.0
# A rank whose record has not been touched for this long has died with its machine, or hangs.
SILENT_AFTER_S = 40.0
# Every rank reads the records of all others; a thousand ranks that did so every second would load the file system
# with a million reads. So many ranks are looked at in a second.
RECORDS_PER_S = 32


class RunWatch:
    """Watches while the stages run.

    A rank that waits in a collective for a dead one would hang until the library's own timeout, half an hour later.
    Collectives release Python's lock, so this thread can end the process and say why. Ranks of this host are seen to
    vanish; those of others fall silent, and each rank listens to the next one.
    """

    def __init__(
        self, folder: RunFolder, record: RankRecord, flag: StopFlag, on_failure: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._record = record
        self._flag = flag
        self._on_failure = on_failure
        self._n_ranks = 1
        self._next: Listener | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="run-watch", daemon=True)

    def __enter__(self) -> RunWatch:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def expect(self, n_ranks: int) -> None:
        """From now on, so many ranks are known to have met."""
        self._n_ranks = n_ranks
        if n_ranks > 1:
            following = replace(self._record, rank=(self._record.rank + 1) % n_ranks)
            self._next = Listener(following.path(self._folder))

    def _watch(self) -> None:
        last_beat_s = last_look_s = -math.inf
        while not self._done.wait(PERIOD_S):
            now_s = time.monotonic()
            # A shared file system that stumbles for a moment must not end the run.
            with contextlib.suppress(OSError, PtychoError):
                if self._folder.cancel_path.exists():
                    self._flag.set("ptycho cancel")
                if now_s - last_beat_s > lock.HEARTBEAT_S:
                    self._record.touch(self._folder)
                    if self._record.rank == 0:
                        lock.touch(self._folder)
                    last_beat_s = now_s
                cause = self._silence()
                if cause is None and now_s - last_look_s >= self._n_ranks / RECORDS_PER_S:
                    cause = self.failure_elsewhere()
                    last_look_s = now_s
                if cause and not self._done.wait(GRACE_S):
                    self._end(cause)

    def _silence(self) -> str | None:
        """That the next rank has fallen silent, or None."""
        if self._next is None or self._next.silent_s() < SILENT_AFTER_S:
            return None
        records = [record for record in read_records(self._folder) if self._next.path == record.path(self._folder)]
        if not records or records[0].ended:
            return None
        return (
            f"Rank {records[0].rank} on {records[0].process.host} has given no sign of life for {SILENT_AFTER_S:.0f} s:"
            " its machine has died or hangs, or cannot reach the run folder."
        )

    def failure_elsewhere(self) -> str | None:
        """What happened to another rank of this attempt, or None while all live."""
        records = [record for record in read_records(self._folder) if record.attempt == self._record.attempt]
        others = [record for record in records if record.rank != self._record.rank]
        # Who follows a rank that has fallen silent is followed: only its neighbour listens to it.
        followed = (record.sentence for record in others if record.status == FOLLOWED)
        return first_cause(others) or next(followed, None)

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
