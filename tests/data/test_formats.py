"""Every format, read from a sample of its own: the same measurement must come out of all of them."""

import pickle

import h5py
import numpy as np
import pytest

from ptycho.data.formats import ReadOverrides, format_of, open_scan
from ptycho.data.formats.contents import look_into
from ptycho.data.formats.table import FORMATS
from ptycho.errors import DataError
from tests.data.format_samples import N_FRAMES, PIXEL_M, SAMPLES, SIZE, counts, cxi, eiger, measured, nxcxi

ALL = np.arange(N_FRAMES)


def differences(positions):
    return positions - positions[0]


@pytest.mark.parametrize("name", SAMPLES)
def test_every_format_gives_the_same_measurement(tmp_path, name):
    path, said = SAMPLES[name](tmp_path)
    scan, truth = open_scan(path, said), measured()
    good = np.ones((SIZE, SIZE), bool) if scan.mask is None else scan.mask
    assert good.sum() >= SIZE * (SIZE - 1)
    assert np.array_equal(scan.frames.read(ALL) * good, counts(truth) * good)
    assert np.allclose(differences(scan.positions_px), differences(truth.positions_px), atol=1e-6)
    assert scan.geometry.object_pixel(SIZE) == pytest.approx((PIXEL_M, PIXEL_M))
    assert scan.geometry.energy_eV == pytest.approx(8000)
    if scan.probe is not None:
        assert np.allclose(scan.probe, truth.probe[: len(scan.probe)])
    if scan.object_grid is not None:
        # Wherever the file has its origin, the windows must lie where they lie on the simulated object.
        assert scan.object_grid.shape == truth.grid.shape
        corners = scan.object_grid.corners_px(scan.positions_px, SIZE)
        assert np.allclose(corners, truth.grid.corners_px(truth.positions_px, SIZE), atol=1e-6)
    assert scan.assumptions or name == "ours"


@pytest.mark.parametrize("name", SAMPLES)
def test_frames_are_read_one_by_one_in_any_order_also_after_pickling(tmp_path, name):
    path, said = SAMPLES[name](tmp_path)
    scan = open_scan(path, said)
    whole = scan.frames.read(ALL)
    some = np.array([7, 0, 11, 4, 7])
    assert np.array_equal(pickle.loads(pickle.dumps(scan.frames)).read(some), whole[some])


def test_every_row_of_the_table_has_a_sample(tmp_path):
    found = set()
    for name, make in SAMPLES.items():
        folder = tmp_path / name
        folder.mkdir()
        row = format_of(look_into(make(folder)[0]))
        found.add(row.name if row and name != "keys" else "keys")
    assert {row.name for row in FORMATS} <= found


def test_masks_are_read_bit_by_bit(tmp_path):
    scan = open_scan(*cxi(tmp_path))
    assert np.argwhere(~scan.mask).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("basis", "y", "x"),
    [
        ([[0, -75e-6], [-75e-6, 0], [0, 0]], (0, 1), (1, 1)),
        ([[-75e-6, 0], [0, -75e-6], [0, 0]], (1, 1), (0, 1)),
        ([[0, -75e-6], [75e-6, 0], [0, 0]], (0, -1), (1, 1)),
    ],
)
def test_positions_follow_the_detectors_basis(tmp_path, basis, y, x):
    path, _ = cxi(tmp_path)
    usual = open_scan(path).positions_px
    with h5py.File(path, "r+") as file:
        file["entry_1/instrument_1/detector_1/basis_vectors"] = np.array(basis, float)
    turned = open_scan(path)
    assert np.allclose(turned.positions_px[:, 0], y[1] * usual[:, y[0]])
    assert np.allclose(turned.positions_px[:, 1], x[1] * usual[:, x[0]])
    assert any("basis_vectors" in note for note in turned.assumptions)


def test_a_wavelength_and_a_corner_do_for_energy_and_distance(tmp_path):
    path, _ = cxi(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["entry_1/instrument_1/source_1/energy"], file["entry_1/instrument_1/detector_1/distance"]
        file["entry_1/instrument_1/source_1/wavelength"] = 1.2398419843e-6 / 8000
        file["entry_1/instrument_1/detector_1/corner_position"] = np.array([8 * 75e-6, 8 * 75e-6, 0.75])
    scan = open_scan(path)
    assert scan.geometry.object_pixel(SIZE) == pytest.approx((PIXEL_M, PIXEL_M))


def test_an_energy_that_is_not_joules_is_not_guessed(tmp_path):
    path, _ = cxi(tmp_path)
    with h5py.File(path, "r+") as file:
        file["entry_1/instrument_1/source_1/energy"][...] = 8000.0
    with pytest.raises(DataError, match="CXI energies are joules"):
        open_scan(path)


def test_a_missing_source_of_a_virtual_dataset_is_an_error_and_not_zeros(tmp_path):
    path, said = nxcxi(tmp_path)
    (tmp_path / "raw.h5").rename(tmp_path / "elsewhere.h5")
    with pytest.raises(DataError, match=r"source frames in .*raw\.h5 is missing"):
        open_scan(path, said)


def test_a_missing_data_file_in_the_middle_is_an_error(tmp_path):
    path, said = eiger(tmp_path)
    (tmp_path / "scan_data_000002.h5").unlink()
    with pytest.raises(DataError, match="data_000002 leads to a file that is missing"):
        open_scan(path, said)


def test_gaps_of_an_eiger_are_masked_and_a_wrong_beam_centre_is_not_believed(tmp_path):
    path, said = eiger(tmp_path)
    scan = open_scan(path, said)
    assert (~scan.mask).sum() == SIZE
    assert any("links lead nowhere" in note for note in scan.assumptions)
    with h5py.File(path, "r+") as file:
        file["entry/instrument/detector/beam_center_x"][...] = 3.0
    with pytest.raises(DataError, match=r"the light lies around \(11, 19\)"):
        open_scan(path, said)
    found = open_scan(path, ReadOverrides(positions=said.positions, window_px=SIZE, beam_centre_px="find"))
    assert np.array_equal(found.frames.read(ALL), scan.frames.read(ALL))


def test_frames_that_are_not_square_become_the_largest_square_around_the_beam(tmp_path):
    path, said = eiger(tmp_path)
    scan = open_scan(path, ReadOverrides(positions=said.positions))
    assert scan.frames.shape == (N_FRAMES, 22, 22)
    assert any("cut to 22 × 22 around pixel (11, 19)" in note for note in scan.assumptions)


def test_a_window_beyond_the_detector_is_masked_there(tmp_path):
    path, said = eiger(tmp_path)
    scan = open_scan(path, ReadOverrides(positions=said.positions, window_px=32))
    assert scan.frames.shape == (N_FRAMES, 32, 32)
    assert not scan.mask[:5].any()
    assert not scan.mask[27:].any()
    assert scan.mask[10:20].all()
