"""What a run tells while it works: metrics.jsonl for numbers, events.ndjson for programs that watch."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ptycho.errors import WorkError
from ptycho.jobs.json_file import write_text
from ptycho.jobs.run_folder import RunFolder, now
from ptycho.whole_file import write_problem

log = logging.getLogger(__name__)

# A progress bar needs no more than this, and a file that is kept for years deserves no more.
PROGRESS_EVERY_S = 1.0


class Number(Protocol):
    """Anything that has a value as a float: Python's, numpy's and torch's scalars."""

    def __float__(self) -> float: ...


@dataclass
class Reporter:
    """Writes what happens into the run folder and the log; on ranks other than 0 every call does nothing.

    Report an epoch before saving its checkpoint: a run that is killed between the two then repeats the epoch, whose
    earlier line is cut off, and no epoch is ever missing.
    """

    folder: RunFolder
    rank: int = 0
    attempt: int = 1
    results: dict[str, int | float | None] = field(default_factory=dict, init=False)
    _last_progress_s: float = field(default=-math.inf, init=False)
    _last_epochs: dict[str, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.rank == 0:
            for path in (self.folder.events_path, self.folder.metrics_path):
                cut_unfinished_line(path)

    def started(self, **facts: object) -> None:
        """The run, or a further attempt of it, begins."""
        self._event("started", attempt=self.attempt, **facts)

    def stage(self, name: str, **facts: object) -> None:
        """A stage begins."""
        self._event("stage", stage=name, **facts)
        self._log(f"stage {name}" + "".join(f", {key} {value}" for key, value in facts.items()))

    def epoch(self, stage: str, epoch: int, n_epochs: int, **numbers: Number) -> None:
        """An epoch (1 to n_epochs) is done. Lines of this and later epochs, left by an earlier attempt, are cut."""
        if self.rank != 0:
            return
        row = {"stage": stage, "epoch": epoch, "n_epochs": n_epochs, **{k: _plain(v) for k, v in numbers.items()}}
        if epoch <= self._last_epochs.get(stage, epoch):
            cut_epochs(self.folder.metrics_path, stage, epoch)
        self._last_epochs[stage] = epoch
        _append(self.folder.metrics_path, {"time": now(), **row})
        self._event("epoch", **row)
        shown = ", ".join(f"{key} {format_number(_plain(value))}" for key, value in numbers.items())
        self._log(f"{stage} {epoch}/{n_epochs}: {shown}")

    def progress(self, stage: str, done: int, total: int) -> None:
        """How much of a stage's current loop is done; written at most once a second."""
        clock = time.monotonic()
        if self.rank == 0 and (done >= total or clock - self._last_progress_s >= PROGRESS_EVERY_S):
            self._last_progress_s = clock
            self._event("progress", stage=stage, done=done, total=total)

    def checkpoint(self, stage: str, epoch: int) -> None:
        """The state after this epoch is safe on disk."""
        self._event("checkpoint", stage=stage, epoch=epoch)

    def message(self, text: str) -> None:
        """A sentence for people."""
        self._event("message", text=text)
        self._log(text)

    def result(self, **numbers: Number) -> None:
        """What the run has reached (r_factor=..., phase_rmse_rad=...): shown last and kept in state.json."""
        plain = {key: _plain(value) for key, value in numbers.items()}
        self.results.update(plain)
        self._event("result", **plain)
        self._log("result: " + ", ".join(f"{key} {format_number(value)}" for key, value in plain.items()))

    def cancelling(self, reason: str) -> None:
        """Somebody asked the run to stop; it saves its state."""
        self._event("cancelling", reason=reason)
        self._log(f"stopping: {reason}")

    def finished(self, **facts: object) -> None:
        """The last stage is done."""
        self._event("finished", **facts)
        self._log("finished")

    def error(self, sentence: str, **facts: object) -> None:
        """The run failed."""
        self._event("error", message=sentence, **facts)

    def _event(self, event: str, **facts: object) -> None:
        if self.rank == 0:
            plain = {key: _plain(value) if isinstance(value, float) else value for key, value in facts.items()}
            _append(self.folder.events_path, {"time": now(), "event": event, **plain})

    def _log(self, text: str) -> None:
        if self.rank == 0:
            log.info("%s", text)


@dataclass
class EventFollower:
    """Reads the lines that were added to an events file since the last look."""

    path: Path
    _position: int = field(default=0, init=False)

    @classmethod
    def from_now_on(cls, path: Path) -> EventFollower:
        """A follower that skips what is already written."""
        follower = cls(path)
        follower._position = path.stat().st_size if path.exists() else 0
        return follower

    def new_events(self) -> Iterator[dict[str, Any]]:
        """Complete lines only; a line still being written is left for the next look."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                yield json.loads(line)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics or events file; none when there is no file yet."""
    return list(EventFollower(path).new_events())


def cut_unfinished_line(path: Path) -> None:
    """Remove the half line that a killed process may have left at the end."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def cut_epochs(path: Path, stage: str, first_epoch: int) -> None:
    """Remove the lines of a stage from an epoch on: they are about to be computed again."""
    rows = read_lines(path)
    kept = [row for row in rows if row["stage"] != stage or row["epoch"] < first_epoch]
    if len(kept) < len(rows):
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


def format_number(value: object) -> str:
    """Four significant digits, as a log line shows them."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Number) -> int | float | None:
    """A JSON number; None for NaN and infinity, which JSON does not have."""
    if isinstance(value, int):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _append(path: Path, row: dict[str, object]) -> None:
    """Add one line in one write, so that a reader and a kill see it whole."""
    line = (json.dumps(row, allow_nan=False) + "\n").encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, "the disk is full")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise WorkError(write_problem(path, error)) from error
