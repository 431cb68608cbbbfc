"""How much memory this process may still take."""

from __future__ import annotations

import resource
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device | str = "cpu") -> int:
    """Memory that is free for data on a device: of the GPU, or what machine, cgroup and ulimit together leave."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return max(0, min(_machine_bytes(), _cgroup_bytes(), _limit_bytes()))


def _machine_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 2**62


def _cgroup_bytes() -> int:
    """What the control group (v2) of a job or container leaves."""
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return 2**62
    return 2**62 if limit == "max" else int(limit) - int(used)


def _limit_bytes() -> int:
    """What `ulimit -v` and `ulimit -d` leave."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    left = 2**62
    for limit, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        allowed = resource.getrlimit(limit)[0]
        if allowed != resource.RLIM_INFINITY:
            left = min(left, allowed - int(status[used].split()[0]) * 1024)
    return left
