"""Files that crash the HDF5 library or make it loop cost one sentence, whichever command meets them."""

import os
import signal
import time

import numpy as np
import pytest

from ptycho.cli.main import main
from ptycho.data import formats, trial
from ptycho.data.formats.hdf5 import write_scan
from ptycho.data.trial import try_apart
from ptycho.errors import DataError
from tests.builders import make_scan


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "CPU_LIMIT_S", 1)
    write_scan(make_scan(n=9, N=8), tmp_path / "scan.h5")
    return tmp_path / "scan.h5"


def loops(*_):
    while True:
        pass


def test_work_that_loops_is_ended_by_the_time_of_the_processor(path):
    with pytest.raises(DataError, match=r"scan\.h5: the HDF5 library computes for more than 1 s"):
        try_apart([path], loops)


def test_work_that_waits_is_ended_by_the_clock(path, monkeypatch):
    monkeypatch.setattr(trial, "WALL_LIMIT_S", 0.1)
    with pytest.raises(DataError, match="its disk hangs"):
        try_apart([path], signal.pause)


def test_work_that_crashes_is_told_by_its_signal(path):
    with pytest.raises(DataError, match="crashes the HDF5 library \\(SIGSEGV\\)"):
        try_apart([path], lambda: os.kill(os.getpid(), signal.SIGSEGV))


def test_work_that_fails_otherwise_is_left_to_be_done_here(path, capfd):
    try_apart([path], lambda: 1 / 0)
    assert capfd.readouterr() == ("", "")


def test_files_that_are_not_hdf5_are_not_tried(tmp_path):
    np.save(tmp_path / "scan.npy", np.ones(3))
    began = time.perf_counter()
    try_apart([tmp_path / "scan.npy", tmp_path / "nothing.h5", None], loops)
    assert time.perf_counter() - began < 1


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["check", "run", "submit", "init", "inspect", "reconstruct", "convert"])
def test_every_command_refuses_a_file_that_makes_the_library_loop(path, verb, monkeypatch, capsys):
    monkeypatch.chdir(path.parent)
    (path.parent / "job.toml").write_text('[job]\nengine = "rpie"\n[data]\nscan = "scan.h5"\n')
    monkeypatch.setattr(formats, "_open", loops)
    with pytest.raises(SystemExit) as ended:
        main(
            [verb, "job.toml" if verb in ("check", "run", "submit") else "scan.h5", *["copy.h5"] * (verb == "convert")]
        )
    assert ended.value.code == 2
    assert "the HDF5 library computes for more than 1 s without opening it" in capsys.readouterr().err
    assert sorted(found.name for found in path.parent.iterdir()) == ["job.toml", "scan.h5"]
