import multiprocessing
import os
import pickle
import socket
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as distributed

from ptycho.errors import RanksError
from ptycho.parallel import SerialRanks, find_ranks, launcher_sizes
from ptycho_torch import ranks as torch_ranks
from ptycho_torch.ranks import TorchRanks, close_process_group, ensure_process_group


@pytest.mark.parametrize(
    ("environment", "sizes"),
    [
        ({}, {}),
        ({"WORLD_SIZE": "4", "RANK": "2"}, {"WORLD_SIZE": 4}),
        ({"OMPI_COMM_WORLD_SIZE": "4", "PMIX_RANK": "1"}, {"OMPI_COMM_WORLD_SIZE": 4}),
        ({"PMI_SIZE": "3", "PMI_RANK": "0"}, {"PMI_SIZE": 3}),
        ({"MV2_COMM_WORLD_SIZE": "2"}, {"MV2_COMM_WORLD_SIZE": 2}),
        ({"SLURM_STEP_NUM_TASKS": "8", "PMIX_RANK": "5"}, {"SLURM_STEP_NUM_TASKS": 8}),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, {}),
        ({"SLURM_STEP_NUM_TASKS": "1", "WORLD_SIZE": "2"}, {"WORLD_SIZE": 2}),
        ({"SLURM_STEP_NUM_TASKS": "2", "OMPI_COMM_WORLD_SIZE": "8"}, {"OMPI_COMM_WORLD_SIZE": 8}),
        ({"SLURM_STEP_NUM_TASKS": "2", "WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "7"}, {"WORLD_SIZE": 8}),
        ({"SLURM_STEP_NUM_TASKS": "4", "WORLD_SIZE": "2"}, {"WORLD_SIZE": 2, "SLURM_STEP_NUM_TASKS": 4}),
    ],
    ids=[
        "nothing", "torch", "open mpi", "mpich", "mvapich", "srun with pmix", "batch script of Slurm",
        "shell in srun", "mpirun's daemons in srun", "torchrun in srun", "srun and torch",
    ],
)  # fmt: skip
def test_each_launcher_is_heard_where_it_started_the_ranks_itself(environment, sizes):
    assert launcher_sizes(environment) == sizes


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "1", "RANK": "0"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {"PMI_SIZE": "1", "WORLD_SIZE": "1"},
        {"SLURM_STEP_NUM_TASKS": "1", "PMIX_RANK": "0"},
    ],
)
def test_one_process_needs_no_launcher(environment):
    ranks = find_ranks(environment)
    assert isinstance(ranks, SerialRanks)
    assert (ranks.rank, ranks.size) == (0, 1)


@pytest.mark.parametrize(
    ("environment", "numbers"),
    [
        ({"WORLD_SIZE": "2", "OMPI_COMM_WORLD_SIZE": "4"}, "WORLD_SIZE = 2, OMPI_COMM_WORLD_SIZE = 4"),
        ({"WORLD_SIZE": "2", "PMI_SIZE": "8"}, "WORLD_SIZE = 2, PMI_SIZE = 8"),
        ({"WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "8"}, "WORLD_SIZE = 1, SLURM_STEP_NUM_TASKS = 8"),
        ({"OMPI_COMM_WORLD_SIZE": "1", "MV2_COMM_WORLD_SIZE": "3"}, "SIZE = 1, MV2_COMM_WORLD_SIZE = 3"),
    ],
)
def test_launchers_that_disagree_are_refused_with_both_numbers(environment, numbers):
    with pytest.raises(RanksError, match=numbers):
        find_ranks(environment)


@pytest.mark.parametrize("text", ["four", "", "2.0", "0", "-1", "²"])
@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_a_size_that_is_no_number_of_processes_is_refused_by_name(name, text):
    with pytest.raises(RanksError, match=f"{name} = '{text}'.*whole number"):
        find_ranks({name: text})


def test_many_processes_of_srun_without_mpi_are_refused():
    with pytest.raises(RanksError, match="srun started 4 processes without MPI"):
        find_ranks({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"RANK": None}, "RANK not set"),
        ({"MASTER_ADDR": None, "MASTER_PORT": None}, "MASTER_ADDR, MASTER_PORT not set"),
        ({"RANK": "first"}, "RANK = 'first'.*from 0 to 1"),
        ({"RANK": "2"}, "RANK = '2'.*from 0 to 1"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT = '70000'.*from 1 to 65535"),
    ],
)
def test_a_place_among_the_ranks_that_cannot_be_is_refused(change, said):
    environment = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"} | change
    with pytest.raises(RanksError, match=said):
        find_ranks({name: text for name, text in environment.items() if text is not None})


def test_collectives_of_one_process_change_nothing():
    ranks, buffer = SerialRanks(), np.arange(3.0)
    ranks.all_sum(buffer)
    ranks.sum_to_root(buffer)
    ranks.barrier()
    assert buffer.tolist() == [0, 1, 2]
    assert ranks.broadcast("value") == "value"
    ranks.close()


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _work_as(work, rank, size, port):
    torch.set_num_threads(1)
    torch_ranks.COLLECTIVE_TIMEOUT = timedelta(seconds=300)
    return work(
        find_ranks({"WORLD_SIZE": str(size), "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    )


def _each_in_a_process(function, *argument_lists):
    with ProcessPoolExecutor(len(argument_lists), multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(function, *arguments) for arguments in argument_lists]
        return [future.result(timeout=600) for future in futures]


def on_processes(work, size=2):
    """What work(ranks) returns on each rank of real processes joined by gloo, in order of rank."""
    port = _free_port()
    return _each_in_a_process(_work_as, *((work, rank, size, port) for rank in range(size)))


def _all_collectives(ranks):
    told = ranks.broadcast({"rank": ranks.rank, "array": np.full(3, ranks.rank + 5)})
    buffers = [
        torch.full((2, 3), ranks.rank + 1.0),
        torch.full((4,), complex(ranks.rank + 1, 2)),
        np.full(3, ranks.rank + 1, dtype=np.int64),
        np.full((2, 2), ranks.rank + 1j, dtype=np.complex64),
        np.full(1, ranks.rank + 0.5),
    ]
    roots = [torch.full((3,), complex(1, ranks.rank)), np.full(2, ranks.rank + 1.0, dtype=np.float32)]
    for buffer in buffers:
        ranks.all_sum(buffer)
    for buffer in roots:
        ranks.sum_to_root(buffer)
    if ranks.rank == 1:
        time.sleep(0.5)
    came_s = time.monotonic()
    ranks.barrier()
    left_s = time.monotonic()
    ranks.close()
    sums, root_sums = ([np.asarray(buffer).tolist() for buffer in some] for some in (buffers, roots))
    place = (type(ranks).__name__, ranks.rank, ranks.size)
    return place, told["rank"], told["array"].tolist(), sums, root_sums, (came_s, left_s), distributed.is_initialized()


def test_two_processes_share_values_sums_and_barriers():
    first, second = on_processes(_all_collectives)
    assert first[0] == ("TorchRanks", 0, 2)
    assert second[0] == ("TorchRanks", 1, 2)
    for told_rank, told_array, sums in (first[1:4], second[1:4]):
        assert told_rank == 0
        assert told_array == [5, 5, 5]
        assert sums == [[[3.0] * 3] * 2, [3 + 4j] * 4, [3, 3, 3], [[1 + 2j] * 2] * 2, [2.0]]
    assert first[4] == [[2 + 1j] * 3, [3.0, 3.0]]
    assert min(left_s for _, left_s in (first[5], second[5])) >= max(came_s for came_s, _ in (first[5], second[5]))
    assert (first[6], second[6]) == (False, False)


def _letters(ranks):
    """Every rank writes to all others, in letters whose length tells sender and receiver apart; also an empty round."""
    others = [rank for rank in range(ranks.size) if rank != ranks.rank]
    outgoing = {rank: np.full(2 + 10 * ranks.rank + rank, ranks.rank, np.float32) for rank in others}
    incoming = {rank: torch.full((2 + 10 * rank + ranks.rank,), -1.0) for rank in others}
    ranks.exchange(outgoing, incoming)
    ranks.exchange({}, {})
    one_way = np.zeros((2, 2))
    ranks.exchange({0: np.full((2, 2), 7.0)} if ranks.rank == 1 else {}, {1: one_way} if ranks.rank == 0 else {})
    ranks.close()
    return {rank: buffer.tolist() for rank, buffer in incoming.items()}, one_way.tolist()


def test_processes_exchange_buffers_with_one_another():
    first, second = on_processes(_letters)
    assert first == ({1: [1.0] * 12}, [[7.0] * 2] * 2)
    assert second == ({0: [0.0] * 3}, [[0.0] * 2] * 2)


def _leave_alone(ranks):
    if ranks.rank == 1:
        close_process_group()
        return "gone"
    started = time.monotonic()
    try:
        ranks.all_sum(np.ones(1))
    except RuntimeError:
        return time.monotonic() - started
    return "nobody missed the other rank"


@pytest.mark.slow
def test_a_rank_whose_peer_is_gone_gets_an_error_instead_of_waiting():
    waited, gone = on_processes(_leave_alone)
    assert gone == "gone"
    assert waited < 100


class MeetingRanks:
    """Ranks that know of torch nothing: what an MPI library would be, over the table of a TorchRanks."""

    def __init__(self, rank, size, store):
        self.rank, self.size, self._store, self._calls = rank, size, store, 0

    def _exchange(self, value):
        self._calls += 1
        self._store.set(f"{self._calls}/{self.rank}", pickle.dumps(value))
        return [pickle.loads(self._store.get(f"{self._calls}/{rank}")) for rank in range(self.size)]

    def broadcast(self, value):
        return self._exchange(value)[0]

    def all_sum(self, buffer):
        buffer[...] = sum(self._exchange(buffer.copy()))


def _meet(rank, port, host_names):
    torch.set_num_threads(1)
    store = distributed.TCPStore("127.0.0.1", port, 2, is_master=rank == 0)
    socket.gethostname = lambda: host_names[rank]
    torch_ranks.MEETING_TIMEOUT = timedelta(seconds=5)
    try:
        ensure_process_group(MeetingRanks(rank, 2, store))
        ranks = TorchRanks()
        total = torch.tensor([rank + 1.0])
        ranks.all_sum(total)
        ranks.close()
        return float(total), os.environ["MASTER_ADDR"]
    except RanksError as error:
        return str(error)
    finally:
        # The table must outlive the last look into it by the other rank, which therefore waits for no answer.
        store.set(f"end/{rank}", b"")
        if rank == 0:
            store.wait(["end/1"])


def meet(host_names):
    """What two processes on hosts of these names, without any launcher, get from ensure_process_group."""
    port = _free_port()
    return _each_in_a_process(_meet, *((rank, port, host_names) for rank in range(2)))


def test_ranks_on_one_host_meet_though_no_name_service_knows_its_name():
    assert meet(["no-such-host.invalid"] * 2) == [(3.0, "127.0.0.1")] * 2


@pytest.mark.slow
def test_ranks_that_cannot_reach_rank_0_are_all_told_so():
    told = meet(["no-such-host.invalid", "another-host.invalid"])
    assert all("MASTER_ADDR" in sentence and "no-such-host.invalid" in sentence for sentence in told)


def test_one_rank_needs_no_process_group():
    ensure_process_group(SerialRanks())
    assert not distributed.is_initialized()
    close_process_group()


def test_a_rank_that_finds_nobody_says_where_it_looked(monkeypatch):
    monkeypatch.setattr(torch_ranks, "COLLECTIVE_TIMEOUT", timedelta(seconds=1))
    port = _free_port()
    with pytest.raises(RanksError, match=f"Rank 1 of 2 cannot meet the others at 127.0.0.1:{port}"):
        find_ranks({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
