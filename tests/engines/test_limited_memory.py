"""A scan that is far larger than the memory that the process may take is reconstructed from its file."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# 6,400 frames, 419 MB as amplitudes: 64 frames of a small scan, each measured a hundred times. The limit leaves 40 MB.
PROGRAM = """
import resource
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch
from ptycho.config.refine import RefineConfig
from ptycho.parallel import SerialRanks
from ptycho_torch.engines.pie import Pie
from ptycho_torch.engines.problem import load_problem
from tests.builders import make_scan

class Repeated:
    def __init__(self, counts, times):
        self.counts, self.shape, self.dtype = counts, (len(counts) * times, *counts.shape[1:]), counts.dtype
    def read(self, indices):
        return self.counts[indices % len(self.counts)]

torch.set_num_threads(1)
scan = make_scan(n=64, N=128, photons=1e6, step_px=8)
long = replace(
    scan, frames=Repeated(scan.frames.counts.astype(np.uint16), 100), positions_px=np.tile(scan.positions_px, (100, 1)),
    truth=None, object_grid=scan.grid,
)
torch.fft.ifft2(torch.fft.fft2(torch.ones(8, 128, 128, dtype=torch.complex64)))
used = int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 40_000_000, used + 40_000_000))
problem = load_problem(long, np.arange(6400), SerialRanks())
config = RefineConfig(epochs=1, batch_size=64)
result = Pie(problem, config, SerialRanks(), scan.probe).run_epoch(1)
print(type(problem.amplitude).__name__, result.r_factor)
"""


@pytest.mark.slow
def test_a_scan_ten_times_larger_than_the_memory_limit_is_reconstructed():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=ROOT, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    kind, r_factor = done.stdout.split()
    assert kind == "StreamedAmplitude"
    assert float(r_factor) < 0.1
