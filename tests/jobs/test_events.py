import errno
import json
import os

import numpy as np
import pytest

from ptycho.errors import WorkError
from ptycho.jobs.events import EventFollower, Reporter, read_lines
from ptycho.jobs.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path, "run", {})


def epochs(folder):
    return [(row["stage"], row["epoch"], row["loss"]) for row in read_lines(folder.metrics_path)]


def test_each_epoch_is_a_line_of_numbers_with_its_time(folder):
    Reporter(folder).epoch("train", 1, 2, loss=np.float32(0.5), n_frames=3)
    (row,) = read_lines(folder.metrics_path)
    assert row.pop("time").endswith("Z")
    assert row == {"stage": "train", "epoch": 1, "n_epochs": 2, "loss": 0.5, "n_frames": 3}
    assert [event["event"] for event in read_lines(folder.events_path)] == ["epoch"]


def test_epochs_that_are_done_again_replace_their_lines(folder):
    first = Reporter(folder)
    for epoch in range(1, 6):
        first.epoch("train", epoch, 6, loss=epoch)
    first.epoch("refine", 1, 1, loss=0)
    second = Reporter(folder, attempt=2)
    for epoch in range(4, 7):
        second.epoch("train", epoch, 6, loss=10 * epoch)
    assert epochs(folder) == [
        ("train", 1, 1), ("train", 2, 2), ("train", 3, 3), ("refine", 1, 0),
        ("train", 4, 40), ("train", 5, 50), ("train", 6, 60),
    ]  # fmt: skip


def test_a_line_cut_short_by_a_kill_is_removed(folder):
    Reporter(folder).epoch("train", 1, 3, loss=1)
    with folder.metrics_path.open("a") as file:
        file.write('{"stage": "train", "epo')
    Reporter(folder).epoch("train", 2, 3, loss=2)
    assert epochs(folder) == [("train", 1, 1), ("train", 2, 2)]


def test_a_number_that_is_none_is_written_as_null(folder):
    Reporter(folder).epoch("train", 1, 1, loss=float("nan"), gain=float("inf"))
    text = folder.metrics_path.read_text()
    assert json.loads(text, parse_constant=pytest.fail)["loss"] is None


def test_only_rank_0_writes(folder):
    reporter = Reporter(folder, rank=1)
    reporter.stage("train")
    reporter.epoch("train", 1, 1, loss=1)
    reporter.progress("train", 1, 1)
    reporter.finished()
    assert not folder.metrics_path.exists()
    assert not folder.events_path.exists()


def test_progress_is_written_rarely_but_its_end_always(folder):
    reporter = Reporter(folder)
    for done in range(1, 1001):
        reporter.progress("reconstruct", done, 1000)
    events = read_lines(folder.events_path)
    assert len(events) <= 3
    assert events[-1]["done"] == 1000


def test_results_are_kept_for_the_state(folder):
    reporter = Reporter(folder)
    reporter.result(r_factor=np.float64(0.163))
    assert reporter.results == {"r_factor": 0.163}
    assert read_lines(folder.events_path)[0]["event"] == "result"


def test_a_follower_sees_each_whole_line_once(folder):
    follower = EventFollower.from_now_on(folder.events_path)
    assert list(follower.new_events()) == []
    reporter = Reporter(folder)
    reporter.stage("train")
    with folder.events_path.open("a") as file:
        file.write('{"event": "ep')
    assert [event["event"] for event in follower.new_events()] == ["stage"]
    with folder.events_path.open("a") as file:
        file.write('och"}\n')
    assert [event["event"] for event in follower.new_events()] == ["epoch"]
    assert list(follower.new_events()) == []


def test_a_full_disk_is_named(folder, monkeypatch):
    def full(descriptor, line):
        raise OSError(errno.ENOSPC, "No space left on device")

    reporter = Reporter(folder)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(WorkError, match=r"metrics\.jsonl: the disk is full"):
        reporter.epoch("train", 1, 1, loss=1)
