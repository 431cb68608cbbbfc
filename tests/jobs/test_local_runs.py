"""Real processes: a run on two ranks of this machine, with stages that only count."""

import os
import re
import signal
import time

import pytest

from ptycho.jobs.events import read_lines
from ptycho.jobs.lock import owner
from ptycho.jobs.run_folder import RunFolder, seconds_between
from tests.jobs.small_runs import ptycho, start_ptycho, write_spec

# Epochs 1 to 6 add epoch × (1 + 2) on two ranks.
TOTAL_OF_TWO_RANKS = 63.0


def write_two_rank_spec(folder, name):
    return write_spec(folder, job__name=name, resources__ranks_per_node=2, execution__accelerator="cpu")


def assert_complete(folder, total=TOTAL_OF_TWO_RANKS):
    rows = read_lines(folder.metrics_path)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["loss"] == total
    assert folder.read_state()["status"] == "finished"
    assert folder.result_path.exists()
    assert owner(folder) is None


def wait_for_epoch(folder_of, epoch):
    """Waits until a run has written this epoch, and returns its folder."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        found = list(folder_of.glob("*/metrics.jsonl"))
        if found and len(read_lines(found[0])) >= epoch:
            return RunFolder(found[0].parent)
        time.sleep(0.05)
    raise AssertionError("the run did not get so far")


@pytest.mark.slow
def test_two_ranks_work_together_and_the_last_lines_say_where_to_look(tmp_path):
    done = ptycho("run", write_two_rank_spec(tmp_path, "star"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = RunFolder.newest(tmp_path / "runs")
    assert_complete(folder)
    assert folder.log_path(1).exists()
    assert len(re.findall(r"^refine \d/6  loss", done.stdout, re.MULTILINE)) == 6
    *_, reached, image, report, following = done.stdout.splitlines()
    assert "r_factor 0.163" in reached
    assert image == f"Image: {folder.result_path}"
    assert report == f"Report: {folder.report_path}"
    assert following.startswith("Next: ")


@pytest.mark.slow
def test_a_run_killed_with_everything_it_started_is_resumed_without_losing_an_epoch(tmp_path):
    process = start_ptycho("run", write_two_rank_spec(tmp_path, "held"), cwd=tmp_path)
    folder = wait_for_epoch(tmp_path / "runs", 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    status = ptycho("status", folder.path, cwd=tmp_path)
    assert status.returncode == 1
    assert "died in stage refine" in status.stdout
    resumed = ptycho("resume", folder.path, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_complete(folder)
    assert folder.read_state()["attempts"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("raises", r"Rank 1 on \S+ failed in stage refine: The engine diverged in epoch 3; lower object_step\."),
        ("surprises", r"Rank 1 on \S+ failed in stage refine: ZeroDivisionError: division by zero"),
        ("vanishes", r"Rank 1 on \S+ \(process \d+\) ended without a word"),
    ],
)
def test_when_one_rank_ends_all_end_and_it_is_named(tmp_path, name, sentence):
    done = ptycho("run", write_two_rank_spec(tmp_path, name), cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(sentence, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    folder = RunFolder.newest(tmp_path / "runs")
    assert re.search(sentence, folder.read_state()["error"]["message"])
    assert seconds_between(read_lines(folder.metrics_path)[-1]["time"], folder.read_state()["updated"]) < 60
    assert owner(folder) is None
    resumed = ptycho("resume", folder.path, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_complete(folder)


@pytest.mark.slow
def test_ctrl_c_saves_the_state_and_exits_with_130(tmp_path):
    process = start_ptycho("run", write_two_rank_spec(tmp_path, "held"), cwd=tmp_path)
    folder = wait_for_epoch(tmp_path / "runs", 2)
    # As a terminal does: to the command, the controller and the ranks at once.
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "ptycho resume" in errors
    assert "saving the state" in output
    assert folder.read_state()["status"] == "cancelled"
    assert ptycho("resume", folder.path, cwd=tmp_path).returncode == 0
    assert_complete(folder)


@pytest.mark.slow
def test_a_submitted_run_is_watched_kept_from_others_cancelled_and_resumed(tmp_path):
    submitted = ptycho("submit", write_two_rank_spec(tmp_path, "held"), cwd=tmp_path)
    assert submitted.returncode == 0, submitted.stderr
    folder = wait_for_epoch(tmp_path / "runs", 1)
    assert ptycho("status", cwd=tmp_path).returncode == 3
    refused = ptycho("resume", folder.path, cwd=tmp_path)
    assert (refused.returncode, "in use by process" in refused.stderr) == (2, True)
    cancelled = ptycho("cancel", cwd=tmp_path)
    assert cancelled.returncode == 0, cancelled.stderr
    assert ptycho("status", cwd=tmp_path).returncode == 130
    assert "stopping" in ptycho("logs", cwd=tmp_path).stdout
    assert ptycho("resume", cwd=tmp_path).returncode == 0
    assert_complete(folder)
