"""The verb logs: what the ranks of a run, or of all runs of a series, have written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptycho.cli.arguments import RunPath
from ptycho.cli.console import next_step, say
from ptycho.errors import NotReadyError, RequestError

if TYPE_CHECKING:
    from ptycho.jobs.run_folder import RunFolder
    from ptycho.jobs.series import SeriesFolder

_RUN_LINES, _SERIES_LINES = 40, 3
_LOOK_EVERY_S = 0.5


def add_to(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command()(logs)


def logs(
    path: RunPath = None,
    rank: Annotated[int, typer.Option(help="The rank whose log to show.")] = 0,
    scan: Annotated[
        str | None, typer.Option(help="Of a series: this scan only; train for its training.", show_default=False)
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep showing what is added until the run ends.")
    ] = False,
    lines: Annotated[
        int | None,
        typer.Option(
            "--lines",
            "-n",
            help=f"Show this many lines from the end, 0 for all; {_RUN_LINES} when left out, {_SERIES_LINES} for each"
            " scan of a series.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show the log of a run, or of all runs of a series."""
    from ptycho.jobs.launcher import ClusterWait
    from ptycho.jobs.series import SeriesFolder, find_folder
    from ptycho.jobs.series_launcher import SeriesWait

    folder = find_folder(path)
    if isinstance(folder, SeriesFolder) and scan is None:
        _show(lambda: _logs_of(folder, rank), _SERIES_LINES if lines is None else lines)
        if follow:
            _follow(lambda: _logs_of(folder, rank), SeriesWait(folder).done)
        next_step(f"ptycho status {folder.path}, ptycho logs --scan NAME {folder.path}")
        return
    run = _chosen(folder, scan) if isinstance(folder, SeriesFolder) else folder
    if scan is not None and run is folder:
        raise RequestError(f"--scan {scan}: {run.path} is the run of one scan; leave --scan out.")
    if not run.log_path(rank).exists():
        known = sorted(found.stem.removeprefix("rank-") for found in run.logs.glob("rank-*.log"))
        has = f"It has logs of ranks {', '.join(known)}." if known else _no_rank_yet(run)
        raise NotReadyError(f"{run.path} has no log of rank {rank}. {has}")
    only = {"": run.log_path(rank)}
    _show(lambda: only, _RUN_LINES if lines is None else lines)
    if follow:
        _follow(lambda: only, ClusterWait(run).done)
    next_step(f"ptycho status {run.path}")


def _chosen(folder: SeriesFolder, scan: str | None) -> RunFolder:
    """The run of a scan by its name. Raises RequestError when there is none, naming those that there are."""
    from ptycho.jobs.problems import closest

    series = folder.read()
    if scan == folder.training.name and series.trains:
        return folder.training
    found = {one.name: one for one in series.scans}
    if scan not in found:
        near = closest(str(scan), found)
        hint = f"Did you mean {near}?" if near else f"It has: {', '.join(list(found)[:10])}."
        raise RequestError(f"--scan {scan}: {folder.path} has no such scan. {hint}")
    if found[scan].error:
        raise NotReadyError(f"{scan} was never started: {found[scan].error}")
    return folder.run(scan)


def _logs_of(folder: SeriesFolder, rank: int) -> dict[str, Path]:
    """Name of the run → its log, for all that have one."""
    from ptycho.jobs.series_status import all_runs

    return {run.name: run.log_path(rank) for run in all_runs(folder) if run.log_path(rank).exists()}


def _show(logs_now: Callable[[], Mapping[str, Path]], n_lines: int) -> None:
    """The last lines of each log, with the run's name before them where there are several."""
    for name, path in logs_now().items():
        text = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in text[-n_lines:] if n_lines else text:
            say(f"{name} | {line}" if name else line)


def _follow(logs_now: Callable[[], Mapping[str, Path]], is_over: Callable[[], bool]) -> None:
    """Show what is added to the logs, whole lines only, and logs that appear, until all is over."""
    position = {path: path.stat().st_size for path in logs_now().values()}
    over = False
    while not over:
        # Asked before the last look, so that the last lines are seen.
        over = is_over()
        for name, path in logs_now().items():
            with path.open("rb") as file:
                file.seek(position.setdefault(path, 0))
                whole, _, _ = file.read().rpartition(b"\n")
            if whole:
                position[path] += len(whole) + 1
                for line in whole.decode("utf-8", "replace").splitlines():
                    say(f"{name} | {line}" if name else line)
        if not over:
            time.sleep(_LOOK_EVERY_S)


def _no_rank_yet(folder: RunFolder) -> str:
    """Where to look when no rank has written a line."""
    written = [path for path in sorted(folder.path.glob("submitit/*/*_log.err")) if path.stat().st_size]
    return f"What was said before its ranks began: {written[-1]}" if written else "It has not started yet."
