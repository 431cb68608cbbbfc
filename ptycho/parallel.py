"""Ranks: the processes of one run and the few collectives that they need."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from ptycho.errors import PackageError, RanksError

if TYPE_CHECKING:
    from mpi4py import MPI

T = TypeVar("T")


class Ranks(Protocol):
    """The processes of one run. Every rank takes part in every call.

    A buffer is a numpy array or a CPU tensor, contiguous, summed in place.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def broadcast(self, value: T) -> T:
        """Rank 0's value (any plain Python object or array), on every rank."""
        ...

    def all_sum(self, buffer: Any) -> None:
        """Replace the buffer on every rank by the sum over ranks."""
        ...

    def sum_to_root(self, buffer: Any) -> None:
        """Replace the buffer on rank 0 by the sum over ranks; elsewhere its content is undefined afterwards."""
        ...

    def exchange(self, outgoing: Mapping[int, Any], incoming: Mapping[int, Any]) -> None:
        """Send buffers to other ranks, and fill buffers with what others send here; both by the other's number.

        What a rank sends to another has the size of the buffer that the other waits with. All buffers hold real
        numbers. Ranks without buffers call it too.
        """
        ...

    def barrier(self) -> None:
        """Return when every rank has come here."""
        ...

    def close(self) -> None:
        """Part in good order: the last call of a run that went well. Afterwards no other call may be made."""
        ...


class SerialRanks:
    """One process: every collective is the identity."""

    rank = 0
    size = 1

    def broadcast(self, value: T) -> T:
        return value

    def all_sum(self, buffer: Any) -> None:
        pass

    def sum_to_root(self, buffer: Any) -> None:
        pass

    def exchange(self, outgoing: Mapping[int, Any], incoming: Mapping[int, Any]) -> None:
        pass

    def barrier(self) -> None:
        pass

    def close(self) -> None:
        pass


class MPIRanks:
    """Processes started by mpirun or srun --mpi, through mpi4py."""

    def __init__(self, communicator: MPI.Comm | None = None) -> None:
        try:
            from mpi4py import MPI
        except ImportError as error:
            raise PackageError(
                "This process was started by an MPI launcher, but mpi4py or the MPI library cannot be loaded"
                f' ({error}). Install it with: pip install "ptychopinn[mpi]", or start without mpirun.'
            ) from error
        self._in_place = MPI.IN_PLACE
        self._communicator = communicator or MPI.COMM_WORLD
        self.rank: int = self._communicator.Get_rank()
        self.size: int = self._communicator.Get_size()

    def broadcast(self, value: T) -> T:
        return self._communicator.bcast(value)  # type: ignore[no-any-return]

    def all_sum(self, buffer: Any) -> None:
        self._communicator.Allreduce(self._in_place, np.asarray(buffer))

    def sum_to_root(self, buffer: Any) -> None:
        array = np.asarray(buffer)
        if self.rank == 0:
            self._communicator.Reduce(self._in_place, array)
        else:
            self._communicator.Reduce(array, None)

    def exchange(self, outgoing: Mapping[int, Any], incoming: Mapping[int, Any]) -> None:
        requests = [self._communicator.Irecv(np.asarray(buffer), rank) for rank, buffer in incoming.items()]
        requests += [self._communicator.Isend(np.asarray(buffer), rank) for rank, buffer in outgoing.items()]
        for request in requests:
            request.Wait()

    def barrier(self) -> None:
        self._communicator.Barrier()

    def close(self) -> None:
        self._communicator.Barrier()
        # MPI itself ends with the process; a torch group that training made beside it does not end by itself.
        torch_ranks = sys.modules.get("ptycho_torch.ranks")
        if torch_ranks is not None:
            torch_ranks.close_process_group()


class CountedRanks:
    """Ranks that count what passes through them.

    sent_bytes: handed to collectives, and sent to other ranks
    seconds:    spent in them, waiting for slower ranks included
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks, self.rank, self.size = ranks, ranks.rank, ranks.size
        self.sent_bytes, self.seconds = 0, 0.0

    def broadcast(self, value: T) -> T:
        started_s = time.perf_counter()
        result = self._ranks.broadcast(value)
        self._count([value] if self.rank == 0 and isinstance(value, np.ndarray) else [], started_s)
        return result

    def all_sum(self, buffer: Any) -> None:
        started_s = time.perf_counter()
        self._ranks.all_sum(buffer)
        self._count([buffer], started_s)

    def sum_to_root(self, buffer: Any) -> None:
        started_s = time.perf_counter()
        self._ranks.sum_to_root(buffer)
        self._count([buffer], started_s)

    def exchange(self, outgoing: Mapping[int, Any], incoming: Mapping[int, Any]) -> None:
        started_s = time.perf_counter()
        self._ranks.exchange(outgoing, incoming)
        self._count(outgoing.values(), started_s)

    def barrier(self) -> None:
        started_s = time.perf_counter()
        self._ranks.barrier()
        self._count([], started_s)

    def close(self) -> None:
        self._ranks.close()

    def _count(self, buffers: Iterable[Any], started_s: float) -> None:
        self.seconds += time.perf_counter() - started_s
        if self.size > 1:
            self.sent_bytes += sum(int(buffer.nbytes) for buffer in buffers)


# Each launcher tells its processes their number under names of its own.
_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
_SLURM_SIZE = "SLURM_STEP_NUM_TASKS"


def find_ranks(environment: Mapping[str, str] | None = None) -> Ranks:
    """The ranks that the launcher of this process set up.

    WORLD_SIZE and RANK (submitit runner, torchrun) mean torch.distributed; variables of an MPI launcher mean MPI;
    nothing means one process. Raises RanksError when two launchers disagree about the number of processes, or when
    MPI sees another number, because eight processes that each believe to be rank 0 of 1 overwrite one another's
    results.
    """
    env = os.environ if environment is None else environment
    sizes = launcher_sizes(env)
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        raise RanksError(
            f"The launchers disagree about the number of processes: {listed}."
            " Start the run with one launcher, and unset the variables of the other."
        )
    told = next(iter(sizes.values()), 1)
    if told == 1:
        return SerialRanks()
    if "WORLD_SIZE" in sizes:
        ranks: Ranks = import_module("ptycho_torch.ranks").TorchRanks.from_environment(env)
        return ranks
    if _SLURM_SIZE in sizes and "PMIX_RANK" not in env and "PMI_RANK" not in env:
        raise RanksError(
            f"srun started {told} processes without MPI, so they cannot find one another."
            " Submit the run with: ptycho submit, or start it with: srun --mpi=pmix."
        )
    found = MPIRanks()
    if found.size != told:
        raise RanksError(
            f"The launcher started {told} processes, but MPI sees {found.size}:"
            " the MPI library of this Python does not belong to the launcher."
            " Use the launcher of the same MPI (inside a container: srun --mpi=pmix)."
        )
    return found


def launcher_sizes(environment: Mapping[str, str]) -> dict[str, int]:
    """Each launcher variable that is set, with the number of processes it states.

    Raises RanksError when one of them is no number of processes.
    """
    sizes = {name: _size(name, environment[name]) for name in ("WORLD_SIZE", *_MPI_SIZES) if name in environment}
    # Slurm's number counts only where srun started the ranks themselves: mpirun and torchrun, run inside Slurm, are
    # started by srun once on each node, and a shell opened by srun is a step of one task.
    started_inside = "TORCHELASTIC_RUN_ID" in environment or any(name in sizes for name in _MPI_SIZES)
    if _SLURM_SIZE in environment and not started_inside:
        size = _size(_SLURM_SIZE, environment[_SLURM_SIZE])
        if size > 1:
            sizes[_SLURM_SIZE] = size
    return sizes


def _size(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise RanksError(f"{name} = {text!r}: must be a whole number of processes, at least 1; unset or correct it.")
    return int(text)
