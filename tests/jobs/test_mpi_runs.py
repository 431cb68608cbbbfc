"""The command started by mpirun: its processes are the ranks."""

import os
import shutil

import pytest

from ptycho.jobs.events import read_lines
from ptycho.jobs.run_folder import RunFolder
from tests.jobs.small_runs import ptycho, write_spec
from tests.requirements import require

pytestmark = pytest.mark.mpi


@pytest.fixture
def three_ranks(monkeypatch):
    require("mpirun")
    for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none")
    assert "OMPI_COMM_WORLD_SIZE" not in os.environ
    return (shutil.which("mpirun"), "--oversubscribe", "-n", "3")


def test_mpirun_makes_the_ranks_of_one_run(tmp_path, three_ranks):
    # The spec asks for two ranks of its own; what mpirun has started counts.
    done = ptycho("run", write_spec(tmp_path, resources__ranks_per_node=2), cwd=tmp_path, prefix=three_ranks)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    state = RunFolder(folder).read_state()
    assert (state["status"], state["n_ranks"]) == ("finished", 3)
    assert read_lines(RunFolder(folder).metrics_path)[-1]["loss"] == 126.0
    assert done.stdout.count("Finished in") == 1


def test_a_wrong_spec_is_explained_once_and_starts_nothing(tmp_path, three_ranks):
    spec = write_spec(tmp_path, training__batch_size=0)
    done = ptycho("run", spec, cwd=tmp_path, prefix=three_ranks)
    assert done.returncode == 2
    assert done.stderr.count("training.batch_size = 0: must be at least 1.") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_failure_of_one_rank_ends_the_others(tmp_path, three_ranks):
    done = ptycho("run", write_spec(tmp_path, job__name="raises"), cwd=tmp_path, prefix=three_ranks)
    assert done.returncode != 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert "Rank 2 on" in RunFolder(folder).read_state()["error"]["message"]
    again = ptycho("resume", folder, cwd=tmp_path, prefix=three_ranks)
    assert again.returncode == 0, again.stderr
    assert [row["epoch"] for row in read_lines(RunFolder(folder).metrics_path)] == [1, 2, 3, 4, 5, 6]
