import os

import pytest

from ptycho.jobs import listener
from ptycho.jobs.listener import Listener


@pytest.fixture
def clock(monkeypatch):
    """This process's clock, in a test's hands."""
    now = [1000.0]
    monkeypatch.setattr(listener.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(listener.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


@pytest.fixture
def path(tmp_path):
    (tmp_path / "beats").touch()
    return tmp_path / "beats"


def test_silence_grows_while_nobody_touches_the_file_and_ends_when_somebody_does(path, clock):
    listening = Listener(path)
    assert listening.silent_s() == 0
    for _ in range(4):
        clock[0] += 1
        silent_s = listening.silent_s()
    assert silent_s == 4
    # The other machine's clock is an hour behind: its stamps are old, but they change.
    os.utime(path, (path.stat().st_mtime - 3600,) * 2)
    assert listening.silent_s() == 0


def test_a_pause_of_the_listener_itself_is_not_taken_for_silence(path, clock):
    listening = Listener(path)
    listening.silent_s()
    clock[0] += 600
    assert listening.silent_s() < 5


def test_a_heartbeat_is_heard_whatever_its_stamp_says(path, clock, monkeypatch):
    assert not Listener(path).hears_within(10)

    def beat_and_sleep(seconds):
        clock[0] += seconds
        os.utime(path, (clock[0] - 1e6,) * 2)

    monkeypatch.setattr(listener.time, "sleep", beat_and_sleep)
    assert Listener(path).hears_within(10)
