import pytest

from ptycho.errors import PackageError
from ptycho.jobs.launcher import Launch, check_programs, start
from ptycho.jobs.lock import owner
from ptycho.jobs.resolve import resolve
from ptycho.jobs.spec import load_spec
from ptycho.jobs.status import read_status
from tests.jobs.image_files import write_image
from tests.jobs.small_runs import make_run, write_spec


def test_a_cluster_job_asks_slurm_for_what_the_spec_says(tmp_path, fake_slurm):
    folder, job = make_run(
        tmp_path, job__name="star", resources__executor="slurm", resources__nodes=2, resources__ranks_per_node=4,
        resources__gpus_per_node=4, resources__cpus_per_rank=8, resources__memory_gb=64, resources__time_limit_min=30,
        resources__partition="gpu", resources__account="beam",
    )  # fmt: skip
    start(folder, job)
    script = (tmp_path / "script").read_text()
    asked = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert asked >= {
        "nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "cpus-per-task=8", "mem=64GB", "time=30", "partition=gpu",
        "account=beam", "job-name=star",
    }  # fmt: skip
    launch = Launch.read(folder)
    assert (launch.executor, launch.job_id, launch.attempt) == ("slurm", "4711", 1)
    found = read_status(folder)
    assert (found.status, found.job_id) == ("starting", "4711")
    # The queue may hold the job longer than the command lives.
    assert owner(folder) is None


def test_programs_that_are_missing_are_named_at_the_door(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    write_image(tmp_path / "a.sif")
    for overrides in (["resources.executor=slurm"], ["container.image=a.sif"]):
        monkeypatch.chdir(tmp_path)
        job, _ = resolve(load_spec(write_spec(tmp_path), overrides))
        with pytest.raises(PackageError, match="not on PATH"):
            check_programs(job)


def test_a_start_that_fails_gives_the_lock_back(tmp_path, monkeypatch):
    folder, job = make_run(tmp_path)

    def fail(*arguments, **values):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("submitit.LocalExecutor.submit", fail)
    with pytest.raises(OSError, match="temporarily"):
        start(folder, job)
    assert not folder.lock_path.exists()
