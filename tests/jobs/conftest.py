import os

import pytest

from tests.jobs.small_runs import write_program


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    """An sbatch that keeps the script it is given and answers as Slurm does."""
    write_program(tmp_path / "bin", "sbatch", f'cp "$1" {tmp_path}/script; echo "Submitted batch job 4711"')
    write_program(tmp_path / "bin", "srun", "exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
