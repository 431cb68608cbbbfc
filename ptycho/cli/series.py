"""Series of scans on the command line: start, follow, resume, cancel, and the verb collect."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ptycho.cli.arguments import AsJson, RunPath
from ptycho.cli.console import counted, next_step, say, show_json, warn
from ptycho.errors import CancelledError, DataError, RequestError, WorkError

if TYPE_CHECKING:
    from ptycho.jobs.new_series import ResolvedSeries
    from ptycho.jobs.series import SeriesFolder, SeriesScan
    from ptycho.jobs.series_status import SeriesStatus
    from ptycho.jobs.spec import JobSpec

# Looking costs a question to Slurm and a small file of every run.
_LOOK_EVERY_S, _LOOK_AT_SLURM_EVERY_S = 0.5, 5.0
# Of more failures than this the first are shown, and the page for the others.
_SHOWN_FAILURES = 20


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command."""
    app.command()(collect)


def collect(path: RunPath = None, as_json: AsJson = False) -> None:
    """Collect the runs of a series of scans in one table and one page.

    This happens by itself when the last has ended; meanwhile, it shows what there is.
    """
    from ptycho.jobs.json_file import read_json
    from ptycho.jobs.series import SeriesFolder, find_folder
    from ptycho.jobs.series_table import collect as write_table

    folder = find_folder(path)
    if not isinstance(folder, SeriesFolder):
        raise RequestError(f"{folder.path} is the run of one scan. Its page: {folder.report_path}")
    status = write_table(folder)
    if as_json:
        show_json(read_json(folder.table_path))
        return
    say(f"{counted(len(status.scans), 'scan')}: {status.headline}.")
    say(f"Wrote {folder.report_path}, {folder.csv_path.name} and {folder.table_path.name}.")
    next_step(f"open {folder.report_path}")


def make_series(spec: JobSpec, overrides: Sequence[str]) -> tuple[SeriesFolder, ResolvedSeries]:
    """Make the folder of a series, and name the scans that will have no run."""
    from ptycho.jobs.new_series import new_series, refuse_under_mpi
    from ptycho.parallel import launcher_sizes

    refuse_under_mpi(max(launcher_sizes(os.environ).values(), default=1))
    folder, resolved = new_series(spec, overrides)
    job = resolved.first_job
    ranks = f"{counted(job.resources.n_ranks, 'rank')} each ({job.resources.executor})"
    say(f"{resolved.name}: {counted(len(resolved.scans), 'scan')}, engine {job.engine}, {ranks}, in {folder.path}")
    if resolved.training is not None:
        say(f"First a network is trained on {resolved.training.data.scan}.")
    warn_of(resolved.broken, len(resolved.scans))
    return folder, resolved


def warn_of(broken: Sequence[SeriesScan], total: int) -> None:
    """Name the scans that cannot be worked on, on standard error."""
    if broken:
        warn(f"{len(broken)} of {total} scans cannot be worked on; the others do not wait for them:")
        for scan in broken[:_SHOWN_FAILURES]:
            typer.echo(f"  {scan.name}: {scan.error}", err=True)


def check_series(
    spec: JobSpec, path: Path, overrides: Sequence[str], *, everything: bool, axes: bool, as_json: bool
) -> None:
    """Check every scan; show the values of the first that can be read, and which way its axes run.

    Raises DataError when one cannot be read.
    """
    from ptycho.cli.axes import axes_facts, compare_axes, say_axes
    from ptycho.cli.specs import show_values, values_of
    from ptycho.jobs.new_series import resolve_series
    from ptycho.jobs.resolve import open_job_scan

    resolved = resolve_series(spec)
    job = resolved.first_job
    verdict = compare_axes(open_job_scan(job.data)) if axes else None
    if as_json:
        values = {key: {"value": value, "source": job.sources[key]} for key, value in values_of(job).items()}
        scans = [asdict(scan) for scan in resolved.scans]
        training = None if resolved.training is None else str(resolved.training.data.scan)
        found = {"scans": scans, "train": training, "axes": axes_facts(verdict, job.data), "values": values}
        show_json({"name": resolved.name, "engine": job.engine, **found})
        return
    show_values(job, everything=everything)
    say()
    if verdict is not None:
        say(f"Of {job.data.scan}, the first scan:")
        say_axes(verdict, job.data)
    trained = "" if resolved.training is None else f", after a training on {resolved.training.data.scan}"
    say(
        f"{counted(len(resolved.jobs), 'run')}, {counted(job.resources.n_ranks, 'rank')} each"
        f" ({job.resources.executor}){trained}."
    )
    if resolved.broken:
        named = "\n".join(f"  {scan.name}: {scan.error}" for scan in resolved.broken[:_SHOWN_FAILURES])
        raise DataError(
            f"{len(resolved.broken)} of {len(resolved.scans)} scans cannot be worked on; ptycho submit would start the"
            f" others:\n{named}"
        )
    say("The spec and all scans are valid.")
    given = "".join(f" --set {override}" for override in overrides)
    next_step(f"ptycho submit {path}{given}")


def submit_series(spec: JobSpec, overrides: Sequence[str]) -> None:
    """Start a series and return at once."""
    from ptycho.jobs.series_launcher import start_series

    folder, _ = make_series(spec, overrides)
    say(f"Started {folder.path} as {start_series(folder)}.")
    next_step(f"ptycho status --watch {folder.path}")


def run_series(spec: JobSpec, overrides: Sequence[str]) -> None:
    """Start a series and follow it to its end."""
    folder, _ = make_series(spec, overrides)
    follow_series(folder)


def resume_series(folder: SeriesFolder) -> None:
    """Start again whatever of a series is missing, and follow it to its end."""
    from ptycho.jobs.new_series import refuse_under_mpi, repair
    from ptycho.jobs.series_launcher import refuse_if_at_work, todo
    from ptycho.parallel import launcher_sizes

    refuse_under_mpi(max(launcher_sizes(os.environ).values(), default=1))
    refuse_if_at_work(folder)
    broken = repair(folder)
    warn_of(broken, len(folder.read().scans))
    runs = todo(folder)
    if not runs and not broken:
        say(f"{folder.path} has nothing left to start.")
        next_step(f"ptycho status {folder.path}")
        return
    if runs:
        say(f"Starting {len(runs)} again: {', '.join(run.name for run in runs[:_SHOWN_FAILURES])}")
    follow_series(folder)


def follow_series(folder: SeriesFolder) -> None:
    """Start what is not finished and tell of each scan when it has ended; raise when one of them has failed."""
    from ptycho.jobs.series_launcher import run_series_here, start_series
    from ptycho.jobs.series_table import collect as write_table

    told = _Told(folder)
    if folder.read().executor == "here":
        run_series_here(folder, told.look)
    else:
        say(f"Started as {start_series(folder)}. Ctrl-C stops it; to leave it alone, use: ptycho submit")
        try:
            told.until_over()
        except KeyboardInterrupt:
            stop(folder)
            raise CancelledError(f"Stopped {folder.path}. Go on with: ptycho resume {folder.path}") from None
    status = write_table(folder)
    told.look(status)
    say(f"{counted(len(status.scans), 'scan')}: {status.headline}.")
    say(f"Table and pictures: {folder.report_path}")
    if status.status != "finished":
        raise WorkError(f"Not every scan has an image. What was in the way: ptycho status {folder.path}")
    next_step(f"open {folder.report_path}")


def stop(folder: SeriesFolder, *, now: bool = False) -> None:
    """Stop a series with the state of its runs saved. Raises WorkError when one does not stop in time."""
    from ptycho.jobs.launcher import STOP_WITHIN_S
    from ptycho.jobs.series_launcher import stop_series
    from ptycho.jobs.series_status import series_is_going

    if not series_is_going(folder):
        say(f"{folder.path} is not at work.")
        next_step(f"ptycho status {folder.path}")
        return
    if not now:
        say("Asked the runs to stop; each finishes its step and saves its state.")
    if not stop_series(folder, STOP_WITHIN_S, now=now):
        raise WorkError(f"{folder.path} has not stopped yet. See what is left: ptycho status {folder.path}")
    say(f"Stopped {folder.path}.")
    next_step(f"ptycho resume {folder.path}")


class _Told:
    """Tells of each scan once, when it has ended."""

    def __init__(self, folder: SeriesFolder) -> None:
        from ptycho.jobs.series_status import read_series_status

        self._folder = folder
        self._known = {scan.name for scan in read_series_status(folder).scans if scan.status == "finished"}
        self._n_total = len(folder.read().scans)

    def until_over(self) -> None:
        """Return when nothing of the series is at work."""
        from ptycho.jobs.series_status import read_series_status

        every_s = _LOOK_AT_SLURM_EVERY_S if self._folder.read().executor == "slurm" else _LOOK_EVERY_S
        while True:
            status = read_series_status(self._folder)
            self.look(status)
            if not status.is_going:
                return
            time.sleep(every_s)

    def look(self, status: SeriesStatus | None = None) -> None:
        """Tell of the scans that have ended since the last look."""
        from ptycho.jobs.series_status import read_series_status

        for scan in (status or read_series_status(self._folder)).scans:
            ended = scan.status in ("finished", "failed", "cancelled")
            if not ended or scan.name in self._known or scan.run is None:
                continue
            self._known.add(scan.name)
            said = scan.error or numbers(scan.run.result)
            say(f"{len(self._known)}/{self._n_total}  {scan.name}: {scan.status}  {said}".rstrip())


def numbers(result: dict[str, object]) -> str:
    """What a run has reached, as far as one line of a table has room for it."""
    from ptycho.jobs.events import format_number

    r_factor = result.get("r_factor")
    return "" if r_factor is None else f"r_factor {format_number(r_factor)}"
