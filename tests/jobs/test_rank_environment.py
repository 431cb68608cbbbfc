import os

from ptycho.jobs.rank_environment import (
    launcher_ranks_per_node,
    local_variables,
    thread_variables,
    threads_per_rank,
    variables_set,
)


def test_ranks_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert [threads_per_rank(n) for n in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
    assert thread_variables(4, {})["OMP_NUM_THREADS"] == "2"


def test_cores_that_the_launcher_bound_are_not_divided_again(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3})
    assert threads_per_rank(4) == 2


def test_a_thread_count_that_the_user_set_is_respected():
    assert thread_variables(2, {"OMP_NUM_THREADS": "3"}) == {}


def test_ranks_on_one_machine_meet_on_the_loopback():
    found = local_variables(2, {})
    assert found["MASTER_ADDR"] == "127.0.0.1"
    assert 1024 < int(found["MASTER_PORT"]) < 65536


def test_each_launcher_is_understood():
    assert launcher_ranks_per_node({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}) == 4
    assert launcher_ranks_per_node({"SLURM_STEP_TASKS_PER_NODE": "2(x3)"}) == 2
    assert launcher_ranks_per_node({"SLURM_STEP_TASKS_PER_NODE": "3,2"}) == 3
    assert launcher_ranks_per_node({}) is None


def test_variables_are_put_back(monkeypatch):
    monkeypatch.setenv("PRESENT", "old")
    with variables_set({"PRESENT": "new", "ABSENT": "here"}):
        assert (os.environ["PRESENT"], os.environ["ABSENT"]) == ("new", "here")
    assert os.environ["PRESENT"] == "old"
    assert "ABSENT" not in os.environ
