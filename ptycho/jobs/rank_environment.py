"""The environment variables that tell a rank its place and its share of the machine."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

# How each launcher says how many of its processes share this machine.
_LOCAL_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "LOCAL_WORLD_SIZE", "SLURM_STEP_TASKS_PER_NODE")
# What numerical libraries read once, when they are loaded.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def threads_per_rank(ranks_per_node: int) -> int:
    """Cores for each rank. Cores already bound to this process by the launcher are not divided again."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(bound, (os.cpu_count() or 1) // ranks_per_node))


def thread_variables(ranks_per_node: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Thread counts for ranks that share a machine; none when the user has set one.

    Without them every rank starts as many threads as there are cores, and the ranks slow one another down.
    """
    if any(name in environment for name in _THREAD_VARIABLES):
        return {}
    threads = str(threads_per_rank(ranks_per_node))
    return dict.fromkeys(_THREAD_VARIABLES, threads)


def launcher_ranks_per_node(environment: Mapping[str, str]) -> int | None:
    """The number of processes that an MPI launcher started on this machine, or None when there is no launcher."""
    for name in _LOCAL_SIZES:
        # Slurm writes "2(x3)" for two tasks on each of three nodes.
        text = environment.get(name, "").partition("(")[0].partition(",")[0]
        if text.isdigit() and int(text) > 0:
            return int(text)
    return None


def local_variables(ranks_per_node: int, environment: Mapping[str, str]) -> dict[str, str]:
    """What the ranks of a run on this machine need in common: where to meet, and how many threads to start."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return {**meeting, **thread_variables(ranks_per_node, environment)}


def set_submitit_variables(environment: MutableMapping[str, str], folder: Path) -> None:
    """Set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT from submitit's view of the job.

    folder: the run's, which no other job has
    """
    import submitit

    job = submitit.JobEnvironment()
    environment["RANK"] = str(job.global_rank)
    environment["LOCAL_RANK"] = str(job.local_rank)
    environment["WORLD_SIZE"] = str(job.num_tasks)
    environment.setdefault("MASTER_ADDR", job.hostnames[0])
    # On a cluster all ranks must derive the same port without talking. Below 32768: the system gives out those above.
    environment.setdefault("MASTER_PORT", str(20_000 + (int(job.raw_job_id) + crc32(bytes(folder))) % 12_000))
    for name, value in thread_variables(max(1, job.num_tasks // job.num_nodes), environment).items():
        environment[name] = value


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def variables_set(variables: Mapping[str, str]) -> Iterator[None]:
    """While inside, this process and those that it starts have these environment variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def peak_memory_mb() -> int:
    """The most memory that this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
