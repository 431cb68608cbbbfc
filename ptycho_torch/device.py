"""The device on which a rank computes."""

from __future__ import annotations

import os

import torch


def rank_device(accelerator: str) -> torch.device:
    """The CPU, or this rank's own GPU: ranks of one machine take its GPUs in turn.

    accelerator: "cpu" or "cuda", as an execution configuration holds it
    """
    if accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0")))
    return torch.device("cuda", local % torch.cuda.device_count())
