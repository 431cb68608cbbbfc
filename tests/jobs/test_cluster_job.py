"""What Slurm's answers mean: every state with its sentence and its next step."""

import os

import pytest

from ptycho.errors import PackageError, RequestError, WorkError
from ptycho.jobs import cluster_job
from ptycho.jobs.cluster_job import ClusterJob, cancel_job, find_job, find_jobs
from ptycho.jobs.launcher import Launch, settle, start
from ptycho.jobs.process import Process
from ptycho.jobs.ranks_record import FAILED, RankRecord
from ptycho.jobs.status import read_status
from tests.jobs.small_runs import make_run, write_program


class Slurm:
    """squeue, sacct and scancel that answer what they are told to."""

    def __init__(self, folder):
        self.folder = folder / "bin"
        self.answers(queue="", accounts="")

    def answers(self, queue="", accounts="", cancel="exit 0"):
        gone = 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1'
        write_program(self.folder, "squeue", f"echo '7|N/A|{queue}'" if queue else gone)
        write_program(self.folder, "sacct", f"echo '7|{accounts}'" if accounts else "exit 0")
        write_program(self.folder, "scancel", cancel)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return Slurm(tmp_path)


@pytest.fixture
def submitted(tmp_path):
    """A run whose job 7 was submitted and whose ranks have written that they run."""
    folder, job = make_run(tmp_path, resources__executor="slurm")
    Launch(executor="slurm", attempt=1, job_id="7", process=Process.current(), time="").write(folder)
    folder.write_state({**folder.read_state(), "status": "running"})
    return folder, job


@pytest.mark.parametrize(
    ("queue", "state"),
    [
        ("PENDING|Priority||0|", "PENDING"),
        ("PENDING|BeginTime||2|", "REQUEUED"),
        ("REQUEUE_HOLD|||1|", "REQUEUED"),
        ("CONFIGURING|None|n1|0|", "RUNNING"),
        ("RUNNING|None|n[1-2]|0|", "RUNNING"),
        ("COMPLETING|None|n1|0|", "RUNNING"),
        ("BOOT_FAIL|||0|", "NODE_FAIL"),
        ("DEADLINE|||0|", "TIMEOUT"),
        ("A_STATE_OF_TOMORROW|||0|", "UNKNOWN"),
    ],
)
def test_finer_states_of_the_queue_are_read_as_what_they_mean_to_a_user(slurm, queue, state):
    slurm.answers(queue=queue)
    assert find_job("7").state == state


def test_a_job_that_has_left_the_queue_is_looked_up_in_the_accounting(slurm):
    slurm.answers(accounts="CANCELLED by 1000|n1")
    assert (find_job("7").state, find_job("7").nodes) == ("CANCELLED", "n1")
    slurm.answers()
    assert find_job("7").state == "UNKNOWN"
    assert "Invalid job id" in find_job("7").reason


def test_a_controller_that_does_not_answer_does_not_hang_the_terminal(slurm, monkeypatch):
    monkeypatch.setattr(cluster_job, "ANSWER_WITHIN_S", 0.2)
    for name in ("squeue", "sacct"):
        write_program(slurm.folder, name, "exec sleep 30")
    found = find_job("7")
    assert found.state == "UNKNOWN"
    assert "did not answer" in found.sentence


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Priority", "waits behind jobs of higher priority"),
        ("(Resources)", "waits for free nodes"),
        ("PartitionTimeLimit", "for ever: resources.time_limit_min"),
        ("JobHeldUser", "scontrol release 7"),
        ("ReqNodeNotAvail, UnavailableNodes:n2", "waits for nodes that are down"),
        ("SomethingNew", "(SomethingNew)"),
        ("None", "waits to be looked at"),
    ],
)
def test_the_reason_of_waiting_is_put_in_words(reason, words):
    assert words in ClusterJob(job_id="7", state="PENDING", reason=reason).sentence


@pytest.mark.parametrize(
    ("state", "status", "sentence", "next_step"),
    [
        ("OUT_OF_MEMORY", "failed", "more memory than it had asked for", "memory_gb"),
        ("TIMEOUT", "failed", "time limit", "warning_s"),
        ("PREEMPTED", "failed", "pushed out", "ptycho resume"),
        ("NODE_FAIL", "failed", "node failed", "ptycho resume"),
        ("FAILED", "failed", "Rank 1 on n2", "ptycho logs"),
        ("COMPLETED", "failed", "Rank 1 on n2", "ptycho logs"),
        ("CANCELLED", "cancelled", "scancel", "ptycho resume"),
    ],
)
def test_every_end_that_the_run_could_not_tell_has_a_sentence_and_a_next_step(
    slurm, submitted, state, status, sentence, next_step
):
    folder, _ = submitted
    # Rank 0 saw only the broken connection; rank 1 never came to say a word.
    RankRecord(
        rank=0, attempt=1, process=Process(host="n1", pid=1, started=1), status=FAILED,
        sentence="RuntimeError: Connection closed by peer", is_certain=False,
    ).write(folder)  # fmt: skip
    RankRecord(rank=1, attempt=1, process=Process(host="n2", pid=1, started=1)).write(folder)
    slurm.answers(queue=f"{state}|NonZeroExitCode|n[1-2]|0|")
    found = read_status(folder)
    assert (found.status, found.slurm["state"]) == (status, state)
    assert sentence in found.error
    assert next_step in found.next_step
    assert settle(folder) == status


@pytest.mark.parametrize(
    ("queue", "next_step"),
    [
        ("PENDING|Priority||0|", "ptycho cancel"),
        ("PENDING|PartitionTimeLimit||0|", "ptycho cancel {run}, then submit it again with other [resources]"),
        ("PENDING|BeginTime||1|", "wait, ptycho status --watch {run}"),
        ("RUNNING|None|n1|0|", "ptycho logs --follow {run}"),
        ("A_STATE_OF_TOMORROW|||0|", "ptycho status {run} again, on a login node"),
    ],
)
def test_every_state_of_a_job_that_is_not_over_has_a_next_step(slurm, submitted, queue, next_step):
    folder, _ = submitted
    RankRecord(rank=0, attempt=1, process=Process.current()).write(folder)
    slurm.answers(queue=queue)
    assert next_step.format(run=folder.path) in read_status(folder).next_step


def test_many_jobs_are_asked_for_with_one_question(slurm):
    lines = "12|0|RUNNING|None|n1|0|\n12|1|PENDING|JobArrayTaskLimit||0|\n13|N/A|COMPLETED|None|n2|0|"
    count = f'echo "$*" >> {slurm.folder}/asked; '
    write_program(slurm.folder, "squeue", f"{count}printf '%s\\n' '{lines}'")
    write_program(slurm.folder, "sacct", f"{count}echo '12_2|FAILED|n1'")
    found = find_jobs(["12_0", "12_1", "12_2", "13", "99"])
    states = {job_id: job.state for job_id, job in found.items()}
    expected = {"12_0": "RUNNING", "12_1": "PENDING", "12_2": "FAILED", "13": "COMPLETED", "99": "UNKNOWN"}
    assert states == expected
    assert "max_parallel_scans" in found["12_1"].sentence
    asked = (slurm.folder / "asked").read_text().splitlines()
    assert [line.partition("--jobs=")[2].split()[0] for line in asked] == ["12,13,99", "12,13,99"]
    assert find_jobs([]) == {}


def test_a_requeued_run_is_not_taken_for_a_failed_one(slurm, submitted):
    folder, _ = submitted
    folder.write_state({**folder.read_state(), "status": "failed", "error": {"message": "a rank was killed"}})
    slurm.answers(queue="PENDING|BeginTime||1|")
    found = read_status(folder)
    assert (found.status, found.error, found.slurm["state"]) == ("starting", None, "REQUEUED")
    assert settle(folder) == "failed"


def test_a_run_whose_job_waits_or_works_is_not_started_twice(slurm, submitted):
    for queue in ("PENDING|Priority||0|", "RUNNING|None|n1|0|"):
        slurm.answers(queue=queue)
        with pytest.raises(RequestError, match="in use by Slurm job 7"):
            start(*submitted)


def test_scancel_that_fails_is_told(slurm, monkeypatch):
    slurm.answers(cancel='echo "scancel: error: Kill job error on job id 7: Access denied" >&2; exit 1')
    with pytest.raises(WorkError, match="Access denied"):
        cancel_job("7")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PackageError, match="login node"):
        cancel_job("7")
