"""Writing a scan in a format and reading it again: what the format can hold must come back exactly."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from ptycho.data.convert import WRITERS, convert_scan
from ptycho.data.formats import open_scan
from ptycho.data.formats.cxi_writer import write_cxi
from ptycho.data.formats.ptychodus_writer import write_ptychodus
from ptycho.data.geometry import Geometry
from ptycho.data.scan import ArrayFrames
from ptycho.errors import DataError
from tests.builders import CountingFrames, make_scan
from tests.data.format_samples import SIZE, measured

NAMES = {"ptychopinn": "scan.h5", "cxi": "scan.cxi", "npz": "scan.npz", "ptychodus": "diffraction.h5"}


def complete():
    plain = measured()
    good = np.ones((SIZE, SIZE), bool)
    good[0, 1] = good[9, 4] = False
    guess = (plain.truth.object * 0.5).astype(np.complex64)
    return replace(plain, mask=good, object_start=guess, truth=None)


@pytest.mark.parametrize("layout", WRITERS)
def test_writing_then_reading_is_identity(tmp_path, layout):
    scan = complete()
    path = tmp_path / NAMES[layout]
    WRITERS[layout](scan, path)
    read = open_scan(path)
    every = np.arange(scan.n_positions)
    assert np.array_equal(read.frames.read(every), scan.frames.read(every) * scan.mask)
    assert read.frames.dtype == np.uint16
    assert np.array_equal(read.mask, scan.mask)
    assert np.array_equal(read.probe, scan.probe)
    assert np.array_equal(read.object_start, scan.object_start)
    # An NPZ counts from its object's first pixel; on the object nothing may have moved.
    corners = read.object_grid.corners_px(read.positions_px, SIZE)
    assert np.allclose(corners, scan.object_grid.corners_px(scan.positions_px, SIZE), atol=1e-7)
    assert read.geometry.object_pixel(SIZE) == pytest.approx(scan.geometry.object_pixel(SIZE))
    assert read.geometry.energy_eV == pytest.approx(8000)


@pytest.mark.parametrize("layout", ["cxi", "npz", "ptychodus"])
def test_converting_there_and_back_keeps_positions(tmp_path, layout):
    WRITERS["ptychopinn"](complete(), tmp_path / "scan.h5")
    convert_scan(tmp_path / "scan.h5", tmp_path / NAMES[layout].replace("scan", "other"), layout=layout)
    convert_scan(tmp_path / NAMES[layout].replace("scan", "other"), tmp_path / "back.h5")
    one, other = open_scan(tmp_path / "scan.h5"), open_scan(tmp_path / "back.h5")
    assert np.allclose(np.diff(one.positions_px, axis=0), np.diff(other.positions_px, axis=0), atol=1e-7)


def test_odd_windows_and_rectangular_pixels_keep_their_place(tmp_path):
    plain = make_scan(n=6, N=15, geometry=Geometry(energy_eV=8e3, distance_m=1.0, object_pixel_m=(2e-8, 5e-8)))
    scan = replace(plain, object_start=plain.truth.object)
    for layout in ("cxi", "ptychodus"):
        WRITERS[layout](scan, tmp_path / NAMES[layout])
        read = open_scan(tmp_path / NAMES[layout])
        assert np.allclose(read.positions_px, scan.positions_px)
        assert np.allclose(read.object_grid.origin_px, scan.object_grid.origin_px)


def test_a_cxi_names_the_usual_axes_twice_and_links_as_others_look_for_it(tmp_path):
    write_cxi(complete(), tmp_path / "scan.cxi")
    with h5py.File(tmp_path / "scan.cxi") as file:
        detector = file["entry_1/instrument_1/detector_1"]
        assert detector["basis_vectors"][()] == pytest.approx(np.array([[0, -75e-6], [-75e-6, 0], [0, 0]]))
        assert detector["x_pixel_size"][()] == pytest.approx(75e-6)
        assert file["entry_1/instrument_1/source_1/energy"][()] == pytest.approx(1.2817413e-15)
        for home, name in (("data_1", "data"), ("data_1", "translation"), ("instrument_1/detector_1", "translation")):
            assert isinstance(file[f"entry_1/{home}"].get(name, getlink=True), h5py.SoftLink)
        assert detector["mask"][0, 1] == 1
        assert detector["mask"].dtype == np.uint32


@pytest.mark.parametrize("write", [write_cxi, write_ptychodus])
def test_without_a_geometry_metres_are_refused(tmp_path, write):
    with pytest.raises(DataError, match="does not say energy_eV, distance_m, detector_pixel_m"):
        write(make_scan(n=4), tmp_path / "diffraction.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", WRITERS)
def test_a_bad_frame_leaves_nothing_behind(tmp_path, layout):
    counts = np.ones((12, SIZE, SIZE), np.float32)
    counts[7, 3, 3] = -1
    from ptycho.data.frames import CheckedFrames

    scan = replace(complete(), mask=None, frames=CheckedFrames(ArrayFrames(counts), "x"))
    with pytest.raises(DataError, match="frame 7"):
        WRITERS[layout](scan, tmp_path / NAMES[layout])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", WRITERS)
def test_frames_are_written_block_by_block(tmp_path, layout, monkeypatch):
    monkeypatch.setattr("ptycho.data.frames.BLOCK_BYTES", 4 * SIZE * SIZE * 4)
    scan = complete()
    counting = CountingFrames(scan.frames)
    WRITERS[layout](replace(scan, frames=counting), tmp_path / NAMES[layout])
    assert counting.largest_read == 4


def test_the_pair_for_ptychodus_has_a_fixed_name(tmp_path):
    with pytest.raises(DataError, match='name the file "diffraction'):
        write_ptychodus(complete(), tmp_path / "scan.h5")
