"""The two-node test cluster does what the tests on it take for granted."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import submitit

SCRIPT = Path(__file__).parents[2] / "containers" / "test-cluster" / "cluster"

SLEEP_ON_EVERY_NODE = "srun sh -c 'echo started; sleep 600'"


def control(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *words], env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["start"], 'no command "start"'),
        (["kill-node"], "kill-node needs the name of a node: n1 n2"),
        (["up", "a", "b"], "Too many arguments: a b"),
    ],
)
def test_a_wrong_request_is_refused_with_a_sentence(words, says):
    done = control(*words)
    assert done.returncode == 2
    assert says in done.stderr


def test_a_wrong_port_is_refused():
    done = control("status", PTYCHO_TEST_CLUSTER_PORT="http")
    assert done.returncode == 2
    assert "PTYCHO_TEST_CLUSTER_PORT=http is not a port number" in done.stderr


def test_status_of_no_cluster_has_exit_code_3_and_makes_no_folder(tmp_path):
    folder = tmp_path / "none"
    assert control("status", str(folder)).returncode == 3
    assert not folder.exists()


def test_help_names_every_command():
    text = control("help").stdout
    for command in ("install", "up", "env", "status", "kill-node", "freeze-node", "restore-node", "down"):
        assert f"cluster {command} " in text


@pytest.mark.slurm
def test_srun_runs_on_two_nodes_with_names_of_their_own(cluster):
    assert sorted(cluster.run("srun", "--nodes=2", "hostname").split()) == ["n1", "n2"]


@pytest.mark.slurm
def test_each_node_resolves_the_other_and_has_its_own_shared_memory(cluster):
    script = "touch /dev/shm/$(hostname); sleep 1; ls /dev/shm | xargs; getent hosts n1 n2 | wc -l"
    lines = cluster.run("srun", "--nodes=2", "--label", "sh", "-c", script).splitlines()
    assert {line.split(": ")[1] for line in lines} == {"n1", "n2", "2"}


@pytest.mark.slurm
@pytest.mark.parametrize(("script", "state"), [("true", "COMPLETED"), ("exit 3", "FAILED")])
def test_accounting_knows_how_a_job_ended(cluster, tmp_path, script, state):
    job = cluster.submit(script, tmp_path)
    cluster.wait_for(job, state)
    assert cluster.accounted_states(job) == [state]


@pytest.mark.slurm
def test_fake_gpus_are_scheduled_and_named_to_the_job(cluster):
    words = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=2", "printenv", "CUDA_VISIBLE_DEVICES"]
    assert cluster.run("srun", *words).split() == ["0,1", "0,1"]


@pytest.mark.slurm
def test_mpi_spans_both_nodes(cluster):
    code = "from mpi4py import MPI; w = MPI.COMM_WORLD; print(w.size, w.allreduce(w.rank), MPI.Get_processor_name())"
    output = cluster.run(
        "srun", "--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--mpi=pmix", sys.executable, "-c", code
    )
    assert sorted(output.splitlines()) == ["4 6 n1", "4 6 n1", "4 6 n2", "4 6 n2"]


@pytest.mark.slurm
def test_submitit_runs_two_tasks_on_each_of_two_nodes(cluster, tmp_path):
    executor = submitit.AutoExecutor(folder=tmp_path, cluster="slurm")
    executor.update_parameters(nodes=2, tasks_per_node=2, timeout_min=5, slurm_partition="main")
    job = executor.submit(subprocess.check_output, ["sh", "-c", "echo $SLURM_PROCID $(hostname)"], text=True)
    cluster.wait_for(job.job_id, "COMPLETED", timeout_s=400)
    assert job.results() == ["0 n1\n", "1 n1\n", "2 n2\n", "3 n2\n"]


@pytest.mark.slurm
def test_the_high_partition_preempts_main_which_is_warned_requeued_and_runs_again(cluster, tmp_path):
    script = 'trap "echo warned" USR2; echo run $SLURM_RESTART_COUNT; while true; do sleep 0.2; done'
    job = cluster.submit(script, tmp_path, "--nodes=2", "--exclusive", "--signal=B:USR2@5")
    cluster.wait_for_lines(tmp_path / "output", "run", 1)
    other = cluster.submit("sleep 1", tmp_path, "--nodes=2", "--exclusive", "--partition=high", "--output=other")
    cluster.wait_for(job, "PENDING", restarts=1)
    cluster.wait_for(other, "COMPLETED")
    cluster.wait_for(job, "RUNNING", restarts=1)
    cluster.run("scancel", job)
    cluster.wait_for(job, "CANCELLED", restarts=1)
    assert cluster.accounted_states(job) == ["PREEMPTED", "CANCELLED"]
    lines = [line for line in (tmp_path / "output").read_text().splitlines() if line in ("warned", "run", "run 1")]
    assert lines == ["run", "warned", "run 1"]


@pytest.mark.slurm
def test_the_short_partition_refuses_a_long_job(cluster, tmp_path):
    with pytest.raises(AssertionError, match="time limit"):
        cluster.submit("true", tmp_path, "--partition=short", "--time=5")


@pytest.mark.slurm
@pytest.mark.slow
def test_the_short_partition_ends_a_job_after_a_minute(cluster, tmp_path):
    job = cluster.submit("sleep 600", tmp_path, "--partition=short")
    assert cluster.wait_for(job, "TIMEOUT", timeout_s=400)["TimeLimit"] == "00:01:00"


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.parametrize("failure", ["kill-node", "freeze-node"])
def test_a_failed_node_requeues_its_job_which_runs_again_when_the_node_is_back(cluster, tmp_path, failure):
    job = cluster.submit(SLEEP_ON_EVERY_NODE, tmp_path, "--nodes=2", "--requeue")
    cluster.wait_for_lines(tmp_path / "output", "started", 2)
    try:
        assert cluster.control(failure, "n2").returncode == 0
        cluster.wait_for(job, "PENDING", restarts=1)
    finally:
        assert cluster.control("restore-node", "n2").returncode == 0
    cluster.wait_for(job, "RUNNING", restarts=1)
    cluster.run("scancel", job)
    cluster.wait_for(job, "CANCELLED", restarts=1)
    assert cluster.accounted_states(job) == ["NODE_FAIL", "CANCELLED"]


@pytest.mark.slurm
def test_a_restored_node_gives_up_its_jobs_at_once(cluster, tmp_path):
    job = cluster.submit(SLEEP_ON_EVERY_NODE, tmp_path, "--nodes=2", "--no-requeue")
    cluster.wait_for_lines(tmp_path / "output", "started", 2)
    cluster.control("kill-node", "n1")
    assert cluster.control("restore-node", "n1").returncode == 0
    cluster.wait_for(job, "NODE_FAIL", timeout_s=15)
    assert sorted(cluster.run("srun", "--nodes=2", "hostname").split()) == ["n1", "n2"]


@pytest.mark.slurm
@pytest.mark.parametrize("failure", ["kill-node", "freeze-node"])
def test_status_tells_a_failed_node_before_the_controller_does_and_up_brings_it_back(cluster, failure):
    cluster.control(failure, "n2")
    status = cluster.control("status").stdout
    assert ("  n2: nothing runs\n" if failure == "kill-node" else " (frozen)\n") in status
    assert cluster.control("up").returncode == 0
    assert sorted(cluster.run("srun", "--nodes=2", "hostname").split()) == ["n1", "n2"]


def processes_naming(folder: Path) -> list[str]:
    """Command lines of the live processes that name the folder, or whose binary or open files lie in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            mounts = (process / "mounts").read_text()
            opened = [str(file.readlink()) for file in (process / "fd").iterdir()]
        except OSError:  # it has ended meanwhile
            continue
        if int(process.name) != os.getpid() and any(str(folder) in text for text in (command, mounts, *opened)):
            found.append(command)
    return found


@pytest.mark.slurm
def test_down_leaves_no_process_and_no_mount_and_up_remembers_the_jobs(second_cluster, tmp_path):
    cluster = second_cluster
    assert "already up" in cluster.control("up").stdout
    job = cluster.submit(f"setsid sleep 600 & {SLEEP_ON_EVERY_NODE}", tmp_path, "--nodes=2")
    cluster.wait_for_lines(tmp_path / "output", "started", 2)
    assert processes_naming(cluster.folder)
    assert cluster.control("down").returncode == 0
    assert processes_naming(cluster.folder) == []
    assert str(cluster.folder) not in Path("/proc/mounts").read_text()
    assert "is not up" in cluster.control("down").stdout
    assert cluster.control("up").returncode == 0
    assert cluster.accounted_states(job) == ["CANCELLED"]
    assert int(cluster.submit("true", tmp_path)) > int(job)


@pytest.mark.slurm
def test_up_clears_away_what_a_crash_has_left(second_cluster):
    for daemon in ("slurmctld", "slurmdbd", "mariadbd", "n1.slurmd"):
        os.kill(int((second_cluster.folder / "run" / f"{daemon}.pid").read_text()), signal.SIGKILL)
    assert second_cluster.control("status").returncode == 3
    assert second_cluster.control("up").returncode == 0
    assert sorted(second_cluster.run("srun", "--nodes=2", "hostname").split()) == ["n1", "n2"]
