"""How far a series is: read from its runs' folders and from Slurm, whoever started it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ptycho.jobs import lock
from ptycho.jobs.cluster_job import UNKNOWN, ClusterJob, find_jobs
from ptycho.jobs.launcher import Launch
from ptycho.jobs.process import Process
from ptycho.jobs.run_folder import RunFolder
from ptycho.jobs.series import SeriesFolder
from ptycho.jobs.status import CANCELLED, CREATED, DIED, FAILED, FINISHED, RUNNING, STARTING, RunStatus, read_status

WAITING, NOT_STARTED = "waiting", "not started"
# In the order in which people want to read them.
_STATES = (FINISHED, RUNNING, WAITING, FAILED, CANCELLED, NOT_STARTED)


@dataclass(frozen=True, kw_only=True)
class ScanStatus:
    """One scan of a series.

    status: finished, running, waiting, failed, cancelled, or not started (nobody will, unless asked to)
    run:    what is known of its run; None for a scan that could not be read
    """

    name: str
    path: str
    status: str
    error: str | None = None
    run: RunStatus | None = None


@dataclass(frozen=True, kw_only=True)
class SeriesStatus:
    """What `ptycho status` shows of a series; the keys of its JSON.

    status: running, or when nothing is at work: finished, failed (at least one scan), cancelled, not started
    counts: state → number of scans, without zeros
    """

    folder: str
    name: str
    status: str
    counts: dict[str, int]
    scans: tuple[ScanStatus, ...]
    training: RunStatus | None = None
    next_step: str = ""

    @property
    def is_going(self) -> bool:
        """Whether something is at work or in a queue."""
        return self.status == RUNNING

    @property
    def headline(self) -> str:
        """How many scans are in which state: "18 finished, 2 failed"."""
        return ", ".join(f"{self.counts[state]} {state}" for state in _STATES if state in self.counts)

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for programs."""
        return asdict(self)


def read_series_status(folder: SeriesFolder) -> SeriesStatus:
    """The state of a series now."""
    series, jobs = folder.read(), jobs_of(folder)
    is_worked_off = worked_off_by(folder) is not None
    training = read_status(folder.training, jobs.get(folder.training.path)) if series.trains else None
    scans = []
    for scan in series.scans:
        if scan.error:
            scans.append(ScanStatus(name=scan.name, path=scan.path, status=FAILED, error=scan.error))
            continue
        run = folder.run(scan.name)
        found = read_status(run, jobs.get(run.path))
        status, error = _scan_state(found, training, is_worked_off=is_worked_off)
        scans.append(ScanStatus(name=scan.name, path=scan.path, status=status, error=error, run=found))
    counts = dict(Counter(scan.status for scan in scans))
    is_going = is_worked_off or bool({RUNNING, WAITING} & counts.keys())
    is_going |= training is not None and training.is_going
    status = _whole(counts, is_going=is_going, is_cancelled=folder.cancel_path.exists())
    return SeriesStatus(
        folder=str(folder.path),
        name=series.name,
        status=status,
        counts=counts,
        scans=tuple(scans),
        training=training,
        next_step=_next_step(folder, status),
    )


def _scan_state(run: RunStatus, training: RunStatus | None, *, is_worked_off: bool) -> tuple[str, str | None]:
    """The state of a scan, in the series' words, and its error."""
    if run.status == STARTING:
        return WAITING if run.slurm is not None else RUNNING, None
    if run.status == CREATED:
        return WAITING if is_worked_off else NOT_STARTED, None
    has_no_network = training is not None and training.status != FINISHED
    if run.status == CANCELLED and has_no_network and run.n_ranks is None:
        # Slurm takes what depends on the training out of the queue when that has failed.
        return NOT_STARTED, "The network has not been trained."
    return FAILED if run.status == DIED else run.status, run.error


def _whole(counts: dict[str, int], *, is_going: bool, is_cancelled: bool) -> str:
    if is_going:
        return RUNNING
    if counts.keys() == {FINISHED}:
        return FINISHED
    if is_cancelled:
        return CANCELLED
    return FAILED if counts.keys() & {FAILED, CANCELLED} else NOT_STARTED


def _next_step(folder: SeriesFolder, status: str) -> str:
    if status == RUNNING:
        return f"ptycho status --watch {folder.path}"
    if status == FINISHED:
        return f"open {folder.report_path}" if folder.report_path.exists() else f"ptycho collect {folder.path}"
    if status == FAILED:
        return f"repair what is named above, then ptycho resume {folder.path} (the finished ones are left alone)"
    return f"ptycho resume {folder.path}"


def all_runs(folder: SeriesFolder) -> list[RunFolder]:
    """The training, where there is one, and the runs of the scans."""
    return [*([folder.training] if folder.read().trains else []), *folder.runs()]


def jobs_of(folder: SeriesFolder) -> dict[Path, ClusterJob]:
    """Run folder → what Slurm says of its job, for unfinished runs that Slurm was asked to start: two questions."""
    ids = dict(_job_ids(folder))
    found = find_jobs(ids.values())
    return {path: found[job_id] for path, job_id in ids.items()}


def _job_ids(folder: SeriesFolder) -> Iterator[tuple[Path, str]]:
    for run in all_runs(folder):
        if run.read_state()["status"] != FINISHED:
            launch = Launch.read(run)
            if launch is not None and launch.executor == "slurm" and launch.job_id:
                yield run.path, launch.job_id


def run_is_going(run: RunFolder, job: ClusterJob | None) -> bool:
    """Whether one run is at work or waits in Slurm's queue; job: what Slurm says of it, where it was asked."""
    if job is None or job.state == UNKNOWN:
        return lock.owner(run) is not None
    return not job.is_over


def worked_off_by(folder: SeriesFolder) -> Process | None:
    """The other process of this machine that starts the runs one after the other; None where there is none."""
    launch = folder.read_launch()
    if launch is None or launch.executor == "slurm" or launch.process == Process.current():
        return None
    return launch.process if launch.process.is_alive else None


def collecting_job(folder: SeriesFolder) -> ClusterJob | None:
    """The Slurm job that writes the table at the end, while it waits or works."""
    launch = folder.read_launch()
    if launch is None or launch.executor != "slurm" or not launch.job_ids:
        return None
    job = find_jobs(launch.job_ids[-1:])[launch.job_ids[-1]]
    return None if job.is_over or job.state == UNKNOWN else job


def series_is_going(folder: SeriesFolder) -> bool:
    """Whether any of its runs is at work, or will be without further ado."""
    jobs = jobs_of(folder)
    return worked_off_by(folder) is not None or any(run_is_going(run, jobs.get(run.path)) for run in all_runs(folder))
