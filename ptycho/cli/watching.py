"""Verbs that look after a run or a series: status, cancel."""

from __future__ import annotations

from typing import Annotated

import typer

from ptycho.cli.arguments import AsJson, RunPath
from ptycho.cli.console import next_step, say, show_json
from ptycho.errors import RequestError

# What `ptycho status` exits with: 3 while there is no final answer.
_EXIT_CODES = {"finished": 0, "failed": 1, "died": 1, "cancelled": 130}


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command."""
    app.command()(status)
    app.command()(cancel)


def status(
    path: RunPath = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep showing it until the run ends.")] = False,
) -> None:
    """Show how far a run, or a series of scans, is.

    Exits with 0 finished, 1 failed, 3 not finished yet, 130 cancelled.
    """
    from ptycho.cli.shown_status import lines_of, look, watch_status
    from ptycho.jobs.series import find_folder

    folder = find_folder(path)
    if watch and as_json:
        raise RequestError("--watch is for people. Programs that watch follow events.ndjson in the run folder.")
    found = watch_status(folder) if watch else look(folder)
    if as_json:
        show_json(found.to_dict())
    else:
        for line in lines_of(found):
            say(line)
        next_step(found.next_step)
    raise typer.Exit(_EXIT_CODES.get(found.status, 3))


def cancel(
    path: RunPath = None,
    now: Annotated[bool, typer.Option("--now", help="End it at once, without saving what was done since.")] = False,
) -> None:
    """Stop a run, or all runs of a series, with their state saved."""
    from ptycho.jobs.launcher import is_going, kill_ranks, settle, stop_and_wait, wait_until_over
    from ptycho.jobs.series import SeriesFolder, find_folder

    folder = find_folder(path)
    if isinstance(folder, SeriesFolder):
        from ptycho.cli.series import stop

        stop(folder, now=now)
        return
    if not is_going(folder):
        state = settle(folder)
        say(f"{folder.path} is not running; it is {state}.")
        next_step(f"ptycho status {folder.path}")
        return
    if now:
        kill_ranks(folder)
        wait_until_over(folder, 30)
        settle(folder)
    else:
        say("Asked the run to stop; it finishes its step and saves its state.")
        stop_and_wait(folder)
    say(f"Stopped {folder.path}.")
    next_step(f"ptycho resume {folder.path}")
