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


def test_binning_sums_counts_keeps_the_object_pixel_and_masks_bins_with_a_bad_pixel():
    geometry = Geometry(energy_eV=8e3, distance_m=1.0, detector_pixel_m=(1e-5, 1e-5))
    plain = make_scan(n=4, N=32, geometry=geometry)
    mask = np.ones((32, 32), bool)
    mask[4, 7] = False
    scan = prepare(Scan(**{**vars(plain), "mask": mask}), bin_px=2)
    counts, whole = scan.frames.read(np.arange(4)), plain.frames.read(np.arange(4)) * mask
    assert counts.shape == (4, 16, 16)
    assert counts.sum() == whole.sum()
    assert counts[1, 8, 8] == whole[1, 16:18, 16:18].sum()
    assert np.argwhere(~scan.mask).tolist() == [[2, 3]]
    assert scan.geometry.object_pixel(16) == pytest.approx(geometry.object_pixel(32))
    assert np.array_equal(scan.positions_px, plain.positions_px)
    assert np.array_equal(scan.probe, centre(plain.probe, 16))


def test_binned_whole_counts_do_not_run_over():
    counts = np.full((1, 32, 32), 2**16 - 1, np.uint16)
    scan = Scan(**{**vars(make_scan(n=1, N=32)), "frames": ArrayFrames(counts)})
    assert prepare(scan, bin_px=2).frames.read(np.array([0])).max() == 4 * (2**16 - 1)


@pytest.mark.parametrize("bin_px", [3, 4])
def test_an_impossible_bin_says_what_is_possible(bin_px):
    with pytest.raises(DataError, match=f"16 / {bin_px} must be an even number of at least 8"):
        prepare(make_scan(n=4), bin_px=bin_px)


def test_padding_is_undone_by_cropping_and_masks_what_was_not_measured():
    plain = make_scan(n=4, geometry=Geometry(object_pixel_m=(2e-8, 2e-8)))
    padded = prepare(plain, pad_px=24)
    assert padded.mask.sum() == 16 * 16
    assert padded.geometry.object_pixel(24)[0] == pytest.approx(2e-8 * 16 / 24)
    back = prepare(padded, crop_px=16)
    assert np.array_equal(back.frames.read(np.arange(4)), plain.frames.read(np.arange(4)))
    assert np.allclose(back.positions_px, plain.positions_px)
    assert np.allclose(back.probe, plain.probe, atol=1e-4 * np.abs(plain.probe).max())


def test_the_padded_probe_gives_the_same_pattern_in_the_middle():
    probe = spot_probe(16, n_modes=2)
    whole = far_field_counts(crop_probe(probe, 24), np.ones((1, 24, 24)))
    assert np.allclose(centre(whole, 16), far_field_counts(probe, np.ones((1, 16, 16))), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ending", ["npy", "h5"])
def test_the_dark_signal_is_taken_off_and_nothing_falls_below_zero(tmp_path, ending):
    counts = np.full((4, 16, 16), 10, np.uint16)
    dark = np.full((16, 16), 3.0, np.float32)
    dark[2, 2] = 25
    path = tmp_path / f"dark.{ending}"
    if ending == "npy":
        np.save(path, np.stack([dark - 1, dark + 1]))
    else:
        with h5py.File(path, "w") as file:
            file["dark"] = dark
    scan = prepare(Scan(**{**vars(make_scan(n=4)), "frames": ArrayFrames(counts)}), dark_path=path)
    seen = scan.frames.read(np.arange(4))
    assert seen.dtype == np.uint16
    assert seen[0, 2, 2] == 0
    assert set(np.delete(seen[0].ravel(), 2 * 16 + 2)) == {7}


def test_counts_below_the_threshold_read_as_none():
    counts = np.arange(256, dtype=np.uint16).reshape(1, 16, 16)
    scan = prepare(Scan(**{**vars(make_scan(n=1)), "frames": ArrayFrames(counts)}), threshold_counts=10)
    seen = scan.frames.read(np.array([0])).ravel()
    assert not seen[:10].any()
    assert np.array_equal(seen[10:], np.arange(10, 256))


def test_masks_and_darks_of_the_whole_detector_follow_the_window(tmp_path):
    from ptycho.data.formats import open_scan
    from tests.data.format_samples import eiger

    path, said = eiger(tmp_path)
    good, dark = np.ones((22, 36), bool), np.zeros((22, 36), np.float32)
    good[11, 19] = False
    dark[12, 19] = 7
    np.save(tmp_path / "good.npy", good)
    np.save(tmp_path / "dark.npy", dark)
    plain = open_scan(path, said)
    scan = prepare(plain, mask_path=tmp_path / "good.npy", dark_path=tmp_path / "dark.npy")
    assert not scan.mask[8, 8]
    before, after = (known.frames.read(np.arange(12)).astype(int) for known in (plain, scan))
    assert np.array_equal(after[:, 9, 8], np.maximum(before[:, 9, 8] - 7, 0))
    assert (after[:, 8, 8] == 0).all()


def test_preparing_reads_only_the_frames_that_are_asked_for(tmp_path):
    np.save(tmp_path / "dark.npy", np.ones((32, 32)))
    plain = make_scan(n=16, N=32)
    counting = CountingFrames(plain.frames)
    scan = prepare(
        Scan(**{**vars(plain), "frames": counting}),
        dark_path=tmp_path / "dark.npy",
        threshold_counts=2,
        bin_px=2,
        crop_px=8,
        pad_px=12,
    )
    assert counting.touched == set()
    assert scan.frames.read(np.array([3, 5])).shape == (2, 12, 12)
    assert counting.touched == {3, 5}


def test_a_near_field_scan_is_not_cropped_as_if_it_were_far():
    near = Geometry(energy_eV=8e3, distance_m=1.0, detector_pixel_m=(1e-5, 1e-5), focus_distance_m=1e-2)
    for request in ({"crop_px": 8}, {"pad_px": 24}, {"bin_px": 2}):
        with pytest.raises(DataError, match="near-field"):
            prepare(make_scan(n=4, N=32 if "bin_px" in request else 16, geometry=near), **request)


def test_the_dark_signal_of_a_cxi_file_is_taken_off_unless_another_is_named(tmp_path):
    from ptycho.data.formats import open_scan
    from tests.data.format_samples import cxi, nxcxi

    path, said = cxi(tmp_path)
    plain = open_scan(path, said).frames.read(np.arange(12)).astype(int)
    with h5py.File(path, "r+") as file:
        file["entry_1/instrument_1/detector_1/data_dark"] = np.full((3, 16, 16), [[[1]], [[2]], [[3]]], np.uint16)
    np.save(tmp_path / "dark.npy", np.full((16, 16), 5))
    for dark_path, level, told in ((None, 2, "own file records was taken off"), (tmp_path / "dark.npy", 5, "and not")):
        scan = prepare(open_scan(path, said), dark_path=dark_path)
        assert np.array_equal(scan.frames.read(np.arange(12)), np.maximum(plain - level, 0) * scan.mask)
        assert told in scan.assumptions[-1]

    # On the detector, of which the frames are a window.
    path, said = nxcxi(tmp_path)
    plain = open_scan(path, said).frames.read(np.arange(12)).astype(int)
    dark = np.zeros((24, 28))
    dark[10, 13], dark[0, 0] = 7, np.nan
    with h5py.File(path, "r+") as file:
        file["entry_1/instrument_1/detector_1/data_dark"] = dark
    taken = plain - prepare(open_scan(path, said)).frames.read(np.arange(12))
    assert np.array_equal(taken[:, 8, 8], np.minimum(plain[:, 8, 8], 7))
    assert taken.sum() == taken[:, 8, 8].sum()
