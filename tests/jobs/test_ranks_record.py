import subprocess
import sys

import pytest

from ptycho.jobs.process import Process
from ptycho.jobs.ranks_record import CANCELLED, FAILED, FOLLOWED, RankRecord, first_cause, read_records
from ptycho.jobs.run_folder import RunFolder


@pytest.fixture
def gone():
    """A process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = Process.of_pid(process.pid)
    process.communicate()
    return found


def record(rank, status="running", process=None, **values):
    return RankRecord(rank=rank, attempt=1, process=process or Process.current(), status=status, **values)


def test_nothing_failed_while_all_live_or_were_asked_to_stop():
    assert first_cause([record(0), record(1, CANCELLED)]) is None


def test_the_earliest_failure_is_the_cause():
    late = record(0, FAILED, sentence="connection closed", time_s=20.0)
    early = record(1, FAILED, sentence="cannot read frames 3 to 7", time_s=10.0, stage="refine")
    cause = first_cause([late, early])
    assert cause.startswith("Rank 1 on ")
    assert cause.endswith("failed in stage refine: cannot read frames 3 to 7")


def test_a_rank_that_vanished_is_named_with_what_may_have_happened(gone):
    cause = first_cause([record(0), record(1, process=gone)])
    assert cause.startswith("Rank 1 on ")
    assert "memory" in cause


def test_a_rank_that_told_its_failure_is_the_cause_and_not_those_that_were_ended_for_it(gone):
    cause = first_cause([record(0, process=gone), record(1, FAILED, sentence="the disk is full", time_s=1.0)])
    assert cause.startswith("Rank 1 on ")
    assert "the disk is full" in cause


def test_ranks_that_followed_another_are_no_cause(gone):
    assert first_cause([record(0, FOLLOWED, sentence="x", process=gone)]) is None


def test_when_all_vanished_no_single_rank_is_blamed(gone):
    assert first_cause([record(0, process=gone), record(1, process=gone)]).startswith("All 2 ranks")


def test_ranks_of_other_hosts_cannot_be_seen_to_vanish():
    assert first_cause([record(0, process=Process(host="elsewhere", pid=1, started=1))]) is None


def test_only_the_newest_attempt_is_read(tmp_path):
    folder = RunFolder.create(tmp_path, "run", {})
    RankRecord(rank=1, attempt=1, process=Process.current(), status=FAILED).write(folder)
    RankRecord(rank=0, attempt=2, process=Process.current()).write(folder)
    (folder.ranks / "rank-2.json").write_text("{")
    found = read_records(folder)
    assert [(found.rank, found.attempt) for found in found] == [(0, 2)]
    assert found[0].process.is_alive
