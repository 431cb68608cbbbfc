"""A job of ours in Slurm: what Slurm says of it, and how it is ended."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ptycho.errors import PackageError, WorkError

# A controller under load answers slowly; one that does not answer at all must not hang the user's terminal.
ANSWER_WITHIN_S = 15.0

PENDING, REQUEUED, RUNNING, UNKNOWN = "PENDING", "REQUEUED", "RUNNING", "UNKNOWN"
COMPLETED, FAILED, CANCELLED, TIMEOUT = "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"
OUT_OF_MEMORY, PREEMPTED, NODE_FAIL = "OUT_OF_MEMORY", "PREEMPTED", "NODE_FAIL"

# Slurm's finer states, each under the one that means the same to a user.
_SAME_AS = {
    "CONFIGURING": RUNNING,
    "COMPLETING": RUNNING,
    "STAGE_OUT": RUNNING,
    "SIGNALING": RUNNING,
    "RESIZING": RUNNING,
    "SUSPENDED": PENDING,
    "STOPPED": PENDING,
    "RESV_DEL_HOLD": PENDING,
    "REQUEUE_FED": REQUEUED,
    "REQUEUE_HOLD": REQUEUED,
    "SPECIAL_EXIT": REQUEUED,
    "BOOT_FAIL": NODE_FAIL,
    "DEADLINE": TIMEOUT,
    "REVOKED": CANCELLED,
}

# Why a job ended that could not say so itself.
_ENDS = {
    FAILED: "The job ended with an error before its ranks could say why.",
    CANCELLED: "The job was cancelled with scancel, by you or by the administrators.",
    TIMEOUT: "The job reached its time limit before it had saved its state.",
    OUT_OF_MEMORY: "The job needed more memory than it had asked for.",
    PREEMPTED: "The job was pushed out by another one and may not start again by itself.",
    NODE_FAIL: "A node failed, and the job may not start again by itself.",
    COMPLETED: "The job ended without an error, but the run is not complete.",
}

_REMEDIES = {
    PENDING: "wait, ptycho status --watch {run}; or take it out of the queue: ptycho cancel {run}",
    REQUEUED: "wait, ptycho status --watch {run}; or stop it: ptycho cancel {run}",
    RUNNING: "ptycho logs --follow {run}",
    UNKNOWN: "ptycho status {run} again, on a login node of the cluster",
    FAILED: "ptycho logs {run}, then ptycho resume {run}",
    CANCELLED: "ptycho resume {run}",
    TIMEOUT: "ptycho resume {run}; in the spec, raise resources.warning_s so that it can save in time",
    OUT_OF_MEMORY: "start again with more resources.memory_gb, more nodes or a smaller batch_size",
    PREEMPTED: "ptycho resume {run}",
    NODE_FAIL: "ptycho resume {run}",
    COMPLETED: "ptycho logs {run}, then ptycho resume {run}",
}

# What squeue gives as the reason of waiting, in words; others are shown as they are.
_REASONS = {
    "Resources": "for free nodes",
    "Priority": "behind jobs of higher priority",
    "BeginTime": "for the pause that Slurm makes before it starts a job again",
    "Dependency": "for another job of its series",
    "DependencyNeverSatisfied": "for ever: the job that it waits for has failed",
    "JobArrayTaskLimit": "until fewer than resources.max_parallel_scans scans are worked on",
    "JobHeldUser": "because you hold it: scontrol release {job}",
    "JobHeldAdmin": "because an administrator holds it",
    "PartitionTimeLimit": "for ever: resources.time_limit_min is more than the partition allows",
    "PartitionNodeLimit": "for ever: resources.nodes is more than the partition allows",
    "PartitionDown": "for its partition, which is down",
    "ReqNodeNotAvail": "for nodes that are down or reserved",
    "Reservation": "for its reservation to begin",
    "QOSMaxWallDurationPerJobLimit": "for ever: resources.time_limit_min is more than the QOS allows",
    "InvalidAccount": "for ever: resources.account is none of yours",
    "InvalidQOS": "for ever: resources.qos is none of yours",
}


@dataclass(frozen=True, kw_only=True)
class ClusterJob:
    """What Slurm says of a job.

    state:    PENDING, REQUEUED (waits to start again), RUNNING, COMPLETED, FAILED, CANCELLED, TIMEOUT, OUT_OF_MEMORY,
              PREEMPTED, NODE_FAIL, or UNKNOWN when Slurm cannot be asked or has forgotten the job
    reason:   why it waits, in Slurm's word; for UNKNOWN, why nothing is known
    restarts: how often it has started again
    """

    job_id: str
    state: str
    reason: str = ""
    nodes: str = ""
    restarts: int = 0

    @property
    def is_waiting(self) -> bool:
        """Whether it is in the queue."""
        return self.state in (PENDING, REQUEUED)

    @property
    def is_over(self) -> bool:
        """Whether it will not run again by itself."""
        return self.state in _ENDS

    @property
    def sentence(self) -> str:
        """What this means, for people; empty where there is nothing to add."""
        if self.is_waiting:
            told = self.reason.partition(",")[0].strip("()")
            reason = _REASONS.get(told, f"({told})").format(job=self.job_id)
            begun = "The job goes on as soon as it can; it waits" if self.state == REQUEUED else "The job waits"
            return f"{begun} {reason}." if told not in ("", "None") else f"{begun} to be looked at."
        return f"Slurm cannot tell ({self.reason})." if self.state == UNKNOWN else _ENDS.get(self.state, "")

    def next_step(self, run: object) -> str:
        """What to do about the run in this folder, which it has not finished."""
        if self.is_waiting and "for ever" in self.sentence:
            return f"ptycho cancel {run}, then submit it again with other [resources]"
        return _REMEDIES[self.state].format(run=run)

    def to_dict(self) -> dict[str, object]:
        """Stable keys, for programs."""
        facts = {"state": self.state, "reason": self.reason, "nodes": self.nodes, "restarts": self.restarts}
        return facts | {"meaning": self.sentence}


def find_job(job_id: str) -> ClusterJob:
    """What Slurm says of one job, or of one task of a job array ("12_3")."""
    return find_jobs([job_id])[job_id]


def find_jobs(job_ids: Iterable[str]) -> dict[str, ClusterJob]:
    """Ask the queue, and the accounting for jobs that have left it: two questions, however many jobs there are."""
    wanted = list(dict.fromkeys(job_ids))
    if not wanted:
        return {}
    # Naming each task of an array would make a line longer than a command may be.
    jobs = ",".join(dict.fromkeys(job_id.partition("_")[0] for job_id in wanted))
    queue = ["squeue", "--noheader", "--states=all", "--array", f"--jobs={jobs}"]
    fields = "ArrayJobID:|,ArrayTaskID:|,State:|,Reason:|,NodeList:|,RestartCnt:|"
    lines, problem = _answer([*queue, f"--Format={fields}"])
    found = {}
    for array, task, state, reason, nodes, restarts in (line.split("|")[:6] for line in lines if line.count("|") > 5):
        job_id = f"{array}_{task}" if task.isdigit() else array
        found[job_id] = _job(job_id, state, reason, nodes, int(restarts) if restarts.isdigit() else 0)
    if not found.keys() >= set(wanted):
        accounts = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={jobs}"]
        lines, silence = _answer([*accounts, "--format=JobID,State,NodeList"])
        for job_id, state, nodes in (line.split("|")[:3] for line in lines):
            found.setdefault(job_id, _job(job_id, state, "", nodes, 0))
        problem = silence or problem
    unknown = problem or "it does not know the job any more"
    return {job_id: found.get(job_id) or ClusterJob(job_id=job_id, state=UNKNOWN, reason=unknown) for job_id in wanted}


def _job(job_id: str, state: str, reason: str, nodes: str, restarts: int) -> ClusterJob:
    # sacct says "CANCELLED by 1000".
    word = (state.split() or [UNKNOWN])[0].rstrip("+")
    word = _SAME_AS.get(word, word)
    if word == PENDING and restarts:
        word = REQUEUED
    known = word in (PENDING, REQUEUED, RUNNING, *_ENDS)
    told = "" if nodes in ("None assigned", "(null)") else nodes
    return ClusterJob(
        job_id=job_id,
        state=word if known else UNKNOWN,
        reason=reason if known else f"its state is {word}",
        nodes=told,
        restarts=restarts,
    )


def cancel_job(job_id: str) -> None:
    """End it now. Raises WorkError when Slurm refuses, PackageError where there is no scancel."""
    _scancel([job_id])


def cancel_waiting(job_ids: Sequence[str]) -> None:
    """Take those of the jobs, or of the tasks of the arrays, out of the queue that wait in it; raises as above."""
    if job_ids:
        _scancel(["--state=PENDING", *job_ids])


def _scancel(words: list[str]) -> None:
    _, problem = _answer(["scancel", *words])
    if problem:
        job_id = words[-1]
        raise WorkError(f"Slurm did not cancel job {job_id}: {problem}. Try again: scancel {job_id}")


def _answer(words: list[str]) -> tuple[list[str], str]:
    """The lines that a Slurm command prints, and why it failed."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=ANSWER_WITHIN_S, check=False)
    except FileNotFoundError as error:
        if words[0] == "scancel":
            raise PackageError("scancel is not on PATH. Use a login node of the cluster that runs the job.") from error
        return [], f"{words[0]} is not on PATH; use a login node of the cluster"
    except subprocess.TimeoutExpired:
        return [], f"{words[0]} did not answer within {ANSWER_WITHIN_S:.0f} s"
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    complaint = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return lines, ("" if done.returncode == 0 else complaint)
