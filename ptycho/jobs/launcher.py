"""Starting the ranks of a run: in this process, on this machine, on a cluster."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptycho.errors import PackageError, RequestError, WorkError
from ptycho.jobs import lock
from ptycho.jobs.batch_script import Submission
from ptycho.jobs.cluster_job import CANCELLED, UNKNOWN, ClusterJob, cancel_job, find_job
from ptycho.jobs.container import container_program, ranks_python, write_inside
from ptycho.jobs.events import Reporter
from ptycho.jobs.job_container import refuse_other_image
from ptycho.jobs.json_file import read_json, write_json
from ptycho.jobs.process import Process
from ptycho.jobs.rank_environment import local_variables, variables_set
from ptycho.jobs.ranks_record import first_cause, read_records
from ptycho.jobs.resolved_job import ResolvedJob
from ptycho.jobs.run_folder import RunFolder, now
from ptycho.jobs.runner import JobRunner
from ptycho.parallel import Ranks, SerialRanks

if TYPE_CHECKING:
    import submitit


POLL_S = 0.2
# Every question costs the controller of the whole cluster time.
ASK_SLURM_EVERY_S = 3.0
# submitit's local executor knows no "no limit", and two minutes are its default.
NO_LIMIT_MIN = 60 * 24 * 365
# A rank that was asked to stop may need this long to finish its step and save its state.
STOP_WITHIN_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How a run was started; launch.json in the run folder.

    attempt: 1 for the first start, one more for each resume
    job_id:  submitit's: a process number on this machine, or Slurm's job number; empty for "here"
    """

    executor: str
    attempt: int
    job_id: str = ""
    submitit_folder: str = ""
    process: Process
    time: str

    def with_job(self, job_id: str, submitit_folder: Path, process: Process | None = None) -> Launch:
        """The launch once the scheduler has given it a number."""
        known = process or self.process
        return replace(self, job_id=job_id, submitit_folder=str(submitit_folder), process=known)

    def write(self, folder: RunFolder) -> None:
        """Write launch.json."""
        write_json(folder.launch_path, asdict(self))

    @classmethod
    def read(cls, folder: RunFolder) -> Launch | None:
        """How the run was started last, or None when it never was."""
        if not folder.launch_path.exists():
            return None
        content = read_json(folder.launch_path)
        return cls(**{**content, "process": Process(**content["process"])})


def start_here(folder: RunFolder, ranks: Ranks | None = None) -> None:
    """Do the run in this process, as one of the ranks that a launcher set up; return when it is done.

    Raises what a stage raises, CancelledError when the run was asked to stop.
    """
    ranks = ranks or SerialRanks()
    refuse_other_image(ResolvedJob.read(folder.resolved_path))
    if ranks.rank == 0:
        lock.acquire(folder)
        prepare(folder, "here").write(folder)
    ranks.barrier()
    try:
        JobRunner(folder.path).run_here(ranks)
    finally:
        if ranks.rank == 0:
            lock.release(folder)


def start(folder: RunFolder, job: ResolvedJob) -> submitit.Job[None]:
    """Start the ranks as processes of their own (executor "local") or as a Slurm job, and return at once.

    Raises RequestError when the folder is in use, PackageError when the scheduler or the container is not there.
    """
    check_programs(job)
    refuse_other_image(job)
    refuse_if_queued(folder)
    lock.acquire(folder)
    try:
        launch = prepare(folder, job.resources.executor)
        # A fresh folder for each start: submitit takes a result it finds there for the new job's.
        submitit_folder = folder.path / "submitit" / f"{launch.attempt}"
        on_cluster = launch.executor == "slurm"
        python = ranks_python(folder.path, job)
        write_inside(folder.path, [job])
        executor = (
            Submission(runs=[folder], job=job, folder=submitit_folder, python=python).executor()
            if on_cluster
            else _local(submitit_folder, job, python)
        )
        launch.write(folder)
        submitit_folder.mkdir(parents=True, exist_ok=True)
        controller_log = submitit_folder / "controller.log"
        with variables_set(_variables(job)), signals_ignored(), streams_redirected(controller_log):
            submitted: submitit.Job[None] = executor.submit(JobRunner(folder.path))
        process = launch.process if on_cluster else Process.of_pid(int(submitted.job_id))
        launch.with_job(str(submitted.job_id), submitit_folder, process).write(folder)
        if on_cluster:
            lock.release(folder)
        else:
            lock.hand_over(folder, process)
    except BaseException:
        lock.release(folder)
        raise
    return submitted


def cluster_job(folder: RunFolder) -> ClusterJob | None:
    """What Slurm says of the run's job now; None for a run that was not started through Slurm."""
    launch = Launch.read(folder)
    return find_job(launch.job_id) if launch is not None and launch.executor == "slurm" and launch.job_id else None


def is_going(folder: RunFolder) -> bool:
    """Whether the run is at work, or waits in a queue to be."""
    job = cluster_job(folder)
    if job is None or job.state == UNKNOWN:
        return lock.owner(folder) is not None
    return not job.is_over


def refuse_if_queued(folder: RunFolder) -> None:
    """Refuse a folder whose Slurm job lives: the queue may hold it for days, without a process or a lock."""
    job = cluster_job(folder)
    if job is None or job.state == UNKNOWN:
        return
    if not job.is_over:
        raise RequestError(
            f"{folder.path} is in use by Slurm job {job.job_id}, which is {job.state}."
            f" See what it does: ptycho status {folder.path}; stop it: ptycho cancel {folder.path}"
        )
    # Where a node died nobody gave the lock back, and its last heartbeat may be a moment ago.
    lock.release(folder)


def prepare(folder: RunFolder, executor: str) -> Launch:
    """Clear what an earlier attempt left behind for this one to misread."""
    earlier = Launch.read(folder)
    attempts = max(folder.read_state()["attempts"], earlier.attempt if earlier else 0)
    shutil.rmtree(folder.ranks, ignore_errors=True)
    folder.ranks.mkdir()
    folder.cancel_path.unlink(missing_ok=True)
    folder.write_state({**folder.read_state(), "status": "starting", "error": None})
    return Launch(executor=executor, attempt=attempts + 1, process=Process.current(), time=now())


def _variables(job: ResolvedJob) -> dict[str, str]:
    return {} if job.resources.executor == "slurm" else local_variables(job.resources.ranks_per_node, os.environ)


@contextmanager
def signals_ignored() -> Iterator[None]:
    """Start children deaf to Ctrl-C and to the closing of the terminal.

    submitit's controller would answer Ctrl-C by killing the ranks after a second, before they have saved their state;
    the ranks set handlers of their own. Nobody but us tells the run to stop.
    """
    ignored = (signal.SIGINT, signal.SIGHUP)
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def streams_redirected(path: Path) -> Iterator[None]:
    """Start children with no hold on our streams.

    A program that reads the output of `ptycho submit` through a pipe would otherwise wait for the run's end.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(number) for number in range(3)]
    nowhere, log = os.open(os.devnull, os.O_RDONLY), os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.dup2(nowhere, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        yield
    finally:
        for number, descriptor in enumerate(saved):
            os.dup2(descriptor, number)
        for descriptor in (*saved, nowhere, log):
            os.close(descriptor)


def check_programs(job: ResolvedJob) -> None:
    """Raise PackageError when a program that starting the job needs is not on PATH."""
    executor = job.resources.executor
    if executor == "slurm" and shutil.which("sbatch") is None:
        raise PackageError(
            'executor = "slurm" needs sbatch, which is not on PATH. Use a login node, or executor = "local".'
        )
    image = job.container.image if job.container.is_entered else None
    # On a cluster the nodes have the container program, the login node may have none.
    if executor == "local" and image is not None and container_program() is None:
        raise PackageError(
            f'container.image = "{image}" needs Apptainer, which is not on PATH. Install it'
            " (containers/README.md), or leave container.image out."
        )
    if executor == "here" and image is not None:
        raise RequestError(
            f'container.image = "{image}": the ranks are outside it already (executor "here", or started by mpirun).'
            f' Use executor = "local" or "slurm", or start them inside: apptainer run {image} run SPEC'
        )


def _local(folder: Path, job: ResolvedJob, python: str | None) -> submitit.Executor:
    import submitit

    executor = submitit.LocalExecutor(folder, python=python)
    resources = job.resources
    executor.update_parameters(
        timeout_min=resources.time_limit_min or NO_LIMIT_MIN,
        gpus_per_node=resources.gpus_per_node,
        tasks_per_node=resources.ranks_per_node,
        signal_delay_s=30,
    )
    return executor


def wait(folder: RunFolder, submitted: Any, on_look: Callable[[], None]) -> str:
    """Wait for a run to end, calling `on_look` a few times a second; returns the final status of state.json.

    Ctrl-C asks the ranks to stop and waits for them; a second one ends them.
    """
    try:
        _until_done(submitted, on_look)
    except KeyboardInterrupt:
        request_stop(folder)
        try:
            _until_done(submitted, on_look)
        except KeyboardInterrupt:
            kill_ranks(folder)
            _until_done(submitted, on_look)
    return settle(folder)


def _until_done(submitted: Any, on_look: Callable[[], None]) -> None:
    while not submitted.done():
        on_look()
        time.sleep(POLL_S)
    on_look()


class ClusterWait:
    """Whether a run on the cluster is over, asking Slurm only now and then."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._asked_s = -ASK_SLURM_EVERY_S

    def done(self) -> bool:
        """Whether it is."""
        if time.monotonic() - self._asked_s < ASK_SLURM_EVERY_S:
            return False
        self._asked_s = time.monotonic()
        return not is_going(self._folder)


def settle(folder: RunFolder, job: ClusterJob | None = None) -> str:
    """Write how a run ended into state.json when its ranks could not do so themselves; returns the status.

    job: what Slurm says of its job, where that has been asked already
    """
    state = folder.read_state()
    job = (job or cluster_job(folder)) if state["status"] != "finished" else None
    is_over = job is not None and job.is_over
    if job is not None and job.state != UNKNOWN:
        if not is_over:
            return str(state["status"])
    elif lock.owner(folder) is not None:
        return str(state["status"])
    cause = first_cause(read_records(folder), are_over=is_over)
    if job is not None and job.state == CANCELLED and state["status"] in ("running", "starting"):
        state = {**state, "status": "cancelled", "error": {"message": job.sentence}}
        folder.write_state(state)
    elif state["status"] in ("running", "starting"):
        log_hint = f"Read {folder.log_path(0)}." if folder.log_path(0).exists() else f"Read {folder.path / 'submitit'}."
        sentence = cause or f"The processes of this run ended before they could say why. {log_hint}"
        state = {**state, "status": "failed", "error": {"message": sentence}}
        folder.write_state(state)
        Reporter(folder).error(sentence)
    elif state["status"] == "failed" and cause:
        folder.write_state({**state, "error": {**(state["error"] or {}), "message": cause}})
    lock.release(folder)
    return str(state["status"])


def request_stop(folder: RunFolder) -> None:
    """Ask the ranks to save their state and end: by a file that all of them look for, and by a signal where one can."""
    try:
        folder.cancel_path.touch()
    except OSError as error:
        raise WorkError(f"Cannot write {folder.cancel_path}: {error.strerror or error}.") from error
    job = cluster_job(folder)
    if job is not None and job.is_waiting:
        cancel_job(job.job_id)
    for record in read_records(folder):
        if not record.ended and record.process.is_alive:
            record.process.signal(signal.SIGTERM)


def kill_ranks(folder: RunFolder) -> None:
    """End the run at once; what its last checkpoint holds is kept."""
    job = cluster_job(folder)
    if job is not None and not job.is_over:
        cancel_job(job.job_id)
    for record in read_records(folder):
        if not record.ended and record.process.is_alive:
            record.process.signal(signal.SIGKILL)


def stop_and_wait(folder: RunFolder, seconds: float = STOP_WITHIN_S) -> None:
    """Ask a run to stop and wait until it has. Raises WorkError when it does not within the time."""
    request_stop(folder)
    if not wait_until_over(folder, seconds):
        raise WorkError(
            f"{folder.path} has not stopped within {seconds:.0f} s; it stops at its next step."
            f" To end it at once, without saving: ptycho cancel --now {folder.path}"
        )
    settle(folder)


def wait_until_over(folder: RunFolder, seconds: float) -> bool:
    """Wait for the run to end; False when it still lives after that time."""
    end = time.monotonic() + seconds
    while is_going(folder):
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)
    return True
