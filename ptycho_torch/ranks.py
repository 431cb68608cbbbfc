"""Ranks through torch.distributed: gloo between CPUs, nccl between GPUs."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as distributed

from ptycho.errors import RanksError
from ptycho.parallel import Ranks

T = TypeVar("T")

# A collective that waits longer than this means that a rank has died; the others must end, not hang.
COLLECTIVE_TIMEOUT = timedelta(seconds=60 * 10)


class TorchRanks:
    """Processes of one torch.distributed group; buffers are numpy arrays or CPU tensors."""

    def __init__(self) -> None:
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()
        # Small host buffers go through gloo even where the default group is nccl, which moves GPU memory only.
        backend = distributed.get_backend()
        self._group = None if backend == "gloo" else distributed.new_group(backend="gloo")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> TorchRanks:
        """Join the group that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe."""
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
        if missing:
            raise RanksError(f"{', '.join(missing)} not set: the launcher must set all four of torch's variables.")
        start_process_group(
            int(environment["RANK"]),
            int(environment["WORLD_SIZE"]),
            environment["MASTER_ADDR"],
            int(environment["MASTER_PORT"]),
        )
        return cls()

    def broadcast(self, value: T) -> T:
        box = [value]
        distributed.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def all_sum(self, buffer: Any) -> None:
        distributed.all_reduce(_summable(buffer), group=self._group)

    def sum_to_root(self, buffer: Any) -> None:
        distributed.reduce(_summable(buffer), dst=0, group=self._group)

    def barrier(self) -> None:
        distributed.barrier(group=self._group)


def _summable(buffer: Any) -> torch.Tensor:
    """The buffer's own memory as a real tensor: gloo sums no complex numbers."""
    tensor = torch.as_tensor(buffer)
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def start_process_group(rank: int, size: int, address: str, port: int) -> None:
    """Join torch's default process group; does nothing when this process already has one."""
    if distributed.is_initialized():
        return
    distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        init_method=f"tcp://{address}:{port}",
        rank=rank,
        world_size=size,
        timeout=COLLECTIVE_TIMEOUT,
    )


def ensure_process_group(ranks: Ranks) -> None:
    """Give ranks of any kind (MPI, say) the torch process group that distributed training needs."""
    if ranks.size == 1 or distributed.is_initialized():
        return
    address, port = ranks.broadcast((socket.gethostname(), _free_port()))
    os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port))
    start_process_group(ranks.rank, ranks.size, address, port)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
