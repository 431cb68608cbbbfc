"""What a rank notices of the others while it works."""

import time
from dataclasses import replace

import pytest

from ptycho.jobs import watch as watch_module
from ptycho.jobs.process import Process
from ptycho.jobs.ranks_record import FAILED, FINISHED, FOLLOWED, RankRecord
from ptycho.jobs.run_folder import RunFolder
from ptycho.jobs.stopping import StopFlag
from ptycho.jobs.watch import RunWatch

MINE = RankRecord(rank=0, attempt=1, process=Process.current())
NEXT = RankRecord(rank=1, attempt=1, process=Process(host="elsewhere", pid=1, started=1))


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path, "run", {})


@pytest.fixture
def notice(folder, monkeypatch):
    """Watches until something is noticed or half a second has passed; returns it."""
    monkeypatch.setattr(watch_module, "PERIOD_S", 0.01)
    monkeypatch.setattr(watch_module, "GRACE_S", 0.0)
    monkeypatch.setattr(watch_module, "SILENT_AFTER_S", 0.1)
    noticed = []
    monkeypatch.setattr(RunWatch, "_end", lambda self, cause: noticed.append(cause))

    def run(n_ranks, seconds=0.5, meanwhile=lambda: None):
        MINE.write(folder)
        watch = RunWatch(folder, MINE, StopFlag(), noticed.append)
        with watch:
            watch.expect(n_ranks)
            end = time.monotonic() + seconds
            while not noticed and time.monotonic() < end:
                meanwhile()
                time.sleep(0.005)
        return noticed[0] if noticed else None

    return run


def test_a_rank_of_another_machine_that_falls_silent_is_noticed(folder, notice):
    NEXT.write(folder)
    assert notice(2, seconds=30).startswith("Rank 1 on elsewhere has given no sign of life")


def test_one_whose_heart_beats_or_that_has_ended_is_not(folder, notice):
    NEXT.write(folder)
    assert notice(2, meanwhile=lambda: NEXT.touch(folder)) is None
    replace(NEXT, status=FINISHED).write(folder)
    assert notice(2) is None


def test_who_follows_a_silent_rank_is_followed(folder, notice):
    """Only its neighbour listens to a rank; the others learn it from the neighbour's record."""
    replace(NEXT, rank=2, status=FOLLOWED, sentence="Rank 3 on n4 has given no sign of life").write(folder)
    NEXT.write(folder)
    assert notice(4, seconds=30, meanwhile=lambda: NEXT.touch(folder)) == "Rank 3 on n4 has given no sign of life"


def test_a_failure_of_any_rank_is_noticed(folder, notice):
    NEXT.write(folder)
    replace(NEXT, rank=2, status=FAILED, sentence="The disk is full.").write(folder)
    assert "Rank 2 on elsewhere failed: The disk is full." in notice(
        3, seconds=30, meanwhile=lambda: NEXT.touch(folder)
    )
