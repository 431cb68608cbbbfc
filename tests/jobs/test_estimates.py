"""Memory and time of a job before it starts."""

import json

import pytest

from ptycho.jobs.estimates import memory_of, shares, time_of
from ptycho.jobs.resolve import open_job_scan, resolve
from ptycho.jobs.resolved_job import ResolvedJob
from ptycho.jobs.spec import load_spec
from tests.end_to_end import whole_runs
from tests.jobs.small_runs import make_run, write_small_scan, write_spec


def resolved(folder, **overrides):
    return resolve(load_spec(write_spec(folder, **overrides)))


def most(job, scan):
    return max(memory_of(job, scan, share).total_mb for share in shares(job, scan))


def test_every_frame_has_one_owner_and_only_a_network_reads_its_neighbours(tmp_path):
    write_small_scan(tmp_path / "scan.h5", n_positions=103)
    for engine, has_halo in (("rpie", False), ("pinn", True)):
        job, scan = resolved(tmp_path, job__engine=engine, resources__ranks_per_node=4)
        found = shares(job, scan)
        assert [one.frames for one in found] == [25, 26, 26, 26]
        assert all((one.halo > 0) == has_halo and one.frames + one.halo <= 103 for one in found)


def test_more_ranks_need_less_memory_each_and_never_less_than_the_program(tmp_path):
    write_small_scan(tmp_path / "scan.h5", n_positions=2000, patch_size=64)
    needed = []
    for ranks in (1, 2, 4):
        job, scan = resolved(tmp_path, resources__ranks_per_node=ranks)
        model = memory_of(job, scan, shares(job, scan)[-1])
        needed.append(model.total_mb)
        assert model.total_mb > model.program_mb
    # 2000 frames of 64 × 64 as float32 are 33 MB: half of them less, and once more a quarter of them less.
    assert needed[0] - needed[1] > 16
    assert needed[1] - needed[2] > 8


def test_a_network_that_sees_more_at_once_needs_more(tmp_path):
    write_small_scan(tmp_path / "scan.h5", n_positions=60)
    small, large = (
        most(*resolved(tmp_path, job__engine="pinn", training__batch_size=batch, model__n_filters_scale=scale))
        for batch, scale in ((8, 1), (64, 2))
    )
    assert large > small


def finished_run(folder, seconds, **overrides):
    """A run that says it took so long."""
    run, _ = make_run(folder, **overrides)
    stages = {name: {"status": "done", "seconds": took} for name, took in seconds.items()}
    told = {"status": "finished", "stages": stages, "n_frames": 12, "frame_px": 16, "n_ranks": 1}
    run.write_state({**run.read_state(), **told})
    return run


def test_time_is_scaled_by_frames_epochs_and_ranks_from_the_newest_run_of_its_kind(tmp_path):
    job, scan = resolved(tmp_path, refine__epochs=40)
    assert time_of(job, scan) is None
    run = finished_run(tmp_path, {"refine": 10.0, "evaluate": 4.0}, refine__epochs=40)
    same = time_of(job, scan)
    assert (same.run, same.seconds) == (run.path, {"refine": 10.0, "evaluate": 4.0})
    write_small_scan(tmp_path / "scan.h5", n_positions=48)
    longer = time_of(*resolved(tmp_path, refine__epochs=80, resources__ranks_per_node=2))
    assert longer.seconds == {"refine": pytest.approx(10 * 4 * 2 / 2), "evaluate": pytest.approx(4 * 4 / 2)}


def test_a_run_of_another_kind_says_nothing_about_time(tmp_path):
    finished_run(tmp_path, {"refine": 10.0, "evaluate": 4.0})
    assert time_of(*resolved(tmp_path)) is not None
    assert time_of(*resolved(tmp_path, job__engine="epie")) is None
    assert time_of(*resolved(tmp_path, resources__gpus_per_node=1)) is None
    write_small_scan(tmp_path / "scan.h5", patch_size=32)
    assert time_of(*resolved(tmp_path)) is None


@pytest.mark.slow
def test_the_estimate_is_close_to_what_a_run_really_held(tmp_path):
    whole_runs.simulate(tmp_path / "scan.h5", n_positions=600)
    folder = whole_runs.finished_run(whole_runs.write_spec(tmp_path, engine="rpie", epochs=1))
    job = ResolvedJob.read(folder / "resolved.json")
    peak_mb = json.loads((folder / "ranks" / "rank-0.json").read_text())["peak_memory_mb"]
    assert most(job, open_job_scan(job.data)) == pytest.approx(peak_mb, rel=0.25)
