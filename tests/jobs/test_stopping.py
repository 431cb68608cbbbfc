import os
import signal
import threading

import pytest

from ptycho.jobs.stopping import STOP_SIGNALS, StopFlag, agreed, signals_set
from ptycho.parallel import SerialRanks
from tests.thread_ranks import run_on_ranks


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_only_sets_the_flag(number):
    flag = StopFlag()
    before = signal.getsignal(number)
    with signals_set(flag):
        os.kill(os.getpid(), number)
        assert agreed(flag, SerialRanks())()
    assert flag.reason == f"signal {number.name}: {STOP_SIGNALS[number]}"
    assert signal.getsignal(number) == before


def test_the_first_reason_is_kept():
    flag = StopFlag()
    assert not flag.is_set
    flag.set("signal SIGTERM")
    flag.set("signal SIGINT")
    assert flag.reason == "signal SIGTERM"


def test_threads_leave_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    inside = []

    def work():
        with signals_set(StopFlag()):
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]


def test_all_ranks_stop_at_the_same_step_although_only_one_was_asked():
    def count_steps(ranks):
        flag = StopFlag()
        should_stop = agreed(flag, ranks)
        steps = 0
        while not should_stop():
            steps += 1
            if ranks.rank == 1 and steps == 3:
                flag.set("signal SIGTERM")
        return steps

    assert run_on_ranks(3, count_steps) == [3, 3, 3]


def test_a_signal_that_comes_while_ranks_agree_stops_them_at_the_next_step():
    def answers(ranks):
        flag = StopFlag()
        should_stop = agreed(flag, SignalledWhileSumming(ranks, flag) if ranks.rank == 1 else ranks)
        return [should_stop(), should_stop()]

    assert run_on_ranks(3, answers) == [[False, True]] * 3


class SignalledWhileSumming:
    """Ranks whose sum is hit by a signal after this rank has said that it has none."""

    def __init__(self, ranks, flag):
        self._ranks, self._flag = ranks, flag

    def all_sum(self, buffer):
        self._ranks.all_sum(buffer)
        self._flag.set("signal SIGTERM")
