"""What Lightning is told about the processes that somebody else has started."""

from __future__ import annotations

import os
from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from ptycho.parallel import Ranks
from ptycho_torch.pinn.gradient_mean import rank_ordered_mean


class RanksEnvironment(ClusterEnvironment):
    """Our ranks in Lightning's words: every rank is a node with one device.

    Handed in explicitly, because Lightning would otherwise look at the launcher's variables itself, disagree about
    the number of processes, and requeue Slurm jobs behind the job runner's back.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        return int(os.environ.get("MASTER_PORT", "0"))

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._ranks.size

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self._ranks.rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return self._ranks.rank


class RepeatableDDP(DDPStrategy):
    """Lightning's DDP with gradients that do not depend on when a run was interrupted."""

    def configure_ddp(self) -> None:
        """Wrap the module; Lightning's own option for communication hooks is read on GPUs only."""
        super().configure_ddp()
        assert isinstance(self.model, DistributedDataParallel)
        self.model.register_comm_hook(None, rank_ordered_mean)


def ranks_options(ranks: Ranks, *, is_deterministic: bool) -> dict[str, Any]:
    """Trainer options for these ranks. Any: they are keyword arguments of many types.

    With more than one rank torch's process group must exist already; Lightning adopts it.
    """
    strategy: Any = "auto" if ranks.size == 1 else RepeatableDDP() if is_deterministic else DDPStrategy()
    return {"plugins": [RanksEnvironment(ranks)], "strategy": strategy, "num_nodes": ranks.size}
