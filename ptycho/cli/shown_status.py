"""The state of a run or of a series as lines for people, once or live."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ptycho.cli.console import counted, duration, is_terminal, say, table_lines
from ptycho.cli.live import numbers_of
from ptycho.jobs.run_folder import RunFolder
from ptycho.jobs.series import SeriesFolder
from ptycho.jobs.series_status import SeriesStatus, read_series_status
from ptycho.jobs.status import RunStatus, read_status

if TYPE_CHECKING:
    from rich.text import Text

# Each look may cost the controller of the whole cluster a question.
_LOOK_EVERY_S, _LOOK_AT_SLURM_EVERY_S = 1.0, 5.0
# Of more failures or scans at work than this the first are shown, and the page for the others.
_SHOWN_SCANS = 20


def look(folder: RunFolder | SeriesFolder) -> RunStatus | SeriesStatus:
    """The state of a run or a series now."""
    return read_series_status(folder) if isinstance(folder, SeriesFolder) else read_status(folder)


def watch_status(folder: RunFolder | SeriesFolder) -> RunStatus | SeriesStatus:
    """Show the state until the run or series has ended; returns the last one, which is not shown.

    In a terminal it is drawn again and again in place; elsewhere a line is added when something has changed.
    """
    found = look(folder)
    if not is_terminal():
        last = ""
        while found.is_going:
            if brief(found) != last:
                last = brief(found)
                say(last)
            _pause(found)
            found = look(folder)
        return found
    from rich.live import Live

    with Live(_drawn(found), auto_refresh=False, transient=True) as live:
        while found.is_going:
            live.update(_drawn(found), refresh=True)
            _pause(found)
            found = look(folder)
    return found


def _drawn(found: RunStatus | SeriesStatus) -> Text:
    from rich.text import Text

    return Text("\n".join([*lines_of(found), f"{time.strftime('%H:%M:%S')}; Ctrl-C leaves it at work."]))


def _pause(found: RunStatus | SeriesStatus) -> None:
    runs = [found] if isinstance(found, RunStatus) else [scan.run for scan in found.scans if scan.run is not None]
    time.sleep(_LOOK_AT_SLURM_EVERY_S if any(run.executor == "slurm" for run in runs) else _LOOK_EVERY_S)


def brief(found: RunStatus | SeriesStatus) -> str:
    """One line of a log: the state, and how far it is."""
    if isinstance(found, SeriesStatus):
        trains = found.training is not None and found.training.is_going
        return found.headline + (f"; training: {brief(found.training)}" if trains and found.training else "")
    if found.slurm is not None and found.slurm["state"] in ("PENDING", "REQUEUED"):
        return f"{found.slurm['state']}: {found.slurm['meaning']}"
    return "  ".join([found.status, *([found.stage, *_progress(found)] if found.stage else [])])


def _progress(found: RunStatus) -> list[str]:
    """Epoch, numbers, rate and time left of the stage at work, as far as they are known."""
    parts = []
    if found.epoch is not None:
        parts += [f"{found.epoch}/{found.n_epochs}", numbers_of(found.numbers)]
    elif found.part_done is not None:
        parts.append(f"{found.part_done:.0%}")
    if found.seconds_per_epoch is not None and found.seconds_left is not None:
        parts.append(
            f"{duration(found.seconds_per_epoch)} per epoch, {duration(found.seconds_left)} left in this stage"
        )
    return parts


def lines_of(found: RunStatus | SeriesStatus) -> list[str]:
    """All that `ptycho status` says."""
    return _series_lines(found) if isinstance(found, SeriesStatus) else _run_lines(found)


def _run_lines(found: RunStatus) -> list[str]:
    where = f" in stage {found.stage}" if found.stage else ""
    lines = [f"{found.folder}: {found.status}{where}"]
    if found.stages:
        lines.append("Stages: " + ", ".join(f"{name} {state}" for name, state in found.stages.items()))
    if found.epoch is not None:
        lines.append(f"Epoch {found.epoch} of {found.n_epochs}  {numbers_of(found.numbers)}")
    elif found.part_done is not None:
        lines.append(f"{found.part_done:.0%} of this stage")
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


def _series_lines(found: SeriesStatus) -> list[str]:
    lines = [f"{found.folder}: {found.status}", f"{counted(len(found.scans), 'scan')}: {found.headline}"]
    if found.training is not None:
        error = f". {found.training.error}" if found.training.error else ""
        lines.append(f"Training: {brief(found.training)}{error}")
    at_work = [scan for scan in found.scans if scan.status == "running" and scan.run is not None]
    rows = [
        (scan.name, scan.run.stage or "starting", "  ".join(_progress(scan.run)))
        for scan in at_work[:_SHOWN_SCANS]
        if scan.run is not None
    ]
    if rows:
        lines += table_lines(("scan", "stage", "progress"), rows)
    waiting = next((scan.run for scan in found.scans if scan.status == "waiting" and scan.run is not None), None)
    if waiting is not None and waiting.slurm is not None:
        lines.append(f"Waiting: {waiting.slurm['meaning']}")
    wrong = [scan for scan in found.scans if scan.error and scan.status != "cancelled"]
    lines += [f"{scan.name}: {scan.error}" for scan in wrong[:_SHOWN_SCANS]]
    if len(wrong) > _SHOWN_SCANS:
        lines.append(f"and {len(wrong) - _SHOWN_SCANS} more: ptycho collect {found.folder}")
    return lines
