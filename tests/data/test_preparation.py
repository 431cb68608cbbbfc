import h5py
import numpy as np
import pytest

from ptycho.data.geometry import Geometry
from ptycho.data.grid import ObjectGrid
from ptycho.data.preparation import coarser_grid, crop_probe, prepare, resample
from ptycho.data.scan import ArrayFrames, Scan
from ptycho.errors import DataError
from tests.builders import CountingFrames, bilinear_patch, far_field_counts, make_scan, smooth_object, spot_probe


def centre(pattern, size):
    start = pattern.shape[-1] // 2 - size // 2
    return pattern[..., start : start + size, start : start + size]


@pytest.mark.parametrize(("size", "crop"), [(16, 8), (16, 10), (15, 8)])
def test_the_cropped_probe_gives_the_cropped_pattern_of_empty_space(size, crop):
    probe = spot_probe(size, n_modes=2)
    whole = far_field_counts(probe, np.ones((1, size, size)))
    small = far_field_counts(crop_probe(probe, crop), np.ones((1, crop, crop)))
    assert np.allclose(small, centre(whole, crop), rtol=1e-4, atol=1e-5 * whole.max())


def test_a_cropped_scan_is_the_scan_of_a_coarser_object():
    scan = prepare(make_scan(n=9, N=48, noise=False, seed=3), crop_px=24)
    truth = scan.truth
    patches = [bilinear_patch(truth.object, corner, 24) for corner in truth.grid.corners_px(scan.positions_px, 24)]
    expected = far_field_counts(scan.probe, np.stack(patches))
    counts = scan.frames.read(np.arange(9))
    error = np.abs(np.sqrt(expected) - np.sqrt(counts)).sum() / np.sqrt(counts).sum()
    flat = far_field_counts(scan.probe, np.ones((9, 24, 24)))
    assert error < 0.03
    assert error < 0.2 * np.abs(np.sqrt(flat) - np.sqrt(counts)).sum() / np.sqrt(counts).sum()


def test_positions_probe_mask_grid_and_pixel_follow_the_crop():
    mask = np.ones((16, 16), bool)
    mask[8, 8] = False
    plain = make_scan(n=9, geometry=Geometry(object_pixel_m=(1e-8, 2e-8)))
    scan = prepare(Scan(**{**vars(plain), "mask": mask}), crop_px=8)
    assert np.allclose(scan.positions_px, plain.positions_px / 2)
    assert scan.frames.shape == (9, 8, 8)
    assert scan.probe.shape == (1, 8, 8)
    assert not scan.mask[4, 4]
    assert scan.mask.sum() == 63
    assert scan.geometry.object_pixel(8) == pytest.approx((2e-8, 4e-8))
    assert scan.grid == scan.truth.grid
    assert scan.grid.holds(scan.positions_px, 8)
    assert any("cropped from 16 to 8" in note for note in scan.assumptions)


def test_a_first_guess_is_resampled_with_its_grid():
    plain = make_scan(n=9)
    guess = np.full(plain.object_grid.shape, 0.5 + 0.5j, np.complex64)
    scan = prepare(Scan(**{**vars(plain), "object_start": guess}), crop_px=8)
    assert scan.object_start.shape == scan.object_grid.shape
    assert np.allclose(scan.object_start, 0.5 + 0.5j, atol=1e-5)


@pytest.mark.parametrize(("crop", "size"), [(8, 16), (4, 16), (10, 16), (6, 15)])
def test_resampling_keeps_where_things_are(crop, size):
    image = smooth_object((61, 47), np.random.default_rng(1), width=5)
    small = resample(image, crop, size)
    grid = coarser_grid(ObjectGrid(shape=image.shape), crop, size)
    assert small.shape == grid.shape
    ratio = size / crop
    inside = [(y, x) for y in range(3, int(55 / ratio)) for x in range(3, int(40 / ratio))]
    for y, x in inside:
        assert abs(bilinear_patch(image, np.array([y, x]) * ratio, 1)[0, 0] - small[y, x]) < 0.02


def test_cropping_reads_only_the_frames_that_are_asked_for():
    plain = make_scan(n=16)
    counting = CountingFrames(plain.frames)
    scan = prepare(Scan(**{**vars(plain), "frames": counting}), crop_px=8)
    assert counting.touched == set()
    scan.frames.read(np.array([3, 5]))
    assert counting.touched == {3, 5}


def test_no_request_changes_nothing():
    scan = make_scan(n=4)
    assert prepare(scan) is scan
    assert prepare(scan, crop_px=16) is scan


@pytest.mark.parametrize("crop_px", [0, -2, 7, 18])
def test_an_impossible_crop_says_what_is_possible(crop_px):
    with pytest.raises(DataError, match="even number from 2 to 16"):
        prepare(make_scan(n=4), crop_px=crop_px)


@pytest.mark.parametrize("ending", ["npy", "h5"])
def test_a_mask_file_is_added_to_the_scans_own_mask(tmp_path, ending):
    own, further = np.ones((16, 16), bool), np.ones((16, 16), bool)
    own[0, 0] = further[3, 4] = False
    path = tmp_path / f"mask.{ending}"
    if ending == "npy":
        np.save(path, further)
    else:
        with h5py.File(path, "w") as file:
            file["mask"] = further
    scan = prepare(Scan(**{**vars(make_scan(n=4)), "mask": own}), mask_path=path)
    assert np.argwhere(~scan.mask).tolist() == [[0, 0], [3, 4]]
    assert (scan.frames.read(np.arange(4))[:, 3, 4] == 0).all()


def test_masking_a_broken_pixel_repairs_the_scan(tmp_path):
    counts = np.ones((4, 16, 16), np.float32)
    counts[:, 5, 5] = np.nan
    good = ~np.isnan(counts[0])
    np.save(tmp_path / "mask.npy", good)
    scan = Scan(**{**vars(make_scan(n=4)), "frames": ArrayFrames(counts)})
    assert prepare(scan, mask_path=tmp_path / "mask.npy").frames.read(np.arange(4)).sum() == 4 * 255


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.ones((8, 8), bool), "shape"),
        (np.ones((16, 16)), "type float64"),
        (np.zeros((16, 16), bool), "every pixel is masked"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(tmp_path, values, words):
    np.save(tmp_path / "mask.npy", values)
    with pytest.raises(DataError, match=words):
        prepare(make_scan(n=4), mask_path=tmp_path / "mask.npy")


def test_a_missing_mask_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.npy cannot be read"):
        prepare(make_scan(n=4), mask_path=tmp_path / "nothing.npy")


def test_saturated_pixels_are_masked_and_said():
    counts = np.ones((4, 16, 16), np.uint16)
    counts[2, 1, 1] = 1000
    scan = Scan(**{**vars(make_scan(n=4)), "frames": ArrayFrames(counts)})
    prepared = prepare(scan, saturation_counts=1000)
    assert np.argwhere(~prepared.mask).tolist() == [[1, 1]]
    assert any(note.startswith("1 pixels that reach 1000") for note in prepared.assumptions)
