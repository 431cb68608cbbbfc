import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho.data.grid import ObjectGrid
from ptycho.data.image import ObjectImage, read_image, write_image
from ptycho.data.scan import Scan
from ptycho.data.subset import subset
from ptycho.errors import DataError, WorkError
from tests.builders import CountingFrames, make_scan


def changed(scan, **changes):
    return Scan(**{**vars(scan), **changes})


@given(st.integers(1, 20), st.integers(1, 33), st.integers(0, 99))
def test_the_covering_grid_holds_every_window(n, window, seed):
    positions = np.random.default_rng(seed).normal(size=(n, 2)) * 50
    grid = ObjectGrid.covering(positions, window)
    assert grid.holds(positions, window)
    corners = grid.corners_px(positions, window)
    assert corners.min() >= 1
    assert (np.ceil(corners).max(axis=0) + window <= np.array(grid.shape)).all()


def test_a_window_that_leaves_the_grid_is_not_held():
    grid = ObjectGrid(shape=(20, 20))
    assert grid.holds(np.array([[8.0, 12.0]]), 16)
    assert not grid.holds(np.array([[7.9, 12.0]]), 16)
    assert not grid.holds(np.array([[8.0, 12.1]]), 16)


def test_a_files_own_grid_is_used_only_when_it_holds_every_window():
    scan = make_scan(n=4)
    assert scan.grid is scan.object_grid
    small = ObjectGrid(shape=(10, 10))
    assert changed(scan, object_grid=small).grid == ObjectGrid.covering(scan.positions_px, 16)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"positions_px": np.zeros((3, 2))}, "4 frames but positions"),
        ({"positions_px": np.full((4, 2), np.inf)}, "position 0 is not a finite number"),
        ({"probe": np.zeros((1, 16, 16), np.complex64)}, "all zero"),
        ({"mask": np.ones((16, 15), bool)}, "mask of shape"),
        ({"object_start": np.ones((3, 3), np.complex64)}, "first guess of the object has shape"),
    ],
)
def test_a_scan_that_does_not_fit_together_cannot_be_made(changes, words):
    with pytest.raises(DataError, match=words):
        changed(make_scan(n=4), **changes)


def test_every_fault_is_named_at_once():
    with pytest.raises(DataError, match=r"positions of shape.*; probe of shape"):
        changed(make_scan(n=4), positions_px=np.zeros((3, 2)), probe=np.ones((1, 8, 8), np.complex64))


def test_the_builder_makes_what_its_truth_predicts():
    noisy, exact = make_scan(n=9, photons=1e6), make_scan(n=9, photons=1e6, noise=False)
    counts, expected = (scan.frames.read(np.arange(9)).astype(float) for scan in (noisy, exact))
    assert expected.sum(axis=(1, 2)).mean() == pytest.approx(1e6, rel=1e-4)
    lit = expected > 10
    assert np.mean((counts - expected)[lit] ** 2 / expected[lit]) == pytest.approx(1, abs=0.15)


def test_a_part_reads_only_its_own_frames_and_keeps_the_grid():
    whole = make_scan(n=9)
    counting = CountingFrames(whole.frames)
    part = subset(changed(whole, frames=counting), np.array([7, 2, 5]))
    assert np.array_equal(part.frames.read(np.array([0, 2])), whole.frames.read(np.array([7, 5])))
    assert counting.touched == {7, 5}
    assert np.array_equal(part.positions_px, whole.positions_px[[7, 2, 5]])
    assert part.grid == whole.grid


def make_image():
    rng = np.random.default_rng(0)
    return ObjectImage(
        object=(rng.normal(size=(5, 6)) + 1j).astype(np.complex64),
        coverage=rng.random((5, 6), np.float32),
        grid=ObjectGrid(shape=(5, 6), origin_px=(-1.5, 2.0)),
        probe=np.ones((2, 4, 4), np.complex64),
        per_frame={"confidence": np.arange(3, dtype=np.float32)},
    )


def test_an_image_comes_back_as_it_was_written(tmp_path):
    image = make_image()
    write_image(image, tmp_path / "image.h5")
    read = read_image(tmp_path / "image.h5")
    assert read.grid == image.grid
    for name in ("object", "coverage", "probe"):
        assert np.array_equal(getattr(read, name), getattr(image, name))
    assert np.array_equal(read.per_frame["confidence"], image.per_frame["confidence"])


def test_an_image_that_is_missing_or_cannot_be_written_is_a_sentence(tmp_path):
    with pytest.raises(DataError, match="no object image"):
        read_image(tmp_path / "image.h5")
    with pytest.raises(WorkError, match="Cannot write"):
        write_image(make_image(), tmp_path / "nowhere" / "image.h5")
