"""Many scans as a job array on a real Slurm: what is broken touches nothing else, and is all that starts again."""

import csv
import json
import re

import h5py
import pytest

from ptycho.jobs.launcher import Launch
from ptycho.jobs.series import SeriesFolder
from tests.cluster.test_cluster_jobs import ptycho as ptycho_counting
from tests.end_to_end.whole_runs import ptycho, simulate
from tests.jobs.small_runs import write_spec
from tests.jobs.test_series import break_file, only_series, write_series

pytestmark = pytest.mark.slurm

N_SCANS = 20
TRUNCATED, DAMAGED = "scan_07", "scan_13"


@pytest.fixture(scope="module")
def series(cluster, tmp_path_factory):
    """Twenty small scans, one truncated and one with a damaged frame, submitted as one series and ended."""
    folder = tmp_path_factory.mktemp("series")
    whole = simulate(folder / "whole.h5", n_positions=16, patch_size=32)
    for number in range(N_SCANS):
        (folder / f"scan_{number:02d}.h5").write_bytes(whole.read_bytes())
    break_file(folder / f"{TRUNCATED}.h5")
    damage_a_frame(folder / f"{DAMAGED}.h5")
    spec = write_spec(
        folder, job__name="beamtime", data__scan=None, data__scans=["scan_*.h5"], refine__epochs=2,
        resources__executor="slurm", resources__max_parallel_scans=4,
    )  # fmt: skip
    done = ptycho("submit", spec, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"1 of {N_SCANS} scans cannot be worked on" in done.stderr
    found = only_series(folder)
    cluster.wait_for(found.read_launch().job_ids[-1], "COMPLETED", timeout_s=1200)
    return found


def damage_a_frame(path):
    """Overwrite the first frame: the file opens as ever, and only who reads its frames can find out."""
    with h5py.File(path) as file:
        chunk = file["diffraction"].id.get_chunk_info(0)
    with path.open("rb+") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * chunk.size)


def table(folder: SeriesFolder):
    return {row["scan"]: row for row in csv.DictReader(folder.csv_path.read_text().splitlines())}


def started(folder: SeriesFolder):
    """Name of the scan → the number of its Slurm job."""
    launches = {run.name: Launch.read(run) for run in folder.runs()}
    return {name: launch.job_id for name, launch in launches.items()}


def test_two_broken_scans_of_twenty_leave_eighteen_results_and_two_clear_errors(cluster, series):
    rows = table(series)
    assert len(rows) == N_SCANS
    failed = {name: row["error"] for name, row in rows.items() if row["status"] == "failed"}
    assert failed.keys() == {TRUNCATED, DAMAGED}
    assert "truncated" in failed[TRUNCATED]
    assert re.search(r"Rank 0 on n[12] failed\b.*: frames 0 to \d+ cannot be read", failed[DAMAGED])
    good = {name: row for name, row in rows.items() if name not in failed}
    assert {row["status"] for row in good.values()} == {"finished"}
    assert len({row["r_factor"] for row in good.values()}) == 1, "the same scan gives the same image"
    assert float(next(iter(good.values()))["r_factor"]) < 0.3
    assert all(series.run(name).result_path.is_file() for name in good)
    arrays = {job_id.partition("_")[0] for job_id in started(series).values()}
    assert len(arrays) == 1
    (array,) = arrays
    page = series.report_path.read_text()
    assert page.count("<img ") == 18
    assert page.count(">report</a>") == 18
    assert "20 scans: 18 finished, 2 failed." in page
    assert ptycho("status", series.path, cwd=series.path).returncode == 1
    assert len(cluster.accounted_states(array)) == N_SCANS - 1


def test_resume_starts_only_the_broken_ones_again(series):
    folder = series.path.parents[1]
    before = started(series)
    for name in (TRUNCATED, DAMAGED):
        (folder / f"{name}.h5").write_bytes((folder / "whole.h5").read_bytes())
    done = ptycho("resume", series.path, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    after = started(series)
    assert {name for name in after if after[name] != before.get(name)} == {TRUNCATED, DAMAGED}
    assert {row["status"] for row in table(series).values()} == {"finished"}
    assert f"{N_SCANS} scans: {N_SCANS} finished." in series.report_path.read_text()


def test_a_network_is_trained_then_applied_then_the_table_is_written(cluster, tmp_path):
    run = {"job__engine": "pinn", "data__train": "scan_a.h5", "model__gridsize": 1, "resources__executor": "slurm"}
    spec = write_series(tmp_path, names=("a", "b", "held"), resources__nodes=2, **run)
    assert ptycho_counting("submit", spec, cwd=tmp_path).returncode == 0
    folder = only_series(tmp_path)
    training, array, collecting = folder.read_launch().job_ids
    assert cluster.job(f"{array}_0")["Dependency"].startswith(f"afterok:{training}")
    # The training is taken down and goes on: what waits for it must not take that for its end.
    cluster.wait_for(training, "RUNNING", "COMPLETED")
    cluster.run("scontrol", "requeue", training)
    cluster.wait_for(training, "COMPLETED", restarts=1, timeout_s=120)
    cluster.wait_for(f"{array}_1", "COMPLETED", timeout_s=120)
    held = folder.run("scan_held")
    found = json.loads(ptycho_counting("status", folder.path, "--json", cwd=tmp_path).stdout)
    assert (found["status"], found["counts"]) == ("running", {"finished": 2, "running": 1})
    assert ptycho_counting("cancel", held.path, cwd=tmp_path).returncode == 0
    cluster.wait_for(collecting, "COMPLETED", timeout_s=60)
    assert {name: row["status"] for name, row in table(folder).items()} == {
        "scan_a": "finished", "scan_b": "finished", "scan_held": "cancelled",
    }  # fmt: skip


def test_scans_of_a_network_that_was_not_trained_are_not_begun_and_resume_does_all(cluster, tmp_path):
    run = {"job__engine": "pinn", "data__train": "scan_a.h5", "model__gridsize": 1, "resources__executor": "slurm"}
    spec = write_series(tmp_path, names=("a", "b"), job__name="raises", **run)
    done = ptycho_counting("run", spec, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    folder = only_series(tmp_path)
    assert {row["status"] for row in table(folder).values()} == {"not started"}
    said = ptycho_counting("status", folder.path, cwd=tmp_path).stdout
    assert "The engine diverged in epoch 3" in said
    assert "The network has not been trained." in said
    resumed = ptycho_counting("resume", folder.path, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert {row["status"] for row in table(folder).values()} == {"finished"}


def test_cancel_takes_the_whole_series_out_of_the_queue(cluster, tmp_path):
    spec = write_series(tmp_path, names=("held", "later"), resources__executor="slurm", resources__max_parallel_scans=1)
    assert ptycho_counting("submit", spec, cwd=tmp_path).returncode == 0
    folder = only_series(tmp_path)
    _, collecting = folder.read_launch().job_ids
    cluster.wait_for(started(folder)["scan_held"], "RUNNING")
    cancelled = ptycho_counting("cancel", folder.path, cwd=tmp_path)
    assert cancelled.returncode == 0, cancelled.stdout + cancelled.stderr
    assert {row["status"] for row in table(folder).values()} == {"cancelled"}
    assert cluster.job(collecting)["JobState"] == "CANCELLED"
    resumed = ptycho_counting("resume", folder.path, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
