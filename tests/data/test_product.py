from pathlib import Path

import h5py
import numpy as np
import pytest

from ptycho.data.formats import open_scan
from ptycho.data.formats.product import Product, read_product, write_product
from ptycho.data.geometry import Geometry
from ptycho.data.grid import ObjectGrid
from ptycho.errors import DataError, WorkError
from tests.builders import make_scan

SAMPLES = Path(__file__).parents[3] / "shared" / "data"


def make_product(N=16, **changes):
    scan = make_scan(n=9, N=N, n_modes=2)
    values = {
        "name": "small",
        "object": scan.truth.object,
        "grid": scan.grid,
        "probe": scan.probe,
        "positions_px": scan.positions_px,
        "geometry": Geometry(energy_eV=8000, distance_m=0.75, object_pixel_m=(4e-8, 5e-8)),
        "losses": np.array([3.0, 2.0]),
        "photons_per_frame": 1e5,
        "comments": "a test",
        "extras": {"coverage": np.ones(scan.grid.shape, np.float32)},
        **changes,
    }
    return Product(**values)


def assert_same(one, other):
    for name in ("name", "comments", "photons_per_frame"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("object", "probe", "losses"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    assert np.allclose(one.positions_px, other.positions_px, rtol=1e-12)
    assert one.grid.shape == other.grid.shape
    assert np.allclose(one.grid.origin_px, other.grid.origin_px, atol=1e-9)
    assert one.extras.keys() == other.extras.keys()


@pytest.mark.parametrize("N", [15, 16])
def test_writing_then_reading_is_identity(tmp_path, N):
    product = make_product(N)
    write_product(product, tmp_path / "result.h5")
    read = read_product(tmp_path / "result.h5")
    assert_same(read, product)
    assert read.geometry == product.geometry
    assert read.indexes.tolist() == list(range(9))


@pytest.mark.parametrize("N", [15, 16])
def test_ptychodus_puts_the_middle_of_the_window_where_we_put_its_pixels(tmp_path, N):
    """Its rule: pixel = (position − centre) / pixel size + (length − 1) / 2, the middle of the window lies there."""
    product = make_product(N)
    write_product(product, tmp_path / "result.h5")
    with h5py.File(tmp_path / "result.h5") as file:
        attributes, width = file["object"].attrs, file["object"].shape[-1]
        x_px = (file["probe_position_x_m"][()] - attributes["center_x_m"]) / attributes["pixel_width_m"]
        first_pixel = x_px + (width - 1) / 2 - (N - 1) / 2
    assert np.allclose(first_pixel, product.grid.corners_px(product.positions_px, N)[:, 1])


def test_everything_that_ptychodus_requires_is_there(tmp_path):
    write_product(make_product(), tmp_path / "result.h5")
    with h5py.File(tmp_path / "result.h5") as file:
        assert {"detector_object_distance_m", "photon_energy_eV", "far_field", "name"} <= set(file.attrs)
        assert file["object"].ndim == 3
        assert file["probe"].ndim == 4
        assert file["object_layer_spacing_m"].shape == (0,)
        assert {"center_x_m", "center_y_m", "pixel_width_m", "pixel_height_m"} <= set(file["object"].attrs)
        assert file["probe_position_indexes"].dtype.kind == "i"
        assert np.allclose(file["probe_position_y_m"][()], make_product().positions_px[:, 0] * 4e-8)


def test_unknown_pixel_size_is_said_and_read_back_as_unknown(tmp_path):
    product = make_product(geometry=Geometry())
    write_product(product, tmp_path / "result.h5")
    with h5py.File(tmp_path / "result.h5") as file:
        assert "lengths are in object pixels" in file.attrs["comments"]
        assert np.allclose(file["probe_position_x_m"][()], product.positions_px[:, 1])
    read = read_product(tmp_path / "result.h5")
    assert read.geometry == Geometry()
    assert np.allclose(read.grid.origin_px, product.grid.origin_px)


def test_layers_and_probe_variation_keep_their_axes(tmp_path):
    layers = np.ones((2, *make_product().grid.shape), complex)
    varying = np.ones((3, 2, 16, 16), np.complex64)
    write_product(make_product(object=layers, probe=varying), tmp_path / "result.h5")
    read = read_product(tmp_path / "result.h5")
    assert read.object.shape == layers.shape
    assert read.probe.shape == varying.shape


def test_older_names_are_read(tmp_path):
    write_product(make_product(), tmp_path / "result.h5")
    with h5py.File(tmp_path / "result.h5", "r+") as file:
        file.attrs["probe_energy_eV"] = file.attrs["photon_energy_eV"]
        del file.attrs["photon_energy_eV"]
        file.move("loss_values", "costs")
        del file["loss_epochs"]
    read = read_product(tmp_path / "result.h5")
    assert read.geometry.energy_eV == 8000
    assert read.losses.tolist() == [3.0, 2.0]


@pytest.mark.parametrize("name", ["object", "probe", "probe_position_y_m"])
def test_a_missing_array_is_named(tmp_path, name):
    write_product(make_product(), tmp_path / "result.h5")
    with h5py.File(tmp_path / "result.h5", "r+") as file:
        del file[name]
    with pytest.raises(DataError, match=f"lacks {name}"):
        read_product(tmp_path / "result.h5")


def test_other_and_damaged_files_are_one_sentence(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_product(tmp_path / "nothing.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(DataError, match="neither an HDF5 file"):
        read_product(tmp_path / "text.h5")


def test_a_product_given_as_a_scan_says_what_is_missing(tmp_path):
    write_product(make_product(), tmp_path / "result.h5")
    with pytest.raises(DataError, match="no diffraction frames"):
        open_scan(tmp_path / "result.h5")


def test_a_folder_that_does_not_exist_is_a_sentence(tmp_path):
    with pytest.raises(WorkError, match="Cannot write"):
        write_product(make_product(), tmp_path / "nowhere" / "result.h5")


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="samples are not here")
@pytest.mark.parametrize(
    ("path", "shape", "energy"),
    [
        ("ptychodus/product_simple.h5", (56, 59), 8000),
        ("ptychodus/product_hard.h5", (2, 56, 59), 8000),
        ("real/tungsten_product_no_patterns.hdf5", (415, 415), 10000),
    ],
)
def test_products_written_by_ptychodus_are_read(path, shape, energy):
    product = read_product(SAMPLES / path)
    assert product.object.shape == shape
    assert product.geometry.energy_eV == energy


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="samples are not here")
def test_a_product_of_ptychodus_and_its_npz_agree_on_where_windows_lie():
    product = read_product(SAMPLES / "ptychodus/product_simple.h5")
    scan = open_scan(SAMPLES / "ptychodus/train_data_ptychopinn.npz")
    ours = product.grid.corners_px(product.positions_px, 32)
    assert np.allclose(ours, ObjectGrid(shape=(56, 59)).corners_px(scan.positions_px, 32))
