import errno
import os
import threading

import pytest

from ptycho.errors import NotReadyError, RequestError, WorkError
from ptycho.jobs.json_file import read_json, write_json
from ptycho.jobs.run_folder import RunFolder, now, seconds_between


def test_a_new_folder_holds_its_texts_and_its_state(tmp_path):
    folder = RunFolder.create(tmp_path / "runs", "star", {"spec.toml": "a", "resolved.json": "b"})
    assert folder.path.name.startswith("star-")
    assert folder.spec_path.read_text() == "a"
    assert folder.read_state()["status"] == "created"
    assert RunFolder.open(folder.path) == folder
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [folder.path.name]


def test_runs_that_start_together_get_folders_of_their_own(tmp_path):
    made = []
    threads = [
        threading.Thread(target=lambda n=n: made.append(RunFolder.create(tmp_path, f"star{n % 2}", {}).path))
        for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made += [RunFolder.create(tmp_path, "star0", {}).path for _ in range(3)]
    assert len(set(made)) == 5


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RequestError, match="the disk is full"):
        RunFolder.create(tmp_path / "runs", "star", {"spec.toml": "a"})
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_wrong_request(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RequestError, match="Cannot write"):
        RunFolder.create(tmp_path / "runs", "star", {})


def test_what_is_no_run_folder_is_refused_with_a_hint(tmp_path):
    made = RunFolder.create(tmp_path, "star", {})
    with pytest.raises(RequestError, match=made.path.name):
        RunFolder.open(tmp_path)
    with pytest.raises(RequestError, match=made.path.name):
        RunFolder.open(tmp_path / "nothing")


def test_the_newest_run_is_found(tmp_path):
    with pytest.raises(RequestError, match="no runs"):
        RunFolder.newest(tmp_path)
    RunFolder.create(tmp_path, "old", {})
    new = RunFolder.create(tmp_path, "new", {})
    os.utime(new.state_path, (2e9, 2e9))
    assert RunFolder.newest(tmp_path) == new


def test_a_missing_result_is_not_ready(tmp_path):
    with pytest.raises(NotReadyError, match="ptycho status"):
        RunFolder.create(tmp_path, "star", {}).result()


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkError, match="the disk is full"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["state.json"]


def test_broken_json_is_named(tmp_path):
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(RequestError, match=r"state\.json is not valid JSON"):
        read_json(tmp_path / "state.json")


def test_times_can_be_subtracted():
    assert 0 <= seconds_between(now(), now()) < 1
    assert seconds_between("2026-01-01T00:00:00.500Z", "2026-01-01T00:01:00.000Z") == 59.5
