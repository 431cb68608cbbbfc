import json
import os
import pickle
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptycho.data import frames as frames_module
from ptycho.data.formats import ReadOverrides, hdf5_frames, open_scan
from ptycho.data.formats.hdf5 import write_scan
from ptycho.data.geometry import Geometry
from ptycho.data.grid import ObjectGrid
from ptycho.data.scan import ArrayFrames, Scan, Truth
from ptycho.errors import DataError, WorkError
from tests.builders import CountingFrames, make_scan

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scan_path(tmp_path):
    path = tmp_path / "scan.h5"
    write_scan(make_scan(n=12), path)
    return path


def all_frames(scan):
    return scan.frames.read(np.arange(scan.n_positions))


def assert_same(one, other):
    """Everything but where the scan lies and in which type its counts are kept."""
    assert np.array_equal(all_frames(one), all_frames(other))
    for name in ("name", "geometry", "object_grid", "assumptions", "provenance"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("positions_px", "probe", "mask", "object_start"):
        assert_equal_or_none(getattr(one, name), getattr(other, name))
    assert (one.truth is None) == (other.truth is None)
    if one.truth is not None:
        assert one.truth.grid == other.truth.grid
        for name in ("object", "probe", "positions_px"):
            assert_equal_or_none(getattr(one.truth, name), getattr(other.truth, name))


def assert_equal_or_none(one, other):
    assert (one is None) == (other is None)
    if one is not None:
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


def complex_image(rng, *shape):
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


@st.composite
def scans(draw):
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    n, size = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    dtype = draw(st.sampled_from([np.uint8, np.int16, np.uint32, np.int64, np.float32, np.float64]))
    counts = rng.integers(0, 100, (n, size, size)).astype(dtype)
    if counts.dtype.kind == "f" and draw(st.booleans()):
        counts += dtype(0.37)
    mask = rng.random((size, size)) < 0.8 if draw(st.booleans()) else None
    if mask is not None:
        counts[:, ~mask] = 0
    grid = ObjectGrid(shape=(7, 8), origin_px=(-1.5, 2.25)) if draw(st.booleans()) else None
    known = draw(st.booleans())
    return Scan(
        name=draw(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1)),
        path=None,
        frames=ArrayFrames(counts),
        positions_px=rng.normal(size=(n, 2)) * 1e3,
        probe=complex_image(rng, draw(st.integers(1, 3)), size, size) if draw(st.booleans()) else None,
        mask=mask,
        geometry=Geometry(energy_eV=8e3, distance_m=0.5, object_pixel_m=(1e-9, 3e-9)) if known else Geometry(),
        object_grid=grid,
        object_start=complex_image(rng, 7, 8) if grid and draw(st.booleans()) else None,
        truth=Truth(object=complex_image(rng, 5, 4), grid=ObjectGrid(shape=(5, 4), origin_px=(0.5, -3.0)))
        if known
        else None,
        assumptions=tuple(draw(st.lists(st.sampled_from(["a → b.", "second"]), max_size=2))),
        provenance=draw(st.dictionaries(st.sampled_from("abc"), st.one_of(st.integers(), st.text()), max_size=2)),
    )


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scan=scans())
def test_writing_then_reading_is_identity(tmp_path, scan):
    path = tmp_path / "scan.h5"
    write_scan(scan, path)
    assert_same(open_scan(path), scan)


def test_a_simulated_scan_comes_back_with_its_truth(scan_path):
    assert_same(open_scan(scan_path), make_scan(n=12))


@pytest.mark.parametrize(
    ("largest", "kept"), [(0, "uint8"), (255, "uint8"), (256, "uint16"), (70_000, "uint32"), (2**40, "uint64")]
)
def test_whole_counts_are_kept_in_the_smallest_type(tmp_path, largest, kept):
    counts = np.full((2, 4, 4), largest, np.float64)
    write_scan(Scan(name="s", path=None, frames=ArrayFrames(counts), positions_px=np.zeros((2, 2))), tmp_path / "s.h5")
    scan = open_scan(tmp_path / "s.h5")
    assert scan.frames.dtype == kept
    assert (all_frames(scan) == largest).all()


def test_the_file_is_as_documented(scan_path):
    with h5py.File(scan_path) as file:
        assert file.attrs["format"] == "ptychopinn-scan"
        assert file.attrs["version"] == 1
        assert file["diffraction"].chunks == (1, 16, 16)
        assert file["diffraction"].attrs["units"] == "counts"
        assert file["positions"].attrs["units"] == "px"
        assert json.loads(file["provenance"].asstr()[()]) == {"made by": "tests"}
        assert "32008" in file["diffraction"]._filters  # bitshuffle, as registered with the HDF Group


def test_frames_come_in_the_order_asked_for_repeats_and_runs_included(scan_path):
    scan, counts = open_scan(scan_path), all_frames(make_scan(n=12))
    rng = np.random.default_rng(0)
    for indices in ([3], [5, 4, 5, 0], [0, 1, 2, 7, 8, 11], [], list(rng.integers(12, size=30))):
        asked = np.array(indices, dtype=np.int64)
        assert np.array_equal(scan.frames.read(asked), counts[asked])


@pytest.mark.parametrize("piece_frames", [1, 7, 1000])
def test_long_runs_are_read_in_pieces(tmp_path, monkeypatch, piece_frames):
    monkeypatch.setattr(hdf5_frames, "PIECE_BYTES", piece_frames * 8 * 8 * 2)
    source = make_scan(n=100, N=8)
    write_scan(source, tmp_path / "s.h5")
    frames = open_scan(tmp_path / "s.h5").frames
    for indices in (np.arange(100), np.random.default_rng(0).permutation(100), np.array([5, 6, 7, 50, 51, 5, 99])):
        assert np.array_equal(frames.read(indices), source.frames.read(indices))


def test_opening_reads_no_frame(scan_path, monkeypatch):
    def refuse(self, indices):
        raise AssertionError("a frame was read")

    monkeypatch.setattr("ptycho.data.formats.hdf5_frames.HDF5Frames.read", refuse)
    assert open_scan(scan_path).n_positions == 12


def test_writing_streams_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(frames_module, "BLOCK_BYTES", 3 * 16 * 16 * 4)
    source = make_scan(n=10)
    counting = CountingFrames(source.frames)
    write_scan(Scan(**{**vars(source), "frames": counting}), tmp_path / "s.h5")
    assert counting.largest_read == 3
    assert np.array_equal(all_frames(open_scan(tmp_path / "s.h5")), all_frames(source))


def test_positions_in_metres_become_pixels(tmp_path, scan_path):
    with h5py.File(scan_path, "r+") as file:
        file["positions"][...] *= np.array([1e-8, 2e-8])
        file["positions"].attrs["units"] = "m"
        file["geometry"].attrs["object_pixel_m"] = (1e-8, 2e-8)
    assert np.allclose(open_scan(scan_path).positions_px, make_scan(n=12).positions_px)
    halved = open_scan(scan_path, ReadOverrides(object_pixel_m=(2e-8, 4e-8)))
    assert np.allclose(halved.positions_px, make_scan(n=12).positions_px / 2)


def _sums(frames):
    return [int(frames.read(np.array([index])).sum()) for index in range(12)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_frames_can_be_read_in_other_processes_after_being_read_here(scan_path, method):
    frames = open_scan(scan_path).frames
    here = _sums(frames)
    with get_context(method).Pool(2) as pool:
        assert pool.map(_sums, [frames, frames]) == [here, here]
    assert _sums(frames) == here


def test_frames_pickle_without_an_open_file(scan_path):
    frames = open_scan(scan_path).frames
    here = _sums(frames)
    pickled = pickle.dumps(frames)
    assert len(pickled) < 2000
    assert _sums(pickle.loads(pickled)) == here


def test_a_missing_dataset_is_named_with_what_there_is(scan_path):
    with h5py.File(scan_path, "r+") as file:
        del file["positions"]
    with pytest.raises(DataError, match=r"no dataset /positions\. It contains: .*diffraction \(12, 16, 16\)"):
        open_scan(scan_path)


def test_a_newer_layout_is_refused(scan_path):
    with h5py.File(scan_path, "r+") as file:
        file.attrs["version"] = 99
    with pytest.raises(DataError, match="layout version 99"):
        open_scan(scan_path)


@pytest.mark.parametrize("kept", [4, 100, 3000, 0.5, 0.9])
def test_a_truncated_file_is_refused_with_one_sentence(scan_path, kept):
    whole = scan_path.read_bytes()
    scan_path.write_bytes(whole[: kept if isinstance(kept, int) else int(len(whole) * kept)])
    with pytest.raises(DataError, match=r"scan\.h5"):
        all_frames(open_scan(scan_path))


def test_a_damaged_frame_is_named(scan_path):
    with h5py.File(scan_path) as file:
        place = file["diffraction"].id.get_chunk_info_by_coord((5, 0, 0))
    with scan_path.open("r+b") as file:
        file.seek(place.byte_offset)
        file.write(b"\xff" * place.size)
    scan = open_scan(scan_path)
    scan.frames.read(np.array([4, 6]))
    with pytest.raises(DataError, match="frames 5 to 5 cannot be read"):
        scan.frames.read(np.array([5]))


def _replace(file, name, values):
    attributes = dict(file[name].attrs)
    del file[name]
    file[name] = values
    file[name].attrs.update(attributes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda file: _replace(file, "positions", np.zeros((11, 2))), "12 frames but positions of shape"),
        (lambda file: file["positions"].attrs.__setitem__("units", "mm"), "units = 'mm'"),
        (lambda file: file["positions"].attrs.__setitem__("units", "m"), "object pixel size is unknown"),
        (lambda file: _replace(file, "diffraction", np.ones((12, 16, 8), np.uint8)), "must be square"),
        (lambda file: _replace(file, "diffraction", np.ones((0, 16, 16), np.uint8)), "no frames"),
        (lambda file: _replace(file, "diffraction", np.ones((12, 16), np.uint8)), "axes"),
        (lambda file: _replace(file, "diffraction", np.ones((12, 16, 16), np.complex64)), "real numbers"),
        (lambda file: _replace(file, "probe", np.ones((1, 8, 8), np.complex64)), "probe of shape"),
        (lambda file: _replace(file, "probe", np.full((1, 16, 16), np.nan, np.complex64)), "not finite"),
        (lambda file: file.__setitem__("mask", np.ones((16, 16))), "must be bool"),
        (lambda file: file.__setitem__("mask", np.ones((8, 16), bool)), "mask of shape"),
        (lambda file: file["geometry"].attrs.__setitem__("energy_eV", -1.0), "energy_eV = -1"),
        (lambda file: _replace(file, "provenance", "{"), "not JSON"),
    ],
)
def test_what_does_not_fit_is_one_helpful_sentence(scan_path, change, words):
    with h5py.File(scan_path, "r+") as file:
        change(file)
    with pytest.raises(DataError, match=words) as caught:
        open_scan(scan_path)
    assert str(caught.value).startswith(str(scan_path))


def test_an_impossible_count_stops_the_writer_before_anything_is_written(tmp_path):
    counts = np.ones((3, 4, 4), np.float32)
    counts[2, 0, 0] = -1
    (tmp_path / "b.h5").write_bytes(b"")
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file.attrs.update(format="ptychopinn-scan", version=1)
        file["diffraction"], file["positions"] = counts, np.zeros((3, 2))
        file["positions"].attrs["units"] = "px"
    with pytest.raises(DataError, match="frame 2 has a count that is negative"):
        write_scan(open_scan(tmp_path / "bad.h5"), tmp_path / "copy.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.h5", "bad.h5"]


LIMITED = """
import resource, sys, numpy as np
from pathlib import Path
from ptycho.data.formats.hdf5 import write_scan
from ptycho.errors import WorkError
from tests.builders import make_scan
scan = make_scan(n=100, N=16)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    write_scan(scan, Path(sys.argv[1]))
except WorkError as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
@pytest.mark.parametrize("limit", [0, 1000, 20_000])
def test_a_disk_that_takes_no_more_leaves_the_old_file_and_no_crash(tmp_path, limit):
    path = tmp_path / "scan.h5"
    path.write_bytes(b"old")
    command = [sys.executable, "-c", LIMITED, str(path), str(limit)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 1, done.stderr
    assert "Cannot write" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["scan.h5"]
    assert path.read_bytes() == b"old"


def test_a_missing_folder_is_a_sentence(tmp_path):
    with pytest.raises(WorkError, match="Cannot write"):
        write_scan(make_scan(n=2), tmp_path / "nowhere" / "scan.h5")


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    class Failing(CountingFrames):
        def read(self, indices):
            if self.touched:
                raise KeyboardInterrupt
            return super().read(indices)

    source = make_scan(n=4)
    with pytest.raises(KeyboardInterrupt):
        write_scan(Scan(**{**vars(source), "frames": Failing(source.frames)}), tmp_path / "s.h5")
    assert list(tmp_path.iterdir()) == []
