"""Wrong scans and disks that refuse: one helpful sentence, the right exit code, nothing half-written, no traceback."""

import os
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest

from ptycho.data.formats.hdf5 import write_scan
from ptycho.data.sharding import hilbert_order
from tests.builders import make_scan
from tests.end_to_end.whole_runs import environment, ptycho

SPEC = '[job]\nengine = "rpie"\n[data]\nscan = "scan.h5"\n[refine]\nepochs = 2\n[resources]\nexecutor = "here"\n'


@pytest.fixture
def folder(tmp_path):
    write_scan(make_scan(n=16, N=16), tmp_path / "scan.h5")
    (tmp_path / "job.toml").write_text(SPEC)
    return tmp_path


def replace(folder, name, change):
    """Put another array in a dataset's place, its attributes kept."""
    with h5py.File(folder / "scan.h5", "r+") as file:
        values, attributes = file[name][()], dict(file[name].attrs)
        del file[name]
        file[name] = change(values)
        file[name].attrs.update(attributes)


def with_value(value, frame=5):
    def change(counts):
        changed = counts.astype(np.float32)
        changed[frame, 3, 3] = value
        return changed

    return change


WRONG_SCANS = {
    "not square": ("diffraction", lambda counts: counts[:, :, :-2], "must be square"),
    "zero frames": ("diffraction", lambda counts: counts[:0], "no frames"),
    "frames and positions differ": ("positions", lambda positions: positions[:-3], "13"),
    "probe of another size": ("probe", lambda probe: probe[:, :8, :8], "probe"),
    "probe without light": ("probe", lambda probe: 0 * probe, "probe"),
    "positions that are not finite": ("positions", lambda positions: positions * np.nan, "position"),
}


def assert_one_sentence(done, code):
    assert done.returncode == code, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert "Traceback" not in done.stdout + done.stderr
    return errors[0]


@pytest.mark.parametrize("what", WRONG_SCANS)
def test_a_wrong_scan_is_refused_at_the_door(folder, what):
    name, change, word = WRONG_SCANS[what]
    replace(folder, name, change)
    sentence = assert_one_sentence(ptycho("run", "job.toml", cwd=folder), 2)
    assert word in sentence
    assert "scan.h5" in sentence
    assert not (folder / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, -1.0], ids=["NaN", "negative"])
def test_impossible_counts_end_the_work_with_the_frame_named_and_no_result(folder, value):
    replace(folder, "diffraction", with_value(value))
    done = ptycho("run", "job.toml", cwd=folder)
    # Frames are read only once work has begun.
    assert done.returncode in (1, 2)
    sentence = assert_one_sentence(done, done.returncode)
    assert "5" in sentence
    (run,) = (folder / "runs").iterdir()
    assert not (run / "result.h5").exists()


def test_an_unreadable_folder_is_named(folder):
    (folder / "locked").mkdir(mode=0o000)
    # Root may read everything unless it gives up the two capabilities that let it.
    mortal = [] if os.getuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    done = subprocess.run(
        [*mortal, sys.executable, "-m", "ptycho", "check", "job.toml", "--set", "data.scan=locked/scan.h5"],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert "locked" in assert_one_sentence(done, 2)


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small disk; CI runs as root")
@pytest.mark.parametrize(("size", "code"), [("4k", 2), ("300k", 1)], ids=["from the start", "while working"])
def test_a_full_disk_is_named_and_no_file_is_half_written(folder, size, code):
    disk = folder / "disk"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size={size} tmpfs disk || exit 99\n"
        f"{sys.executable} -m ptycho run job.toml --set output.dir=disk --set refine.epochs=400\n"
        "code=$?; find disk -name '*.partial' | sed 's/^/LEFT /' >&2\n"
        "exit $code\n"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert "full" in assert_one_sentence(done, code) or "space" in done.stderr
    assert "LEFT" not in done.stderr


@pytest.mark.slow
def test_a_rank_that_cannot_read_its_frames_is_named_with_file_and_frames(folder):
    with h5py.File(folder / "scan.h5", "r+") as file:
        frames, attributes = file["diffraction"][()], dict(file["diffraction"].attrs)
        del file["diffraction"]
        stored = file.create_dataset("diffraction", data=frames, chunks=(1, 16, 16), compression="gzip")
        stored.attrs.update(attributes)
        inner = [int(frame) for frame in hilbert_order(file["positions"][()]) if frame not in (0, 7, 8, 15)]
        damaged = inner[-1]
        place = stored.id.get_chunk_info(damaged)
    with (folder / "scan.h5").open("rb+") as file:
        file.seek(place.byte_offset)
        file.write(b"\xff" * place.size)
    two_ranks = ["--set", "resources.executor=local", "--set", "resources.ranks_per_node=2"]
    sentence = assert_one_sentence(ptycho("run", "job.toml", *two_ranks, cwd=folder), 1)
    named = re.search(
        r"Rank 1 on \S+ failed in stage refine: \S+scan\.h5: frames (\d+) to (\d+) cannot be read", sentence
    )
    assert named
    assert int(named[1]) <= damaged <= int(named[2])
