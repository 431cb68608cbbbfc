"""Real scans and files that other programs wrote, where they are at hand beside the checkout."""

from pathlib import Path

import numpy as np
import pytest

from ptycho.data.convert import convert_scan
from ptycho.data.formats import ReadOverrides, open_scan
from ptycho.data.formats.product import read_product, write_product
from ptycho.data.formats.start import read_start

SAMPLES = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="samples are not here")
PTYCHODUS, REAL = SAMPLES / "ptychodus", SAMPLES / "real"
STATED = {"energy_eV": 8000.0, "distance_m": 0.75, "detector_pixel_m": (75e-6, 75e-6)}
PIXEL_M = 4.843132751296886e-08


def truth_px():
    with np.load(PTYCHODUS / "truth_sim.npz") as truth:
        return np.stack([truth["y_px"], truth["x_px"]], axis=1)


@pytest.mark.parametrize("positions", ["product_simple.h5", "product_simple.npz", "product_simple.cxi", "positions.csv",
                                       "positions.txt"])  # fmt: skip
@pytest.mark.parametrize("name", ["diffraction.h5", "diffraction.npz", "diffraction.npy", "diffraction.cxi",
                                  "diffraction_fold_slice_dp.hdf5"])  # fmt: skip
def test_ptychodus_frames_with_positions_from_any_of_its_files(name, positions):
    scan = open_scan(PTYCHODUS / name, ReadOverrides(positions=PTYCHODUS / positions, **STATED))
    assert scan.frames.shape == (56, 32, 32)
    assert scan.geometry.object_pixel(32) == pytest.approx((PIXEL_M, PIXEL_M))
    assert np.allclose(np.diff(scan.positions_px, axis=0), np.diff(truth_px(), axis=0), atol=1e-4)
    assert np.array_equal(scan.frames.read(np.arange(56)), np.load(PTYCHODUS / "diffraction.npy") * _good(scan))


def _good(scan):
    return np.ones((32, 32), bool) if scan.mask is None else scan.mask


@pytest.mark.parametrize("name", ["combined.cxi", "training_data.h5", "train_data_ptychopinn.npz"])
def test_complete_files_put_windows_where_the_simulation_had_them(name):
    scan = open_scan(PTYCHODUS / name)
    corners = scan.object_grid.corners_px(scan.positions_px, 32)
    assert scan.object_grid.shape == (56, 59)
    expected = read_product(PTYCHODUS / "product_simple.h5")
    assert np.allclose(corners, expected.grid.corners_px(expected.positions_px, 32), atol=1e-5)


@pytest.mark.parametrize("name", ["product_simple", "product_hard"])
@pytest.mark.parametrize("ending", ["h5", "npz"])
def test_a_product_read_and_written_is_the_same_product(tmp_path, name, ending):
    one = read_product(PTYCHODUS / f"{name}.{ending}")
    write_product(one, tmp_path / "product.h5")
    other = read_product(tmp_path / "product.h5")
    for field in ("object", "probe", "indexes", "losses", "loss_epochs", "layer_spacing_m"):
        assert np.array_equal(getattr(one, field), getattr(other, field)), field
    assert np.allclose(one.positions_px, other.positions_px, rtol=1e-12)
    assert one.grid.origin_px == pytest.approx(other.grid.origin_px, abs=1e-8)
    assert (one.name, one.comments, one.metadata, one.geometry) == (
        other.name, other.comments, other.metadata, other.geometry,
    )  # fmt: skip
    assert {key: values.tolist() for key, values in one.extras.items()} == {
        key: values.tolist() for key, values in other.extras.items()
    }


def test_a_near_field_scan_has_its_geometry_in_metres():
    scan = open_scan(REAL / "petra_p25_near_field.cxi", ReadOverrides(focus_distance_m=3.65e-3))
    assert scan.frames.shape == (200, 100, 100)
    assert scan.geometry.energy_eV == pytest.approx(12658, rel=1e-4)
    assert scan.geometry.distance_m == pytest.approx(1.12)
    assert scan.geometry.detector_pixel_m == pytest.approx((55e-6, 55e-6))
    assert scan.geometry.magnification == pytest.approx(1.12365 / 3.65e-3)
    pixel = 55e-6 * 3.65e-3 / 1.12365
    assert scan.geometry.object_pixel(100) == pytest.approx((pixel, pixel))
    extent_m = np.ptp(scan.positions_px, axis=0) * pixel
    assert extent_m == pytest.approx([47.802037e-6 - 28.754926e-6, 62.815045e-6 - 42.657408e-6], rel=1e-5)
    assert (~scan.mask).sum() == 5


@pytest.mark.parametrize(
    ("name", "probe", "image", "pixel_m"),
    [
        ("real/ptypy_moonflower.ptyr", (1, 128, 128), (402, 416), 6.35820101e-08),
        ("real/tungsten_product_no_patterns.hdf5", (2, 256, 256), (415, 415), 8e-9),
        ("ptychodus/product_simple.npz", (2, 32, 32), (56, 59), PIXEL_M),
        ("ptychodus/product_simple.cxi", (2, 32, 32), (56, 59), PIXEL_M),
    ],
)
def test_reconstructions_offer_probe_and_object(name, probe, image, pixel_m):
    start = read_start(SAMPLES / name)
    assert start.probe.shape == probe
    assert start.object.shape == image
    assert start.geometry.object_pixel_m == pytest.approx((pixel_m, pixel_m))
    # Every window of its positions lies on its object; the tungsten file has a flat object that is too small.
    assert "tungsten" in name or start.grid.holds(start.positions_px, probe[-1])


def test_a_product_is_placed_as_start_of_its_scan_wherever_that_counts_from():
    said = ReadOverrides(start=PTYCHODUS / "product_simple.h5")
    scan, product = open_scan(PTYCHODUS / "train_data_ptychopinn.npz", said), read_product(said.start)
    assert np.array_equal(scan.object_start, product.object)
    ours = scan.object_grid.corners_px(scan.positions_px, 32)
    assert np.allclose(ours, product.grid.corners_px(product.positions_px, 32), atol=1e-5)


@pytest.mark.parametrize("name", ["aps_siemens_star.npz.bz2", "cnm_position_error.npz", "petra_p25_near_field.cxi"])
@pytest.mark.slow
def test_real_scans_become_our_layout_unchanged(tmp_path, name):
    convert_scan(REAL / name, tmp_path / "scan.h5")
    one, other = open_scan(REAL / name), open_scan(tmp_path / "scan.h5")
    some = np.arange(0, one.n_positions, 37)
    assert np.array_equal(one.frames.read(some), other.frames.read(some))
    assert np.array_equal(one.positions_px, other.positions_px)
