"""How far a run is: read from its folder, whoever started it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from ptycho.jobs import lock
from ptycho.jobs.cluster_job import CANCELLED as SLURM_CANCELLED
from ptycho.jobs.cluster_job import UNKNOWN, ClusterJob
from ptycho.jobs.events import read_lines
from ptycho.jobs.launcher import Launch, cluster_job
from ptycho.jobs.ranks_record import first_cause, read_records
from ptycho.jobs.run_folder import RunFolder, seconds_between

CREATED, STARTING, RUNNING = "created", "starting", "running"
FINISHED, FAILED, CANCELLED, DIED = "finished", "failed", "cancelled", "died"


# Ends of a Slurm job of which the ranks' own records tell more than Slurm does.
_UNEXPLAINED = frozenset({"FAILED", "COMPLETED"})


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """What `ptycho status` shows; the keys of its JSON.

    status: created, starting, running, finished, failed, cancelled, or died (its processes are gone without a word)
    part_done: 0 to 1, of a stage that has no epochs
    stages: stage → "done", "running" or, when the run stands still, "unfinished"; stages not listed wait
    slurm:  what Slurm says of the job of an unfinished run: state, reason, nodes, restarts, meaning
    """

    folder: str
    status: str
    stage: str | None = None
    epoch: int | None = None
    n_epochs: int | None = None
    numbers: dict[str, Any] = field(default_factory=dict)
    seconds_per_epoch: float | None = None
    seconds_left: float | None = None
    stages: dict[str, str] = field(default_factory=dict)
    n_ranks: int | None = None
    executor: str | None = None
    job_id: str | None = None
    attempts: int = 0
    error: str | None = None
    result: dict[str, Any] = field(default_factory=dict)
    next_step: str = ""
    slurm: dict[str, object] | None = None
    part_done: float | None = None

    @property
    def is_going(self) -> bool:
        """Whether its processes are at work."""
        return self.status in (STARTING, RUNNING)

    def to_dict(self) -> dict[str, Any]:
        """Stable keys, for programs."""
        return asdict(self)


def read_status(folder: RunFolder, job: ClusterJob | None = None) -> RunStatus:
    """The state of a run now.

    job: what Slurm says of its job, where that has been asked already
    """
    state = folder.read_state()
    launch = Launch.read(folder)
    status, error = str(state["status"]), (state.get("error") or {}).get("message")
    job = (job or cluster_job(folder)) if status not in (CREATED, FINISHED) else None
    if job is not None and job.state != UNKNOWN:
        status, error = _with_slurm(folder, job, status, error)
    elif status in (STARTING, RUNNING) and not _may_be_alive(folder, launch):
        status, error = DIED, first_cause(read_records(folder)) or "Its processes are gone without a word."
    stage = state.get("stage") if status != FINISHED else None
    return RunStatus(
        folder=str(folder.path),
        status=status,
        stage=stage,
        stages={name: _stage_status(entry["status"], status) for name, entry in state["stages"].items()},
        n_ranks=state.get("n_ranks"),
        executor=launch.executor if launch else None,
        job_id=launch.job_id or None if launch else None,
        attempts=max(state["attempts"], launch.attempt if launch else 0),
        error=error,
        result=state.get("result", {}),
        next_step=_next_step(folder, status, job),
        slurm=job.to_dict() if job else None,
        **_progress(folder, stage, is_going=status in (STARTING, RUNNING)),
    )


def _with_slurm(folder: RunFolder, job: ClusterJob, status: str, error: str | None) -> tuple[str, str | None]:
    """Status and error of a run whose job Slurm knows: Slurm knows whether it lives, the folder knows why it ended."""
    if job.is_waiting:
        return STARTING, None
    if not job.is_over:
        # A rank that stopped leaves the folder "cancelled" for the moment until the job has left the node.
        return (status, error) if folder.cancel_path.exists() else (RUNNING if error else status, None)
    cause = first_cause(read_records(folder), are_over=True)
    if status in (STARTING, RUNNING):
        ended = CANCELLED if job.state == SLURM_CANCELLED else FAILED
        return ended, cause if cause and ended == FAILED and job.state in _UNEXPLAINED else job.sentence
    return status, (cause or error) if status == FAILED else error


def _stage_status(stage: str, run: str) -> str:
    return "unfinished" if stage == "running" and run not in (STARTING, RUNNING) else stage


def _may_be_alive(folder: RunFolder, launch: Launch | None) -> bool:
    if lock.owner(folder) is not None:
        return True
    # A cluster job that waits in the queue has no process yet; only Slurm knows more.
    return launch is not None and launch.executor == "slurm" and not read_records(folder)


def _progress(folder: RunFolder, stage: str | None, *, is_going: bool) -> dict[str, Any]:
    rows = [row for row in read_lines(folder.metrics_path) if row["stage"] == stage]
    if not rows:
        return {"part_done": _part_done(folder, stage) if is_going and stage else None}
    last = rows[-1]
    numbers = {key: value for key, value in last.items() if key not in ("time", "stage", "epoch", "n_epochs")}
    known = {"epoch": last["epoch"], "n_epochs": last["n_epochs"], "numbers": numbers}
    recent = rows[-6:]
    if not is_going or len(recent) < 2:
        return known
    per_epoch = seconds_between(recent[0]["time"], recent[-1]["time"]) / (recent[-1]["epoch"] - recent[0]["epoch"])
    since = (datetime.now(UTC) - datetime.fromisoformat(last["time"])).total_seconds()
    left = max(0.0, per_epoch * (last["n_epochs"] - last["epoch"]) - since)
    return {**known, "seconds_per_epoch": round(per_epoch, 3), "seconds_left": round(left, 1)}


def _part_done(folder: RunFolder, stage: str) -> float | None:
    """What a stage without epochs last told of its loop."""
    told = [event for event in read_lines(folder.events_path) if event.get("stage") == stage]
    last = told[-1] if told else {}
    return last["done"] / max(1, last["total"]) if last.get("event") == "progress" else None


def _next_step(folder: RunFolder, status: str, job: ClusterJob | None) -> str:
    """The command that most people will want next."""
    is_in_queue = job is not None and (job.is_waiting or job.state == UNKNOWN)
    if job is not None and ((job.is_over and status == FAILED) or (is_in_queue and status in (STARTING, RUNNING))):
        return job.next_step(folder.path)
    if status == FINISHED and list(folder.read_state()["stages"]) == ["train"]:
        return f"ptycho reconstruct SCAN --model {folder.path}"
    return {
        CREATED: f"ptycho resume {folder.path}",
        STARTING: f"ptycho status {folder.path}",
        RUNNING: f"ptycho logs --follow {folder.path}",
        FINISHED: f"open {folder.report_path}",
        FAILED: f"ptycho logs {folder.path}, then ptycho resume {folder.path}",
        CANCELLED: f"ptycho resume {folder.path}",
        DIED: f"ptycho resume {folder.path}",
    }[status]
