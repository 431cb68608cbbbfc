import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace

import pytest

from ptycho.errors import RequestError
from ptycho.jobs import lock
from ptycho.jobs.json_file import write_json
from ptycho.jobs.process import Process
from ptycho.jobs.ranks_record import FINISHED, RankRecord
from ptycho.jobs.run_folder import RunFolder

ELSEWHERE = Process(host="elsewhere", pid=1, started=1)


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path, "run", {})


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def hold(folder, process):
    write_json(folder.lock_path, asdict(process))


def test_a_living_owner_keeps_others_out(folder, sleeper):
    hold(folder, Process.of_pid(sleeper.pid))
    with pytest.raises(RequestError, match=f"in use by process {sleeper.pid}"):
        lock.acquire(folder)


def test_a_dead_owner_does_not(folder, sleeper):
    hold(folder, Process.of_pid(sleeper.pid))
    sleeper.kill()
    sleeper.wait()
    lock.acquire(folder)
    assert lock.owner(folder) == Process.current()


def test_another_process_with_the_same_number_is_not_the_owner(folder, sleeper):
    hold(folder, replace(Process.of_pid(sleeper.pid), started=1))
    lock.acquire(folder)
    assert lock.owner(folder) == Process.current()


def test_a_living_rank_counts_as_owner_when_its_launcher_is_gone(folder, sleeper):
    record = RankRecord(rank=0, attempt=1, process=Process.of_pid(sleeper.pid))
    record.write(folder)
    with pytest.raises(RequestError, match="in use"):
        lock.acquire(folder)
    replace(record, status=FINISHED).write(folder)
    lock.acquire(folder)


def test_another_host_owns_it_as_long_as_its_heart_beats(folder, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.02)
    hold(folder, ELSEWHERE)
    with pytest.raises(RequestError, match="on elsewhere"):
        lock.acquire(folder)
    long_ago = time.time() - 2 * lock.STALE_AFTER_S
    os.utime(folder.lock_path, (long_ago, long_ago))
    lock.acquire(folder)


@pytest.mark.parametrize("wrong_by_s", [-5000, 5000])
def test_another_host_keeps_its_lock_although_its_clock_is_wrong(folder, wrong_by_s, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.2)
    hold(folder, ELSEWHERE)
    stop = threading.Event()

    def beat():
        os.utime(folder.lock_path, (time.time() + wrong_by_s,) * 2)

    def keep_beating():
        while not stop.wait(0.02):
            beat()

    beat()
    heart = threading.Thread(target=keep_beating)
    heart.start()
    try:
        with pytest.raises(RequestError, match="on elsewhere"):
            lock.acquire(folder)
    finally:
        stop.set()
        heart.join()
    lock.acquire(folder)
    assert lock.owner(folder) == Process.current()


def test_only_one_of_many_takes_a_stale_lock(folder, sleeper):
    hold(folder, replace(Process.of_pid(sleeper.pid), started=1))
    code = (
        "import sys; from pathlib import Path\n"
        "from ptycho.jobs import lock; from ptycho.jobs.run_folder import RunFolder\n"
        "lock.acquire(RunFolder(Path(sys.argv[1]))); print('taken', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder.path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    racers = [subprocess.Popen(command, **pipes) for _ in range(4)]
    # The winner holds the lock until the others have given up.
    while sum(racer.poll() is None for racer in racers) > 1:
        time.sleep(0.02)
    assert sorted(racer.communicate()[0] for racer in racers) == ["", "", "", "taken\n"]


def test_releasing_lets_the_next_one_in(folder):
    lock.acquire(folder)
    lock.release(folder)
    assert lock.owner(folder) is None
    assert lock.wait_until_free(folder, 0)
    lock.acquire(folder)


def test_nothing_but_the_lock_is_left_in_the_folder(folder):
    before = {path.name for path in folder.path.iterdir()}
    lock.acquire(folder)
    assert {path.name for path in folder.path.iterdir()} - before == {"lock.json"}
