"""Ranks: the processes of one run and the few collectives that they need."""

from __future__ import annotations

import os
from collections.abc import Mapping
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

    def barrier(self) -> None:
        """Return when every rank has come here."""
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

    def barrier(self) -> None:
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

    def barrier(self) -> None:
        self._communicator.Barrier()


# Each launcher tells its processes their number under names of its own.
_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def find_ranks(environment: Mapping[str, str] | None = None) -> Ranks:
    """The ranks that the launcher of this process set up.

    WORLD_SIZE and RANK (submitit runner, torchrun) mean torch.distributed; variables of an MPI launcher mean MPI;
    nothing means one process. Raises RanksError when two launchers disagree about the number of processes, because
    eight processes that each believe to be rank 0 of 1 overwrite one another's results.
    """
    env = os.environ if environment is None else environment
    sizes = launcher_sizes(env)
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        raise RanksError(
            f"The launchers disagree about the number of processes: {listed}."
            " Start the run with one launcher, and unset the variables of the other."
        )
    if "WORLD_SIZE" in sizes:
        if sizes["WORLD_SIZE"] == 1:
            return SerialRanks()
        ranks: Ranks = import_module("ptycho_torch.ranks").TorchRanks.from_environment(env)
        return ranks
    if sizes:
        found = MPIRanks()
        told = next(iter(sizes.values()))
        if found.size != told:
            raise RanksError(
                f"The launcher started {told} processes, but MPI sees {found.size}:"
                " the MPI library of this Python does not belong to the launcher."
                " Use the launcher of the same MPI (inside a container: srun --mpi=pmix)."
            )
        return found
    return SerialRanks()


def launcher_sizes(environment: Mapping[str, str]) -> dict[str, int]:
    """Each launcher variable that is set, with the number of processes it states."""
    names = ["WORLD_SIZE", *_MPI_SIZES]
    if "PMIX_RANK" in environment or "PMI_RANK" in environment:
        names.append("SLURM_STEP_NUM_TASKS")
    sizes = {}
    for name in names:
        if name in environment:
            try:
                sizes[name] = int(environment[name])
            except ValueError:
                raise RanksError(f"{name} = {environment[name]!r}: must be a whole number of processes.") from None
    return sizes
