"""Ranks through torch.distributed: gloo between CPUs, nccl between GPUs."""

from __future__ import annotations

import atexit
import os
import socket
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public; torch re-exports it without saying so
from torch.distributed.distributed_c10d import Store

from ptycho.errors import RanksError
from ptycho.parallel import Ranks

T = TypeVar("T")

# A collective that waits longer than this means that a rank has died; the others must end, not hang.
COLLECTIVE_TIMEOUT = timedelta(minutes=10)
# Ranks that have just talked to one another through MPI are all there: only the network can be in the way.
MEETING_TIMEOUT = timedelta(minutes=1)
# A thread that could run is put off by a busy machine for less than this, so longer sleep means that it has no work.
_ASLEEP_FOR_S, _WAIT_AT_MOST_S = 0.05, 5.0


class TorchRanks:
    """Processes of one torch.distributed group; buffers are numpy arrays or CPU tensors."""

    def __init__(self) -> None:
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()
        # Host buffers need gloo; a default group of nccl alone, which others may have made, moves GPU memory only.
        has_gloo = distributed.get_backend() == "gloo"
        self._group = None if has_gloo else distributed.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> TorchRanks:
        """Join the group that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe."""
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
        if missing:
            raise RanksError(f"{', '.join(missing)} not set: the launcher must set all four of torch's variables.")
        size = _number(environment, "WORLD_SIZE", 1, 2**31)
        rank = _number(environment, "RANK", 0, size - 1)
        port = _number(environment, "MASTER_PORT", 1, 65535)
        start_process_group(rank, size, environment["MASTER_ADDR"], port)
        return cls()

    def broadcast(self, value: T) -> T:
        box = [value]
        distributed.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def all_sum(self, buffer: Any) -> None:
        distributed.all_reduce(_summable(buffer), group=self._group)

    def sum_to_root(self, buffer: Any) -> None:
        distributed.reduce(_summable(buffer), dst=0, group=self._group)

    def exchange(self, outgoing: Mapping[int, Any], incoming: Mapping[int, Any]) -> None:
        works = [distributed.irecv(torch.as_tensor(buffer), rank, self._group) for rank, buffer in incoming.items()]
        works += [distributed.isend(torch.as_tensor(buffer), rank, self._group) for rank, buffer in outgoing.items()]
        for work in works:
            if work is not None:
                work.wait()

    def barrier(self) -> None:
        distributed.barrier(group=self._group)

    def close(self) -> None:
        # Rank 0 keeps the table by which the others find one another: no one may leave before all have come.
        self.barrier()
        close_process_group()


def _summable(buffer: Any) -> torch.Tensor:
    """The buffer's own memory as a real tensor: gloo sums no complex numbers."""
    tensor = torch.as_tensor(buffer)
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _number(environment: Mapping[str, str], name: str, low: int, high: int) -> int:
    text = environment[name]
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise RanksError(f"{name} = {text!r}: must be a whole number from {low} to {high}; correct the launcher.")
    return int(text)


def start_process_group(rank: int, size: int, address: str, port: int) -> None:
    """Join torch's default process group; does nothing when this process already has one.

    Raises RanksError when the others cannot be found.
    """
    if distributed.is_initialized():
        return
    try:
        store = TCPStore(address, port, size, is_master=rank == 0, timeout=COLLECTIVE_TIMEOUT)
    except (RuntimeError, OSError) as error:
        raise RanksError(
            f"Rank {rank} of {size} cannot meet the others at {address}:{port} ({_first_line(error)})."
            " Check that all were started and that this address of rank 0's machine can be reached."
        ) from error
    _join(rank, size, store)


def ensure_process_group(ranks: Ranks) -> None:
    """Give ranks of any kind (MPI, say) the torch process group that distributed training needs.

    MASTER_ADDR, where rank 0 has it, is taken for its address; else the host's name is, or 127.0.0.1 when all ranks
    are on one host, whose name need not be known to any name service. Raises RanksError when they cannot meet.
    """
    if ranks.size == 1 or distributed.is_initialized():
        return
    host = ranks.broadcast(socket.gethostname())
    n_here = np.array([int(socket.gethostname() == host)], dtype=np.int64)
    ranks.all_sum(n_here)
    address = "127.0.0.1" if n_here[0] == ranks.size else os.environ.get("MASTER_ADDR", host)
    # Port 0 lets the system choose one that is free; choosing first and listening later can lose it to another.
    store, refusal = _open_store(address, 0, ranks) if ranks.rank == 0 else (None, "")
    address, port, refusal = ranks.broadcast((address, store.port if store else 0, refusal))
    if refusal:
        raise RanksError(
            f"Rank 0 cannot listen at {address} ({refusal}). Set MASTER_ADDR to an address of its machine."
        )
    if store is None:
        store, refusal = _open_store(address, port, ranks)
    # All go on or none: a rank that waited for one that has given up would wait for the time-out.
    n_refused = np.array([int(bool(refusal))], dtype=np.int64)
    ranks.all_sum(n_refused)
    if n_refused[0] or store is None:
        raise RanksError(
            f"{n_refused[0]} of {ranks.size} ranks cannot reach rank 0 at {address}:{port}"
            f" ({refusal or 'this one can'})."
            " Set MASTER_ADDR to an address of its machine that the others can reach."
        )
    os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port))
    _join(ranks.rank, ranks.size, store)


def close_process_group() -> None:
    """Leave torch's process group, if there is one."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _open_store(address: str, port: int, ranks: Ranks) -> tuple[TCPStore | None, str]:
    """The table where the ranks meet, or None with the reason why it cannot be had."""
    try:
        store = TCPStore(
            address, port, ranks.size, is_master=ranks.rank == 0, timeout=MEETING_TIMEOUT, wait_for_workers=False
        )
    except (RuntimeError, OSError) as error:
        return None, _first_line(error)
    return store, ""


def _join(rank: int, size: int, store: Store) -> None:
    # Both: training on the CPU of a machine that has GPUs must work too.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and distributed.is_nccl_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT)
    atexit.register(_let_workers_finish)


def _let_workers_finish() -> None:
    """Wait until gloo's threads sleep, before Python shuts down.

    A thread that has completed a collective of a backward pass still has to drop the context that autograd gave it,
    a Python object; when it comes to that during Python's shutdown, the process aborts (pytorch/pytorch#179291).
    Destroying the group does not end the threads: torch itself holds on to a group that DDP has used.
    """
    asleep_since = started = time.monotonic()
    while time.monotonic() - started < _WAIT_AT_MOST_S:
        time.sleep(_ASLEEP_FOR_S / 5)  # gives the threads the interpreter lock that they may wait for
        if _workers_run():
            asleep_since = time.monotonic()
        elif time.monotonic() - asleep_since > _ASLEEP_FOR_S:
            return


def _workers_run() -> bool:
    """Whether a thread of gloo runs or could run; Linux knows, elsewhere the answer is no."""
    for thread in Path("/proc/self/task").glob("*/stat"):
        try:
            name, _, rest = thread.read_text().partition("(")[2].rpartition(")")
        except OSError:  # it has ended since
            continue
        if name.startswith("pt_gloo") and rest.split()[0] == "R":
            return True
    return False


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
