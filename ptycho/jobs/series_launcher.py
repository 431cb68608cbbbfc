"""Starting, stopping and taking up again the runs of a series."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptycho.errors import CancelledError, PtychoError, RequestError
from ptycho.jobs import lock
from ptycho.jobs.batch_script import Submission, place_parameters
from ptycho.jobs.cluster_job import cancel_waiting
from ptycho.jobs.container import inside_path, ranks_python, write_inside
from ptycho.jobs.job_container import refuse_other_image
from ptycho.jobs.launcher import (
    ASK_SLURM_EVERY_S,
    NO_LIMIT_MIN,
    POLL_S,
    kill_ranks,
    prepare,
    refuse_if_queued,
    request_stop,
    settle,
    signals_ignored,
    start,
    start_here,
    streams_redirected,
)
from ptycho.jobs.process import Process
from ptycho.jobs.resolved_job import ResolvedJob
from ptycho.jobs.run_folder import RunFolder
from ptycho.jobs.runner import JobRunner
from ptycho.jobs.series import SeriesFolder
from ptycho.jobs.series_status import all_runs, collecting_job, jobs_of, run_is_going, series_is_going, worked_off_by
from ptycho.jobs.series_table import collect

# Reading a table's worth of small files takes a second; a slow file system may take a minute.
_COLLECT_LIMIT_MIN = 15
# Slurm's own default allows arrays of 1001 tasks.
_ARRAY_TASKS = 1000


@dataclass(frozen=True)
class SeriesRunner:
    """Works off a series on this machine. Importable and holding one path, so that submitit can start it."""

    folder: Path

    def __call__(self) -> None:
        """Start the runs, so many at once, as processes of their own; collect when the last has ended."""
        folder = SeriesFolder(self.folder)
        work_off(folder, todo(folder))


@dataclass(frozen=True)
class Collector:
    """Collects a series, as the last job of its array."""

    folder: Path

    def __call__(self) -> None:
        """Write table and page."""
        collect(SeriesFolder(self.folder))


def start_series(folder: SeriesFolder) -> str:
    """Start whatever of a series is not finished, and return at once; says as what, for people.

    On this machine one process starts the runs, in Slurm the queue does: training, then the array, then the table.
    Raises RequestError when it is at work already, PackageError when the scheduler or the container is not there.
    """
    runs = todo(folder)
    attempt = _next_attempt(folder)
    folder.cancel_path.unlink(missing_ok=True)
    if folder.read().executor == "slurm":
        job_ids = _submit(folder, runs, attempt)
        folder.write_launch(attempt, "slurm", Process.current(), job_ids)
        return f"Slurm job{'s' if len(job_ids) > 1 else ''} {', '.join(job_ids)}"
    import submitit

    submitit_folder = folder.submitit(attempt)
    submitit_folder.mkdir(parents=True)
    executor = submitit.LocalExecutor(submitit_folder)
    executor.update_parameters(timeout_min=NO_LIMIT_MIN, tasks_per_node=1)
    with signals_ignored(), streams_redirected(submitit_folder / "controller.log"):
        submitted = executor.submit(SeriesRunner(folder.path))
    folder.write_launch(attempt, "local", Process.of_pid(int(submitted.job_id)))
    return f"process {submitted.job_id}"


def run_series_here(folder: SeriesFolder, on_look: Callable[[], None]) -> None:
    """Do the runs of a series in this process, one after the other. Raises CancelledError when it was stopped.

    on_look: called when a run has ended
    """
    runs = todo(folder)
    folder.cancel_path.unlink(missing_ok=True)
    folder.write_launch(_next_attempt(folder), "here", Process.current())
    try:
        for run in runs:
            try:
                start_here(run)
            except CancelledError:
                raise
            except Exception:  # noqa: BLE001  # the run has recorded it, and the other scans have not failed
                pass
            on_look()
            if run.path == folder.training.path and run.read_state()["status"] != "finished":
                break
    finally:
        collect(folder)


def _next_attempt(folder: SeriesFolder) -> int:
    earlier = folder.read_launch()
    return earlier.attempt + 1 if earlier else 1


def todo(folder: SeriesFolder) -> list[RunFolder]:
    """The runs that are neither finished nor at work, the training first. Settles those that were killed."""
    jobs = jobs_of(folder)
    found = []
    for run in all_runs(folder):
        job = jobs.get(run.path)
        if run_is_going(run, job):
            continue
        if settle(run, job) != "finished":
            found.append(run)
    return found


def work_off(folder: SeriesFolder, runs: Sequence[RunFolder]) -> None:
    """Start the runs as processes of their own, so many at once, and collect when the last has ended."""
    waiting = list(runs)
    try:
        if waiting and waiting[0].path == folder.training.path:
            _work_off(folder, [waiting.pop(0)], 1)
            if folder.training.read_state()["status"] != "finished":
                return
        _work_off(folder, waiting, folder.read().at_once or 1)
    finally:
        collect(folder)


def _work_off(folder: SeriesFolder, waiting: list[RunFolder], at_once: int) -> None:
    going: list[tuple[RunFolder, Any]] = []
    while waiting or going:
        if folder.cancel_path.exists():
            waiting.clear()
        while waiting and len(going) < at_once:
            run = waiting.pop(0)
            try:
                going.append((run, start(run, ResolvedJob.read(run.resolved_path))))
            except PtychoError as error:
                run.write_state({**run.read_state(), "status": "failed", "error": {"message": str(error)}})
        time.sleep(POLL_S)
        for run, submitted in [*going]:
            if submitted.done():
                settle(run)
                going.remove((run, submitted))


def _submit(folder: SeriesFolder, runs: Sequence[RunFolder], attempt: int) -> list[str]:
    """Hand training, array and table to Slurm, each after the one before; the numbers of the jobs."""
    place = folder.submitit(attempt)
    job_ids: list[str] = []
    dependency = None
    rest = [run for run in runs if run.path != folder.training.path]
    if len(rest) < len(runs):
        started = start(folder.training, ResolvedJob.read(folder.training.resolved_path))
        job_ids.append(str(started.job_id))
        dependency = f"afterok:{started.job_id}"
    trained = dependency
    for number, first in enumerate(range(0, len(rest), _ARRAY_TASKS)):
        part, name = rest[first : first + _ARRAY_TASKS], f"scans-{number}" if number else "scans"
        job_ids.append(_start_array(folder, part, place / name, dependency))
        # One array after the other, so that together they keep to what may be worked on at once.
        dependency = ",".join(filter(None, [trained, f"afterany:{job_ids[-1]}"]))
    # Runs that an earlier start left in the queue belong into the table too.
    others = {job.job_id.partition("_")[0] for job in jobs_of(folder).values() if not job.is_over}
    after = ":".join(sorted({*job_ids, *others}, key=int))
    job_ids.append(_start_collecting(folder, place / "table", f"afterany:{after}" if after else None))
    return job_ids


def _start_array(folder: SeriesFolder, runs: Sequence[RunFolder], place: Path, dependency: str | None) -> str:
    """Submit the runs as one array, and note in each folder which task is its own; the number of the array."""
    jobs = [ResolvedJob.read(run.resolved_path) for run in runs]
    for job in jobs:
        refuse_other_image(job)
    write_inside(folder.path, jobs)
    series = folder.read()
    submission = Submission(
        runs=runs,
        job=jobs[0],
        folder=place,
        python=ranks_python(folder.path, jobs[0]),
        name=series.name,
        at_once=series.at_once,
        dependency=dependency,
    )
    place.mkdir(parents=True)
    submission.write_list()
    executor = submission.executor()
    launches = []
    for run in runs:
        refuse_if_queued(run)
        lock.acquire(run)
        launches.append(prepare(run, "slurm"))
        launches[-1].write(run)
    try:
        with executor.batch():
            tasks = [executor.submit(JobRunner(run.path)) for run in runs]
        for run, launch, task in zip(runs, launches, tasks, strict=True):
            launch.with_job(str(task.job_id), place).write(run)
    finally:
        for run in runs:
            lock.release(run)
    return str(tasks[0].job_id).partition("_")[0]


def _start_collecting(folder: SeriesFolder, place: Path, dependency: str | None) -> str:
    """Submit the job that writes the table; it runs when all others have ended, however they did."""
    import submitit

    run = folder.runs()[0]
    job = ResolvedJob.read(run.resolved_path)
    place.mkdir(parents=True)
    if not inside_path(folder.path).exists():
        write_inside(folder.path, [job])
    executor = submitit.SlurmExecutor(place, python=ranks_python(folder.path, job))
    wanted = place_parameters(job.resources) | {
        "job_name": f"{folder.read().name}-table",
        "nodes": 1,
        "ntasks_per_node": 1,
        "time": min(_COLLECT_LIMIT_MIN, job.resources.time_limit_min or _COLLECT_LIMIT_MIN),
        "dependency": dependency,
        "setup": job.resources.setup,
        "additional_parameters": {"reservation": job.resources.reservation} if job.resources.reservation else None,
    }
    executor.update_parameters(**{key: value for key, value in wanted.items() if value is not None})
    return str(executor.submit(Collector(folder.path)).job_id)


def stop_series(folder: SeriesFolder, seconds: float, *, now: bool = False) -> bool:
    """Stop the runs at work with their state saved (now: without), start no other, and wait; False if one still lives.

    Raises WorkError when Slurm refuses to cancel.
    """
    folder.ask_to_stop()
    jobs = jobs_of(folder)
    waiting = {job.job_id.partition("_")[0] for job in jobs.values() if job.is_waiting}
    collecting = collecting_job(folder)
    if collecting is not None and collecting.is_waiting:
        # It could wait in a long queue for a table that can be written now.
        waiting.add(collecting.job_id)
    cancel_waiting(sorted(waiting))
    for run in all_runs(folder):
        if not run_is_going(run, jobs.get(run.path)):
            continue
        if now:
            kill_ranks(run)
        elif jobs.get(run.path) is None or not jobs[run.path].is_waiting:
            request_stop(run)
    end = time.monotonic() + seconds
    while series_is_going(folder):
        if time.monotonic() > end:
            return False
        time.sleep(1.0 if jobs else POLL_S)
    jobs = jobs_of(folder)
    for run in all_runs(folder):
        settle(run, jobs.get(run.path))
    collect(folder)
    return True


class SeriesWait:
    """Whether a series is over, asking Slurm only now and then."""

    def __init__(self, folder: SeriesFolder) -> None:
        self._folder = folder
        self._asked_s = -ASK_SLURM_EVERY_S

    def done(self) -> bool:
        """Whether it is."""
        if time.monotonic() - self._asked_s < ASK_SLURM_EVERY_S:
            return False
        self._asked_s = time.monotonic()
        return not series_is_going(self._folder)


def refuse_if_at_work(folder: SeriesFolder) -> None:
    """Raise RequestError while a process of this machine works a series off: it would start the same runs."""
    process = worked_off_by(folder)
    if process is not None:
        raise RequestError(
            f"{folder.path} is being worked off by process {process.pid}."
            f" See what it does: ptycho status {folder.path}; stop it: ptycho cancel {folder.path}"
        )
