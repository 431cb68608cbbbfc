"""Ranks as threads of one process: a real, small implementation of the Ranks protocol for tests."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np


class _Shared:
    def __init__(self, size):
        self.barrier = threading.Barrier(size, timeout=300)
        self.slots = [None] * size


class ThreadRanks:
    def __init__(self, rank, size, shared):
        self.rank, self.size, self._shared = rank, size, shared

    def _exchange(self, value):
        self._shared.barrier.wait()
        self._shared.slots[self.rank] = value
        self._shared.barrier.wait()
        values = list(self._shared.slots)
        self._shared.barrier.wait()
        return values

    def broadcast(self, value):
        return self._exchange(value)[0]

    def all_sum(self, buffer):
        array = np.asarray(buffer)
        array[...] = sum(self._exchange(array.copy()))

    def sum_to_root(self, buffer):
        array = np.asarray(buffer)
        values = self._exchange(array.copy())
        array[...] = sum(values) if self.rank == 0 else np.nan

    def exchange(self, outgoing, incoming):
        sent = self._exchange({rank: np.asarray(buffer).copy() for rank, buffer in outgoing.items()})
        assert {rank for rank, to in enumerate(sent) if self.rank in to} == set(incoming)
        for rank, buffer in incoming.items():
            np.asarray(buffer)[...] = sent[rank][self.rank]

    def barrier(self):
        self._shared.barrier.wait()

    def close(self):
        self.barrier()


def run_on_ranks(size, work):
    """Results of work(ranks) of every rank, each in a thread of its own; the first failure is raised."""
    shared = _Shared(size)

    def run(rank):
        try:
            return work(ThreadRanks(rank, size, shared))
        except Exception:
            shared.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
    failures = [future.exception() for future in futures if future.exception()]
    if failures:
        raise next((f for f in failures if not isinstance(f, threading.BrokenBarrierError)), failures[0])
    return [future.result() for future in futures]
