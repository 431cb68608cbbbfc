import threading
import time

import pytest

from ptycho.errors import RanksError
from ptycho.jobs import clocks
from ptycho.jobs.clocks import clock_ahead_s
from ptycho.parallel import SerialRanks
from tests.thread_ranks import run_on_ranks


@pytest.fixture
def wrong_by(monkeypatch):
    """Sets by how many seconds the clock of a rank, a thread here, is ahead."""
    ahead = {}
    true_time = time.time
    monkeypatch.setattr(clocks.time, "time", lambda: true_time() + ahead.get(threading.current_thread(), 0.0))

    def compare(ranks, by, hosts=None):
        ahead[threading.current_thread()] = by[ranks.rank]
        return clock_ahead_s(ranks, hosts or {})

    return compare


def test_clocks_that_are_a_little_apart_are_measured(wrong_by):
    found = run_on_ranks(3, lambda ranks: wrong_by(ranks, [5.0, 5.0, -15.0]))
    assert found == pytest.approx([0, 0, -20], abs=2)


@pytest.mark.parametrize(("by", "words"), [(500.0, "500 s ahead of"), (-500.0, "500 s behind")])
def test_a_wrong_clock_is_refused_by_every_rank_with_the_machine_named(wrong_by, by, words):
    sentences = []

    def work(ranks):
        with pytest.raises(RanksError) as refused:
            wrong_by(ranks, [0.0, 0.0, by], {0: "n1", 1: "n1", 2: "n2"})
        sentences.append(str(refused.value))

    run_on_ranks(3, work)
    assert len(sentences) == 3
    assert all("clock of n2 (rank 2) is " in sentence and "--exclude=n2" in sentence for sentence in sentences)
    assert all(words in sentence or f"{int(abs(by)) - 1} s" in sentence for sentence in sentences)


def test_one_process_has_one_clock():
    assert clock_ahead_s(SerialRanks(), {}) == 0
