"""Jobs on a real Slurm: submitted, watched, stopped, preempted and killed."""

import json
import subprocess
import sys
import time

import pytest

from ptycho.jobs.run_folder import RunFolder
from tests.jobs.small_runs import stand_in_environment, write_spec

pytestmark = pytest.mark.slurm

# What the stand-in stages add up over their epochs on two ranks.
EPOCHS = [(stage, epoch, sum(3.0 * n for n in range(1, epoch + 1))) for stage in ("refine",) for epoch in range(1, 7)]


def ptycho(*arguments, cwd):
    command = [sys.executable, "-m", "ptycho", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=stand_in_environment(), capture_output=True, text=True, timeout=600)


class ClusterRun:
    """A run of counting stages on two nodes with one rank each, just submitted."""

    def __init__(self, cluster, folder, name, **overrides):
        self.cluster, self.cwd = cluster, folder / name
        self.cwd.mkdir()
        spec = write_spec(self.cwd, job__name=name, resources__executor="slurm", resources__nodes=2, **overrides)
        done = self.ptycho("submit", spec)
        assert done.returncode == 0, done.stdout + done.stderr
        (path,) = (self.cwd / "runs").iterdir()
        self.folder = RunFolder(path)
        self.job_id = json.loads(self.folder.launch_path.read_text())["job_id"]

    def ptycho(self, *arguments):
        return ptycho(*arguments, cwd=self.cwd)

    def status(self):
        return json.loads(self.ptycho("status", self.folder.path, "--json").stdout)

    def wait_until(self, is_so, timeout_s=300):
        """Returns when is_so(the lines of metrics.jsonl) holds."""
        end = time.monotonic() + timeout_s
        while not is_so(self.rows()):
            assert time.monotonic() < end, (self.cluster.job(self.job_id), self.rows(), self.output())
            time.sleep(0.2)

    def rows(self):
        path = self.folder.metrics_path
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def output(self):
        return "".join(path.read_text() for path in sorted(self.folder.path.glob("submitit/*/*_log.*")))

    def is_held(self):
        self.wait_until(lambda rows: len(rows) >= 2)

    def ends_as_if_nothing_had_happened(self, at_most=1):
        job = self.cluster.wait_for(self.job_id, "COMPLETED", restarts=1, at_most=at_most)
        assert self.folder.read_state()["status"] == "finished"
        assert [(row["stage"], row["epoch"], row["loss"]) for row in self.rows()] == EPOCHS
        assert self.folder.read_state()["attempts"] == int(job["Restarts"]) + 1


@pytest.fixture(scope="module")
def interrupted(cluster, tmp_path_factory):
    """Four jobs side by side, each held after its second epoch, or about to lose a rank in its third."""
    folder = tmp_path_factory.mktemp("interrupted")
    limit = {"resources__partition": "short", "resources__time_limit_min": 1, "resources__warning_s": 25}
    wanted = {"held-USR1": {}, "held-TERM": {}, "held-limit": limit, "vanishes": {}}
    return {name: ClusterRun(cluster, folder, name, **overrides) for name, overrides in wanted.items()}


def test_a_signal_saves_the_state_and_the_job_goes_on_in_another_allocation(cluster, interrupted):
    runs = {name: interrupted[f"held-{name}"] for name in ("USR1", "TERM")}
    for name, run in runs.items():
        run.is_held()
        cluster.run("scancel", f"--signal={name}", run.job_id)
    waiting = runs["USR1"]
    cluster.wait_for(waiting.job_id, "PENDING", restarts=1)
    found = waiting.status()
    assert (found["status"], found["slurm"]["state"], found["slurm"]["restarts"]) == ("starting", "REQUEUED", 1)
    assert "waits" in found["slurm"]["meaning"]
    for run in runs.values():
        run.ends_as_if_nothing_had_happened()


def test_a_rank_that_is_killed_costs_an_epoch_and_not_the_run(interrupted):
    interrupted["vanishes"].ends_as_if_nothing_had_happened()


def test_a_job_that_is_longer_than_the_time_limit_goes_on_in_another_allocation(interrupted):
    # Slurm may warn a minute too early, also a job that has gone on and starts slowly.
    interrupted["held-limit"].ends_as_if_nothing_had_happened(at_most=8)


def test_a_preempted_job_goes_on_when_the_other_has_ended(cluster, tmp_path):
    run = ClusterRun(cluster, tmp_path, "held")
    run.is_held()
    cluster.submit("sleep 1", tmp_path, "--partition=high", "--nodes=2", "--exclusive")
    run.ends_as_if_nothing_had_happened()


def test_a_job_goes_on_when_a_node_dies(cluster, tmp_path):
    run = ClusterRun(cluster, tmp_path, "held")
    run.is_held()
    cluster.control("kill-node", "n2")
    cluster.control("restore-node", "n2")
    run.ends_as_if_nothing_had_happened()


def test_what_a_rank_explains_is_final(cluster, tmp_path):
    run = ClusterRun(cluster, tmp_path, "raises")
    cluster.wait_for(run.job_id, "FAILED")
    found = run.status()
    assert found["status"] == "failed"
    assert "Rank 1 on n2 failed in stage refine: The engine diverged in epoch 3" in found["error"]
    assert "ptycho resume" in found["next_step"]
    assert "The engine diverged" in run.ptycho("logs", "--rank", 1, run.folder.path).stdout


def test_cancel_saves_the_state_and_resume_goes_on(cluster, tmp_path):
    run = ClusterRun(cluster, tmp_path, "held")
    run.is_held()
    assert run.status()["slurm"]["state"] == "RUNNING"
    refused = run.ptycho("resume", run.folder.path)
    assert refused.returncode == 2
    assert f"is in use by Slurm job {run.job_id}, which is RUNNING" in refused.stderr
    cancelled = run.ptycho("cancel", run.folder.path)
    assert cancelled.returncode == 0, cancelled.stderr
    assert cluster.job(run.job_id)["JobState"] == "CANCELLED"
    assert run.status()["status"] == "cancelled"
    resumed = run.ptycho("resume", run.folder.path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert [(row["stage"], row["epoch"], row["loss"]) for row in run.rows()] == EPOCHS


def test_a_waiting_job_says_why_and_can_be_cancelled(cluster, tmp_path):
    run = ClusterRun(cluster, tmp_path, "late", resources__extra_sbatch=["--begin=now+1hour"])
    found = run.status()
    assert (found["status"], found["slurm"]["state"], found["slurm"]["reason"]) == ("starting", "PENDING", "BeginTime")
    assert run.ptycho("logs", run.folder.path).returncode == 3
    assert run.ptycho("cancel", run.folder.path).returncode == 0
    assert run.status()["status"] == "cancelled"
    assert cluster.job(run.job_id)["JobState"] == "CANCELLED"
