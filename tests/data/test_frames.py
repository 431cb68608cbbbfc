import numpy as np
import pytest

from ptycho.data import frames as frames_module
from ptycho.data.frames import (
    CentredFrames,
    CheckedFrames,
    CroppedFrames,
    SquaredFrames,
    check_frames,
    sample_indices,
    saturated_pixels,
)
from ptycho.data.scan import ArrayFrames, Scan
from ptycho.errors import DataError
from tests.builders import CountingFrames, make_scan


def scan_of(counts, mask=None):
    frames = CheckedFrames(ArrayFrames(counts), "some.h5", mask)
    return Scan(name="s", path=None, frames=frames, positions_px=np.zeros((len(counts), 2)), mask=mask)


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "not finite"), (np.inf, "not finite"), (-np.inf, "not finite"), (-2.0, "negative")]
)
def test_an_impossible_count_is_named_with_file_frame_and_pixel(value, words):
    counts = np.ones((5, 4, 4), np.float32)
    counts[3, 1, 2] = value
    with pytest.raises(DataError, match=rf"some.h5: frame 3 .*{words}.*pixel \(1, 2\)"):
        check_frames(scan_of(counts))


def test_frames_without_the_fault_can_still_be_read():
    counts = np.ones((5, 4, 4), np.float32)
    counts[3, 1, 2] = np.nan
    assert scan_of(counts).frames.read(np.array([0, 4])).sum() == 32


def test_the_frame_number_in_a_message_is_that_of_the_scan():
    counts = np.ones((5, 4, 4), np.int32)
    counts[4, 0, 0] = -1
    with pytest.raises(DataError, match="frame 4 "):
        scan_of(counts).frames.read(np.array([2, 4, 1]))


def test_bad_pixels_read_as_zero_whatever_they_hold():
    mask = np.ones((4, 4), bool)
    mask[1, 2] = False
    counts = np.ones((5, 4, 4), np.float32)
    counts[:, 1, 2] = [np.nan, -1, np.inf, 4e9, 7]
    read = scan_of(counts, mask).frames.read(np.arange(5))
    assert (read[:, 1, 2] == 0).all()
    assert read.sum() == 5 * 15


def test_summary_counts_what_is_there():
    counts = np.zeros((3, 4, 4), np.uint16)
    counts[0, 0, 0], counts[2] = 300, 2
    summary = check_frames(scan_of(counts))
    assert (summary.n_frames, summary.largest, summary.whole, summary.n_empty) == (3, 300, True, 1)
    assert summary.mean_photons == pytest.approx((300 + 32) / 3)


def test_summary_notices_fractions():
    assert not check_frames(scan_of(np.full((2, 4, 4), 1.5, np.float32))).whole


def test_checking_streams_in_blocks(monkeypatch):
    monkeypatch.setattr(frames_module, "BLOCK_BYTES", 2 * 16 * 16 * 4)
    scan = make_scan(n=9)
    counting = CountingFrames(scan.frames)
    check_frames(Scan(name="s", path=None, frames=counting, positions_px=scan.positions_px))
    assert counting.touched == set(range(9))
    assert counting.largest_read == 2


@pytest.mark.parametrize(("size", "cropped"), [(8, 4), (9, 4), (8, 5), (9, 5), (7, 7)])
def test_a_crop_keeps_zero_frequency_at_its_middle_index(size, cropped):
    counts = np.zeros((1, size, size))
    counts[0, size // 2, size // 2] = 1
    read = CroppedFrames(ArrayFrames(counts), cropped).read(np.array([0]))
    assert read.shape == (1, cropped, cropped)
    assert read[0, cropped // 2, cropped // 2] == 1


@pytest.mark.parametrize("size", [4, 5])
def test_centring_moves_the_first_pixel_to_the_middle_index(size):
    counts = np.zeros((1, size, size))
    counts[0, 0, 0] = 1
    assert CentredFrames(ArrayFrames(counts)).read(np.array([0]))[0, size // 2, size // 2] == 1


def test_squaring_roots_of_whole_counts_is_exact():
    counts = np.arange(40_000, dtype=np.float64).reshape(1, 200, 200) * 9
    roots = ArrayFrames(np.sqrt(counts).astype(np.float32))
    assert np.array_equal(SquaredFrames(roots, whole=True).read(np.array([0])), counts)
    assert not np.array_equal(SquaredFrames(roots).read(np.array([0])), counts)


def test_a_negative_amplitude_is_not_hidden_by_its_square():
    frames = CheckedFrames(SquaredFrames(ArrayFrames(np.full((1, 2, 2), -0.5, np.float32))), "a.npz")
    with pytest.raises(DataError, match="negative"):
        frames.read(np.array([0]))


def test_a_sample_holds_first_and_last_and_no_frame_twice():
    assert sample_indices(1000, 16)[[0, -1]].tolist() == [0, 999]
    assert sample_indices(3, 16).tolist() == [0, 1, 2]


def test_saturated_pixels_are_those_that_reach_the_limit_once():
    counts = np.zeros((3, 2, 2), np.uint16)
    counts[1, 0, 1] = 10
    assert saturated_pixels(ArrayFrames(counts), 10).tolist() == [[False, True], [False, False]]
