"""Following a run as it goes: a bar with rate and time left in a terminal, one plain line per epoch elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import typer

from ptycho.cli.console import duration, is_terminal
from ptycho.jobs.events import EventFollower, format_number
from ptycho.jobs.run_folder import RunFolder, seconds_between

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_FRAME = {"time", "event", "stage", "epoch", "n_epochs"}


class Display(Protocol):
    """Shows events, one after the other."""

    def show(self, event: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class PlainDisplay:
    """One line per event that a person would want to read in a log, years later."""

    def __init__(self) -> None:
        self._stage_began = ""
        self._epochs_seen = 0

    def show(self, event: dict[str, Any]) -> None:
        """Print the line of one event, if it has one."""
        kind = event["event"]
        if kind == "stage":
            self._stage_began, self._epochs_seen = event["time"], 0
            typer.echo(f"stage {event['stage']}")
        elif kind == "epoch":
            self._epochs_seen += 1
            typer.echo(f"{event['stage']} {event['epoch']}/{event['n_epochs']}  {numbers_of(event)}{self._left(event)}")
        elif kind == "message":
            typer.echo(event["text"])
        elif kind == "cancelling":
            typer.echo(f"stopping ({event['reason']}), saving the state")

    def _left(self, event: dict[str, Any]) -> str:
        done, total = event["epoch"], event["n_epochs"]
        if done >= total or not self._stage_began:
            return ""
        left = seconds_between(self._stage_began, event["time"]) / self._epochs_seen * (total - done)
        return f"  {duration(left)} left"

    def close(self) -> None:
        """Nothing is left open."""


class TerminalDisplay:
    """One bar per stage, with the newest numbers, rate and time left."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self._progress: Progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            Remaining(compact=True),
            TextColumn("{task.fields[numbers]}", markup=False),
        )
        self._tasks: dict[str, TaskID] = {}
        self._counts_epochs: set[str] = set()
        self._progress.start()

    def show(self, event: dict[str, Any]) -> None:
        """Move the bar of the event's stage."""
        kind = event["event"]
        if kind == "stage":
            for task in self._tasks.values():
                self._progress.stop_task(task)
            self._tasks[event["stage"]] = self._progress.add_task(event["stage"], total=None, numbers="")
        elif kind == "epoch":
            self._counts_epochs.add(event["stage"])
            self._move(event["stage"], event["epoch"], event["n_epochs"], numbers_of(event))
        elif kind == "progress" and event["stage"] not in self._counts_epochs:
            self._move(event["stage"], event["done"], event["total"], None)
        elif kind == "message":
            self._progress.console.print(event["text"], markup=False, highlight=False)
        elif kind == "cancelling":
            self._progress.console.print("Stopping; the state is being saved ...", markup=False)

    def _move(self, stage: str, done: int, total: int, numbers: str | None) -> None:
        task = self._tasks.get(stage)
        if task is not None:
            self._progress.update(task, completed=done, total=total)
            if numbers:
                self._progress.update(task, numbers=numbers)

    def close(self) -> None:
        """Leave the bars as they are and give the terminal back."""
        self._progress.stop()


class Follower:
    """Shows what a run adds to its events."""

    def __init__(self, folder: RunFolder, *, plain: bool = False) -> None:
        self._events = EventFollower.from_now_on(folder.events_path)
        self._display: Display = PlainDisplay() if plain or not is_terminal() else TerminalDisplay()

    def look(self) -> None:
        """Show what is new."""
        for event in self._events.new_events():
            self._display.show(event)

    def close(self) -> None:
        """Show the last of it."""
        self.look()
        self._display.close()


@contextmanager
def following(folder: RunFolder, *, plain: bool = False) -> Iterator[None]:
    """While inside, a thread shows what the run in this very process tells.

    plain: no bars; mpirun pretends to be a terminal, but hands on whole lines
    """
    follower, done = Follower(folder, plain=plain), threading.Event()

    def keep_looking() -> None:
        while not done.wait(0.2):
            follower.look()

    thread = threading.Thread(target=keep_looking, name="display", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        follower.close()


def numbers_of(event: dict[str, Any]) -> str:
    """The measured numbers of an event or a metrics line, as one piece of text."""
    return "  ".join(f"{key} {format_number(value)}" for key, value in event.items() if key not in _FRAME)
