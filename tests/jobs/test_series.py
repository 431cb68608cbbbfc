"""A series of scans: one run for each, on this machine; what is broken touches nothing else."""

import csv
import json
import os
import signal
import time

import pytest

from ptycho.errors import DataError
from ptycho.jobs.new_series import new_series
from ptycho.jobs.series import SeriesFolder, find_folder
from ptycho.jobs.spec import load_spec
from tests.jobs.small_runs import ptycho, start_ptycho, write_small_scan, write_spec


def write_series(folder, names=("a", "b", "c"), **overrides):
    """A spec for small scans of these names beside it."""
    for name in names:
        write_small_scan(folder / f"scan_{name}.h5")
    patterns = ["scan_*.h5"]
    wanted = {
        "job__engine": "rpie",
        "job__name": "beamtime",
        "data__scans": patterns,
        "output__dir": str(folder / "runs"),
    }
    return write_spec(folder, data__scan=None, **wanted | overrides)


def break_file(path):
    path.write_bytes(path.read_bytes()[:500])


def only_series(folder):
    (path,) = (folder / "runs").glob("*/series.json")
    return SeriesFolder(path.parent)


def states(folder):
    found = json.loads(ptycho("status", folder.path, "--json", cwd=folder.path).stdout)
    return {scan["name"]: scan["status"] for scan in found["scans"]}


@pytest.mark.slow
def test_a_scan_that_cannot_be_read_is_named_and_does_not_stop_the_others(tmp_path):
    spec = write_series(tmp_path)
    break_file(tmp_path / "scan_b.h5")
    done = ptycho("run", spec, "--set", "resources.max_parallel_scans=2", cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    assert "Warning: 1 of 3 scans cannot be worked on" in done.stderr
    assert "scan_b: " in done.stderr
    assert "truncated" in done.stderr
    folder = only_series(tmp_path)
    assert states(folder) == {"scan_a": "finished", "scan_b": "failed", "scan_c": "finished"}
    rows = list(csv.DictReader(folder.csv_path.read_text().splitlines()))
    assert [(row["scan"], row["status"], row["r_factor"]) for row in rows] == [
        ("scan_a", "finished", "0.163"), ("scan_b", "failed", ""), ("scan_c", "finished", "0.163"),
    ]  # fmt: skip
    page = folder.report_path.read_text()
    assert "3 scans: 2 finished, 1 failed." in page
    assert 'href="scans/scan_a/report.html"' in page
    assert "truncated" in page

    before = {name: folder.run(name).state_path.read_bytes() for name in ("scan_a", "scan_c")}
    write_small_scan(tmp_path / "scan_b.h5")
    resumed = ptycho("resume", folder.path, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "Starting 1 again: scan_b" in resumed.stdout
    assert set(states(folder).values()) == {"finished"}
    assert {name: folder.run(name).state_path.read_bytes() for name in before} == before
    again = ptycho("resume", folder.path, cwd=tmp_path)
    assert (again.returncode, "nothing left to start" in again.stdout) == (0, True)
    one = json.loads(ptycho("status", folder.run("scan_b").path, "--json", cwd=tmp_path).stdout)
    assert (one["status"], one["result"]["r_factor"]) == ("finished", 0.163)


@pytest.mark.slow
def test_a_run_that_fails_touches_no_other_and_says_why(tmp_path):
    spec = write_series(tmp_path, names=("a", "raises"), resources__executor="here")
    done = ptycho("run", spec, cwd=tmp_path)
    assert done.returncode == 1
    folder = only_series(tmp_path)
    assert states(folder) == {"scan_a": "finished", "scan_raises": "failed"}
    said = ptycho("status", folder.path, cwd=tmp_path)
    assert said.returncode == 1
    assert "2 scans: 1 finished, 1 failed" in said.stdout
    assert "The engine diverged in epoch 3" in said.stdout
    assert "ptycho resume" in said.stdout
    assert ptycho("resume", folder.path, cwd=tmp_path).returncode == 0
    assert set(states(folder).values()) == {"finished"}
    logs = ptycho("logs", folder.path, "-n", "1", cwd=tmp_path).stdout.splitlines()
    assert [line.partition(" | ")[0] for line in logs[:2]] == ["scan_a", "scan_raises"]
    assert "rank 0 of 1" in ptycho("logs", "--scan", "scan_a", folder.path, cwd=tmp_path).stdout
    wrong = ptycho("logs", "--scan", "scan_z", folder.path, cwd=tmp_path)
    assert (wrong.returncode, "Did you mean scan_a?" in wrong.stderr) == (2, True)


@pytest.mark.slow
def test_a_network_is_trained_first_and_all_scans_get_it(tmp_path):
    spec = write_series(tmp_path, job__engine="pinn", data__train="train.h5", model__gridsize=1)
    write_small_scan(tmp_path / "train.h5")
    done = ptycho("run", spec, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = only_series(tmp_path)
    assert list(folder.training.read_state()["stages"]) == ["train"]
    for run in folder.runs():
        job = json.loads(run.resolved_path.read_text())
        assert job["bundle"] == str(folder.training.model / "wts.h5.zip")
        assert list(run.read_state()["stages"]) == ["reconstruct", "refine", "evaluate"]
    assert f"--model {folder.training.path}" in ptycho("status", folder.training.path, cwd=tmp_path).stdout


@pytest.mark.slow
def test_without_its_network_no_scan_is_begun(tmp_path):
    spec = write_series(
        tmp_path, job__engine="pinn", job__name="raises", data__train="train.h5", model__gridsize=1, names=("a", "b")
    )
    write_small_scan(tmp_path / "train.h5")
    done = ptycho("run", spec, cwd=tmp_path)
    assert done.returncode == 1
    folder = only_series(tmp_path)
    said = ptycho("status", folder.path, cwd=tmp_path).stdout
    assert "2 scans: 2 not started" in said
    assert "Training: failed" in said
    assert "The engine diverged" in said
    assert ptycho("resume", folder.path, cwd=tmp_path).returncode == 0
    assert set(states(folder).values()) == {"finished"}


def test_frames_that_the_network_does_not_take_are_named_at_the_door(tmp_path):
    spec = write_series(tmp_path, job__engine="pinn", data__train="scan_a.h5", model__gridsize=1)
    write_small_scan(tmp_path / "scan_c.h5", patch_size=32)
    _, resolved = new_series(load_spec(spec))
    assert [scan.name for scan in resolved.broken] == ["scan_c"]
    assert "frames of 32 × 32, the network is trained on frames of 16 × 16" in resolved.broken[0].error
    assert "data.crop_px" in resolved.broken[0].error


def test_nothing_is_left_behind_where_no_scan_can_be_read(tmp_path):
    spec = write_series(tmp_path, names=("a", "b"))
    for name in ("a", "b"):
        break_file(tmp_path / f"scan_{name}.h5")
    with pytest.raises(DataError, match="None of the 2 scans"):
        new_series(load_spec(spec))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_series_is_stopped_as_a_whole_and_goes_on(tmp_path):
    spec = write_series(tmp_path, names=("held", "later"))
    submitted = ptycho("submit", spec, cwd=tmp_path)
    assert submitted.returncode == 0, submitted.stderr
    folder = only_series(tmp_path)
    wait_until(lambda: folder.run("scan_held").metrics_path.exists())
    assert find_folder(folder.path) == folder
    going = ptycho("status", cwd=tmp_path)
    assert (going.returncode, "1 running, 1 waiting" in going.stdout) == (3, True)
    twice = ptycho("resume", folder.path, cwd=tmp_path)
    assert (twice.returncode, "is being worked off by process" in twice.stderr) == (2, True)
    assert ptycho("cancel", cwd=tmp_path).returncode == 0
    stopped = ptycho("status", folder.path, cwd=tmp_path)
    assert (stopped.returncode, "1 cancelled, 1 not started" in stopped.stdout) == (130, True)
    assert ptycho("resume", folder.path, cwd=tmp_path).returncode == 0
    assert set(states(folder).values()) == {"finished"}


@pytest.mark.slow
def test_ctrl_c_stops_a_series_that_is_followed(tmp_path):
    process = start_ptycho("run", write_series(tmp_path, names=("held", "later")), cwd=tmp_path)
    wait_until(lambda: list(tmp_path.glob("runs/*/scans/scan_held/metrics.jsonl")))
    os.kill(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, output + errors
    assert states(only_series(tmp_path)) == {"scan_held": "cancelled", "scan_later": "not started"}


def wait_until(is_so, timeout_s=90):
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.1)
