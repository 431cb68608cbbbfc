"""Verbs that look after a run: status, logs, cancel."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptycho.cli.arguments import AsJson, RunPath
from ptycho.cli.console import duration, next_step, say, show_json
from ptycho.errors import NotReadyError

if TYPE_CHECKING:
    from ptycho.jobs.run_folder import RunFolder
    from ptycho.jobs.status import RunStatus

# What `ptycho status` exits with: 3 while there is no final answer.
_EXIT_CODES = {"finished": 0, "failed": 1, "died": 1, "cancelled": 130}


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command."""
    app.command()(status)
    app.command()(logs)
    app.command()(cancel)


def _folder(path: Path | None) -> RunFolder:
    from ptycho.jobs.run_folder import RunFolder

    return RunFolder.open(path) if path else RunFolder.newest(Path("runs"))


def status(path: RunPath = None, as_json: AsJson = False) -> None:
    """Show how far a run is.

    Exits with 0 finished, 1 failed, 3 not finished yet, 130 cancelled.
    """
    from ptycho.jobs.status import read_status

    found = read_status(_folder(path))
    if as_json:
        show_json(found.to_dict())
    else:
        for line in _lines(found):
            say(line)
        next_step(found.next_step)
    raise typer.Exit(_EXIT_CODES.get(found.status, 3))


def _lines(found: RunStatus) -> list[str]:
    from ptycho.cli.live import numbers_of

    where = f" in stage {found.stage}" if found.stage else ""
    lines = [f"{found.folder}: {found.status}{where}"]
    if found.stages:
        lines.append("Stages: " + ", ".join(f"{name} {state}" for name, state in found.stages.items()))
    if found.epoch is not None:
        lines.append(f"Epoch {found.epoch} of {found.n_epochs}  {numbers_of(found.numbers)}")
    if found.seconds_per_epoch is not None and found.seconds_left is not None:
        lines.append(
            f"{duration(found.seconds_per_epoch)} per epoch, {duration(found.seconds_left)} left in this stage"
        )
    if found.executor:
        job = f" as {found.job_id}" if found.job_id else ""
        lines.append(f"Started {found.executor}{job}, {found.n_ranks or '?'} ranks, attempt {found.attempts}")
    if found.slurm:
        on = f" on {found.slurm['nodes']}" if found.slurm["nodes"] else ""
        meaning = found.slurm["meaning"] if found.slurm["meaning"] != found.error else ""
        lines.append(f"Slurm: {found.slurm['state']}{on}. {meaning}".rstrip())
    if found.result:
        lines.append("Reached: " + numbers_of(found.result))
    if found.error:
        lines.append(found.error)
    return lines


def logs(
    path: RunPath = None,
    rank: Annotated[int, typer.Option(help="The rank whose log to show.")] = 0,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep showing what is added until the run ends.")
    ] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Show this many lines from the end; 0 shows all.")] = 40,
) -> None:
    """Show the log of a run."""
    from ptycho.jobs.launcher import ClusterWait

    folder = _folder(path)
    log_path = folder.log_path(rank)
    if not log_path.exists():
        known = sorted(found.stem.removeprefix("rank-") for found in folder.logs.glob("rank-*.log"))
        has = f"It has logs of ranks {', '.join(known)}." if known else _no_rank_yet(folder)
        raise NotReadyError(f"{folder.path} has no log of rank {rank}. {has}")
    text = log_path.read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines()[-lines:] if lines else text.splitlines():
        say(line)
    position = log_path.stat().st_size
    end = ClusterWait(folder)
    while follow and not end.done():
        time.sleep(0.5)
        with log_path.open(encoding="utf-8", errors="replace") as file:
            file.seek(position)
            added = file.read()
            position = file.tell()
        if added:
            typer.echo(added, nl=False)
    next_step(f"ptycho status {folder.path}")


def _no_rank_yet(folder: RunFolder) -> str:
    """Where to look when no rank has written a line."""
    written = [path for path in sorted(folder.path.glob("submitit/*/*_log.err")) if path.stat().st_size]
    return f"What was said before its ranks began: {written[-1]}" if written else "It has not started yet."


def cancel(
    path: RunPath = None,
    now: Annotated[bool, typer.Option("--now", help="End it at once, without saving what was done since.")] = False,
) -> None:
    """Stop a run, with its state saved."""
    from ptycho.jobs.launcher import is_going, kill_ranks, settle, stop_and_wait, wait_until_over

    folder = _folder(path)
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
