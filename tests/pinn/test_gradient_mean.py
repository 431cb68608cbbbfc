import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.jobs.small_runs import ROOT

PROGRAM = """
import sys
import numpy as np, torch
torch.set_num_threads(1)
from ptycho_torch.pinn.gradient_mean import mean_over_ranks
from ptycho_torch.ranks import TorchRanks, start_process_group
rank, size, port, folder = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
start_process_group(rank, size, "127.0.0.1", port)
numbers = torch.from_numpy(np.random.default_rng(rank).normal(size=1001).astype(np.float32))
order = torch.from_numpy(np.random.default_rng(7).permutation(1001))
plain, permuted = mean_over_ranks(numbers.clone()), mean_over_ranks(numbers[order])
np.save(f"{folder}/{rank}.npy", np.stack([plain.numpy()[order], permuted.numpy()]))
TorchRanks().close()
"""


@pytest.mark.slow
def test_the_mean_of_a_number_over_ranks_does_not_depend_on_where_in_the_buffer_it_lies(tmp_path):
    size = 3
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(PROGRAM)]
    children = [
        subprocess.Popen([*command, str(rank), str(size), str(port), str(tmp_path)], cwd=ROOT) for rank in range(size)
    ]
    assert [child.wait(timeout=300) for child in children] == [0] * size
    means = [np.load(tmp_path / f"{rank}.npy") for rank in range(size)]
    truth = np.mean([np.random.default_rng(rank).normal(size=1001) for rank in range(size)], axis=0)
    for plain, permuted in means:
        np.testing.assert_array_equal(plain, permuted)
        np.testing.assert_array_equal(plain, means[0][0])
    np.testing.assert_allclose(np.sort(means[0][0]), np.sort(truth), atol=1e-6)
