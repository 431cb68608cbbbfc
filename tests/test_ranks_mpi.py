import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from requirements import require

pytestmark = pytest.mark.mpi

ROOT = Path(__file__).parent.parent
# Open MPI refuses root and, in containers without ptrace, its single-copy transport; both are about the machine alone.
MPI_VARIABLES = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}

SAY = """
import json, os, pathlib, sys
def say(rank, value):
    pathlib.Path(sys.argv[1], f"{rank}-{os.getpid()}.json").write_text(json.dumps(value))
"""


def clean_environment():
    """This process's variables without those of any launcher, with those that MPI needs here."""
    launchers = ("OMPI_", "PMI", "SLURM_", "MV2_", "WORLD_SIZE")
    return {name: text for name, text in os.environ.items() if not name.startswith(launchers)} | MPI_VARIABLES


def mpirun(size, program, folder, *before, fails=False):
    """What the program said on each rank, in order of rank; the output instead when it is to fail."""
    command = [require("mpirun"), "--oversubscribe", "-n", str(size), *before, sys.executable, "-c", SAY + program]
    done = subprocess.run(
        [*command, str(folder)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=600,
        cwd=folder,
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    if fails:
        return done.stdout + done.stderr
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


COLLECTIVES = """
import numpy as np, torch
from ptycho.parallel import find_ranks
ranks = find_ranks()
told = ranks.broadcast({"rank": ranks.rank, "array": np.arange(3) + ranks.rank})
buffers = [
    np.full((2, 2), ranks.rank + 1.0, dtype=np.float32),
    np.full(2, complex(1, ranks.rank), dtype=np.complex64),
    torch.full((2,), ranks.rank + 1.0),
    torch.full((2,), complex(ranks.rank, 1)),
    np.full(1, ranks.rank, dtype=np.int64),
]
for buffer in buffers:
    ranks.all_sum(buffer)
root = torch.full((2,), complex(1, ranks.rank))
ranks.sum_to_root(root)
ranks.barrier()
ranks.close()
plain = [[[z.real, z.imag] for z in np.asarray(b).ravel().astype(complex)] for b in [*buffers, root]]
say(ranks.rank, [type(ranks).__name__, ranks.rank, ranks.size, told["rank"], told["array"].tolist(), plain])
"""


@pytest.mark.parametrize("size", [2, 4])
def test_mpi_ranks_share_values_and_sums(size, tmp_path):
    said = mpirun(size, COLLECTIVES, tmp_path)
    total, index_total = size * (size + 1) / 2, size * (size - 1) / 2
    assert [place[:5] for place in said] == [["MPIRanks", rank, size, 0, [0, 1, 2]] for rank in range(size)]
    for *_, buffers in said:
        assert buffers[:5] == [
            [[total, 0]] * 4,
            [[size, index_total]] * 2,
            [[total, 0]] * 2,
            [[index_total, size]] * 2,
            [[index_total, 0]],
        ]
    assert said[0][5][5] == [[size, index_total]] * 2


LETTERS = """
import numpy as np, torch
from ptycho.parallel import find_ranks
ranks = find_ranks()
others = [rank for rank in range(ranks.size) if rank != ranks.rank]
incoming = {rank: torch.full((2 + 10 * rank + ranks.rank,), -1.0) for rank in others}
ranks.exchange({rank: np.full(2 + 10 * ranks.rank + rank, ranks.rank, np.float32) for rank in others}, incoming)
ranks.exchange({}, {})
ranks.close()
say(ranks.rank, [[rank, buffer.tolist()] for rank, buffer in incoming.items()])
"""


def test_mpi_ranks_exchange_buffers_with_one_another(tmp_path):
    said = mpirun(3, LETTERS, tmp_path)
    for rank, letters in enumerate(said):
        assert letters == [[other, [float(other)] * (2 + 10 * other + rank)] for other in range(3) if other != rank]


TORCH_GROUP = """
import os
import torch, torch.distributed as distributed
from ptycho.parallel import find_ranks
from ptycho_torch.ranks import ensure_process_group
ranks = find_ranks()
ensure_process_group(ranks)
ensure_process_group(ranks)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1, bias=False))
model(torch.tensor([[float(ranks.rank + 1)]])).sum().backward()
gradient = float(model.module.weight.grad)
size, rank = distributed.get_world_size(), distributed.get_rank()
ranks.close()
say(ranks.rank, [rank, size, gradient, os.environ["MASTER_ADDR"], distributed.is_initialized()])
"""


def test_mpi_ranks_get_the_process_group_that_training_needs(tmp_path):
    said = mpirun(2, TORCH_GROUP, tmp_path)
    # The mean over ranks of d(w·x)/dw = x, with x = 1 on rank 0 and 2 on rank 1.
    assert said == [[0, 2, 1.5, "127.0.0.1", False], [1, 2, 1.5, "127.0.0.1", False]]


SHUTS_DOWN_AT_ONCE = """
import sys
import torch
from ptycho.parallel import find_ranks
from ptycho_torch.ranks import ensure_process_group
ranks = find_ranks()
ensure_process_group(ranks)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1, bias=False))
say(ranks.rank, "trains")
# What waits for the interpreter lock gets it only where the main thread gives it away.
sys.setswitchinterval(1000)
model(torch.ones(1, 1)).sum().backward()
"""


def test_a_process_may_end_right_after_its_last_backward_pass(tmp_path):
    assert mpirun(2, SHUTS_DOWN_AT_ONCE, tmp_path) == ["trains", "trains"]


FIND = """
from ptycho.errors import RanksError
from ptycho.parallel import find_ranks
try:
    find_ranks()
    say(0, "found")
except RanksError as error:
    say(0, str(error))
"""


def test_processes_that_mpi_takes_for_singles_are_refused(tmp_path):
    require("mpirun")
    # What a container does whose MPI library does not understand its launcher: eight times rank 0 of 1.
    environment = clean_environment() | {"PMI_SIZE": "8", "PMI_RANK": "3"}
    command = [sys.executable, "-c", SAY + FIND, str(tmp_path)]
    subprocess.run(command, env=environment, check=True, timeout=600, cwd=tmp_path)
    (path,) = tmp_path.glob("*.json")
    assert "The launcher started 8 processes, but MPI sees 1" in json.loads(path.read_text())


def test_mpirun_and_torch_variables_that_disagree_are_refused_before_mpi_starts(tmp_path):
    said = mpirun(2, FIND, tmp_path, "env", "WORLD_SIZE=3", "RANK=0")
    assert len(said) == 2
    assert all("WORLD_SIZE = 3, OMPI_COMM_WORLD_SIZE = 2" in sentence for sentence in said)


DIES = """
import os
import numpy as np
from ptycho.parallel import find_ranks
ranks = find_ranks()
if ranks.rank == 1:
    os._exit(3)
ranks.all_sum(np.ones(1))
"""


def test_a_rank_that_dies_takes_the_others_with_it(tmp_path):
    assert "exited" in mpirun(2, DIES, tmp_path, fails=True)
