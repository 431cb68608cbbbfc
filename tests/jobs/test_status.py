import pytest

from ptycho.jobs.events import Reporter
from ptycho.jobs.json_file import write_json
from ptycho.jobs.lock import acquire
from ptycho.jobs.process import Process
from ptycho.jobs.run_folder import RunFolder
from ptycho.jobs.status import read_status


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path, "run", {})


def running(folder, stage="refine"):
    folder.write_state(
        {
            **folder.read_state(),
            "status": "running",
            "stage": stage,
            "stages": {stage: {"status": "running"}},
            "n_ranks": 1,
        }
    )


def test_a_new_run_waits(folder):
    found = read_status(folder)
    assert (found.status, found.epoch, found.error) == ("created", None, None)
    assert "ptycho resume" in found.next_step


def test_a_living_run_shows_its_epoch_rate_and_time_left(folder):
    running(folder)
    acquire(folder)
    rows = [
        f'{{"time": "2026-01-01T00:00:0{n}.000Z", "stage": "refine", "epoch": {n}, "n_epochs": 9, "loss": 1}}'
        for n in (1, 3)
    ]
    folder.metrics_path.write_text("\n".join(rows) + "\n")
    found = read_status(folder)
    assert (found.status, found.stage, found.epoch, found.n_epochs) == ("running", "refine", 3, 9)
    assert found.numbers == {"loss": 1}
    assert found.seconds_per_epoch == 1.0
    assert found.seconds_left == 0.0
    assert found.is_going


def test_a_run_whose_processes_are_gone_has_died(folder):
    running(folder)
    write_json(folder.lock_path, {"host": Process.current().host, "pid": 2**22 + 1, "started": 1})
    found = read_status(folder)
    assert found.status == "died"
    assert found.stages == {"refine": "unfinished"}
    assert "ptycho resume" in found.next_step


def test_a_finished_run_shows_what_it_reached(folder):
    Reporter(folder).epoch("refine", 1, 1, loss=1)
    folder.write_state({**folder.read_state(), "status": "finished", "result": {"r_factor": 0.16}})
    found = read_status(folder)
    assert (found.result, found.stage) == ({"r_factor": 0.16}, None)
    assert "report.html" in found.next_step


def test_the_keys_for_programs_stay_the_same(folder):
    assert list(read_status(folder).to_dict()) == [
        "folder", "status", "stage", "epoch", "n_epochs", "numbers", "seconds_per_epoch", "seconds_left", "stages",
        "n_ranks", "executor", "job_id", "attempts", "error", "result", "next_step", "slurm", "part_done",
    ]  # fmt: skip
