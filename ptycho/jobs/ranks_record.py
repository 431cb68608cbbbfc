"""What each rank writes about itself, so that the first cause of a failure can be told from its consequences."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ptycho.errors import RequestError
from ptycho.jobs.json_file import read_json, write_json
from ptycho.jobs.process import Process
from ptycho.jobs.run_folder import RunFolder

RUNNING, FINISHED, FAILED, CANCELLED, FOLLOWED = "running", "finished", "failed", "cancelled", "followed"


@dataclass(frozen=True, kw_only=True)
class RankRecord:
    """One rank of one attempt.

    status: running, finished, failed (its own fault), cancelled, followed (ended because another rank had)
    time_s: seconds since the epoch of the last change, by rank 0's clock
    clock_ahead_s: how far this machine's clock is ahead of rank 0's
    is_certain: False for a failure that may only be the echo of another rank's end, such as a broken connection
    """

    rank: int
    attempt: int
    process: Process
    status: str = RUNNING
    sentence: str = ""
    stage: str = ""
    time_s: float = 0.0
    clock_ahead_s: float = 0.0
    peak_memory_mb: int = 0
    is_certain: bool = True

    @property
    def ended(self) -> bool:
        return self.status != RUNNING

    @property
    def vanished(self) -> bool:
        """Gone without a last word: killed from outside, or by the kernel when memory ran out."""
        return not self.ended and self.process.is_here and not self.process.is_alive

    def write(self, folder: RunFolder) -> None:
        """Write this rank's file; each rank has its own, so that ranks never write over one another."""
        write_json(self.path(folder), asdict(replace(self, time_s=time.time() - self.clock_ahead_s)))

    def path(self, folder: RunFolder) -> Path:
        """Where it lies."""
        return folder.ranks / f"rank-{self.rank}.json"

    def touch(self, folder: RunFolder) -> None:
        """Tell the other ranks that this one lives."""
        os.utime(self.path(folder))


def read_records(folder: RunFolder) -> list[RankRecord]:
    """The ranks of the newest attempt, by rank."""
    records = []
    for path in folder.ranks.glob("rank-*.json"):
        try:
            content: dict[str, Any] = read_json(path)
            records.append(RankRecord(**{**content, "process": Process(**content["process"])}))
        except (RequestError, TypeError, KeyError):
            # Removed meanwhile, or written by another version: it tells nothing about this attempt.
            continue
    newest = max((record.attempt for record in records), default=0)
    return sorted((record for record in records if record.attempt == newest), key=lambda record: record.rank)


def first_cause(records: Sequence[RankRecord], *, are_over: bool = False) -> str | None:
    """One sentence naming the rank and host that failed first, or None when none did.

    are_over: whether all ranks are known to have ended, so that one that still says "running" was killed; from another
              host nothing else tells
    A rank reports a failure of its own only after it has looked for another's, so a report comes before silence.
    """
    gone = [record for record in records if record.vanished or (are_over and not record.ended)]
    failed = [record for record in records if record.status == FAILED and (record.is_certain or not gone)]
    failed.sort(key=lambda record: record.time_s)
    if failed:
        first = failed[0]
        stage = f" in stage {first.stage}" if first.stage else ""
        return f"Rank {first.rank} on {first.process.host} failed{stage}: {first.sentence}"
    if len(records) > 1 and len(gone) == len(records):
        return (
            f"All {len(records)} ranks ended without a word: they were killed from outside, or the machine went down."
        )
    if gone:
        first = gone[0]
        return (
            f"Rank {first.rank} on {first.process.host} (process {first.process.pid}) ended without a word:"
            " it was killed from outside, or it needed more memory than there was."
        )
    return None
