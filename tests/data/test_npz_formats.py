import bz2
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ptycho.data.formats import ReadOverrides, npz_archive, open_scan
from ptycho.data.formats.npz_archive import NpzArchive, NpzFrames
from ptycho.data.frames import check_frames
from ptycho.data.scan import Scan
from ptycho.errors import DataError
from tests.builders import make_scan, write_older_npz

SAMPLES = Path(__file__).parents[3] / "shared" / "data"


def all_frames(scan):
    return scan.frames.read(np.arange(scan.n_positions))


def note(scan, words):
    return any(words in sentence for sentence in scan.assumptions)


@pytest.mark.parametrize("compressed", [True, False])
def test_amplitudes_of_whole_counts_come_back_as_the_counts(tmp_path, compressed):
    source = make_scan(n=9)
    scan = open_scan(write_older_npz(tmp_path / "a.npz", source, compressed=compressed))
    assert np.array_equal(all_frames(scan), all_frames(source))
    assert note(scan, "their squares are whole numbers")


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_counts_stay_counts(tmp_path, dtype):
    source = make_scan(n=9)
    counts = all_frames(source).astype(dtype)
    scan = open_scan(write_older_npz(tmp_path / "a.npz", source, diff3d=counts))
    assert np.array_equal(all_frames(scan), counts)
    assert note(scan, "Frames are counts")


def test_positions_are_turned_to_rows_and_columns_of_the_files_own_object(tmp_path):
    source = make_scan(n=9)
    scan = open_scan(write_older_npz(tmp_path / "a.npz", source))
    assert np.allclose(scan.positions_px, source.positions_px - np.array(source.grid.origin_px))
    assert scan.grid.shape == source.grid.shape
    assert scan.grid.origin_px == (0.0, 0.0)
    assert scan.object_start.shape == source.grid.shape
    assert scan.probe.shape == (1, 16, 16)


def test_positions_of_ptychodus_are_moved_by_half_a_pixel(tmp_path):
    source = make_scan(n=9)
    bad = np.zeros((16, 16), bool)
    bad[0, 3] = True
    older = open_scan(write_older_npz(tmp_path / "a.npz", source))
    newer = open_scan(write_older_npz(tmp_path / "b.npz", source, amplitude=False, bad_pixels=bad))
    assert np.allclose(newer.positions_px - older.positions_px, 0.5)
    assert note(newer, "written by ptychodus")
    assert np.argwhere(~newer.mask).tolist() == [[0, 3]]


def test_earlier_ptychodus_files_are_told_by_repeated_positions_and_whole_frames(tmp_path):
    source = make_scan(n=9)
    older = open_scan(write_older_npz(tmp_path / "a.npz", source))
    repeated = {"xcoords_start": older.positions_px[:, 1], "ycoords_start": older.positions_px[:, 0]}
    scan = open_scan(
        write_older_npz(tmp_path / "b.npz", source, amplitude=False, scan_index=np.zeros(9, int), **repeated)
    )
    assert note(scan, "written by ptychodus")


def test_an_odd_window_needs_no_half_pixel(tmp_path):
    source = make_scan(n=9, N=15)
    scan = open_scan(write_older_npz(tmp_path / "b.npz", source, amplitude=False, bad_pixels=np.zeros((15, 15), bool)))
    assert np.allclose(scan.positions_px, source.positions_px - np.array(source.grid.origin_px))


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("key", ["diff3d", "diffraction"])
def test_the_position_may_be_the_last_axis(tmp_path, key, compressed):
    source = make_scan(n=9)
    counts = np.moveaxis(all_frames(source), 0, -1).copy()
    arrays = {"diff3d": None, key: counts}
    scan = open_scan(write_older_npz(tmp_path / "a.npz", source, compressed=compressed, **arrays))
    assert np.array_equal(all_frames(scan), all_frames(source))
    assert note(scan, "(y, x, position)")


def test_a_cube_is_reported(tmp_path):
    source = make_scan(n=16)
    scan = open_scan(write_older_npz(tmp_path / "a.npz", source))
    assert np.array_equal(all_frames(scan), all_frames(source))
    assert note(scan, "position is taken to be the first axis")


def test_several_probe_modes_are_read(tmp_path):
    source = make_scan(n=9, n_modes=3)
    scan = open_scan(write_older_npz(tmp_path / "a.npz", source, probeGuess=source.probe))
    assert np.array_equal(scan.probe, source.probe)


def test_truth_and_geometry_of_a_simulation_are_read(tmp_path):
    source = make_scan(n=9)
    x, y = source.positions_px[:, 1] - 1, source.positions_px[:, 0] - 2
    scan = open_scan(
        write_older_npz(
            tmp_path / "a.npz",
            source,
            objectTruth=source.truth.object,
            probeTruth=source.probe[0],
            xcoords_true=x,
            ycoords_true=y,
            dx_m=2e-8,
            wavelength_m=1.408e-10,
            distance_m=1.9,
            meta=json.dumps({"kind": "cell"}),
        )
    )
    assert np.array_equal(scan.truth.object, source.truth.object)
    assert np.array_equal(scan.truth.probe, source.probe)
    assert np.array_equal(scan.truth.positions_px, np.stack([y, x], axis=1))
    assert scan.geometry.object_pixel_m == (2e-8, 2e-8)
    assert scan.geometry.wavelength_m == pytest.approx(1.408e-10)
    assert scan.provenance == {"simulation": {"kind": "cell"}}


def normalised(source):
    counts = make_scan(n=source.n_positions, noise=False).frames.counts
    return np.sqrt(counts / counts.sum(axis=(1, 2)).mean() * 3.7).astype(np.float32)


def test_normalised_amplitudes_are_scaled_to_the_photons_of_the_metadata(tmp_path):
    source = make_scan(n=9, noise=False)
    metadata = json.dumps({"physics_parameters": {"nphotons": 1e5}})
    path = write_older_npz(tmp_path / "a.npz", source, diff3d=normalised(source), _metadata=np.array(metadata))
    scan = open_scan(path)
    assert check_frames(scan).mean_photons == pytest.approx(1e5, rel=1e-3)
    assert np.allclose(all_frames(scan), all_frames(source), rtol=1e-3, atol=1e-2)
    assert note(scan, "normalised amplitudes")
    assert "metadata" in scan.provenance


def test_metadata_that_older_programs_pickled_are_read_without_unpickling(tmp_path):
    source = make_scan(n=9, noise=False)
    metadata = np.array(json.dumps({"nphotons": 1e5}), dtype=object)
    path = write_older_npz(tmp_path / "a.npz", source, diff3d=normalised(source), _metadata=metadata)
    assert check_frames(open_scan(path)).mean_photons == pytest.approx(1e5, rel=1e-3)


def test_normalised_amplitudes_without_photons_are_refused_with_what_to_state(tmp_path):
    source = make_scan(n=9, noise=False)
    path = write_older_npz(tmp_path / "a.npz", source, diff3d=normalised(source))
    with pytest.raises(DataError, match=r'diffraction = "counts" or "amplitude".*photons_per_frame'):
        open_scan(path)
    scan = open_scan(path, ReadOverrides(photons_per_frame=2e4))
    assert check_frames(scan).mean_photons == pytest.approx(2e4, rel=1e-3)


def test_fractions_may_be_stated_to_be_counts_or_amplitudes(tmp_path):
    source = make_scan(n=9, noise=False, photons=2e3)
    values = all_frames(source)
    path = write_older_npz(tmp_path / "a.npz", source, diff3d=values)
    assert np.array_equal(all_frames(open_scan(path, ReadOverrides(diffraction="counts"))), values)
    assert np.array_equal(all_frames(open_scan(path, ReadOverrides(diffraction="amplitude"))), values**2)


def test_large_fractions_are_taken_for_counts_and_said(tmp_path):
    source = make_scan(n=9, noise=False, photons=1e7)
    scan = open_scan(write_older_npz(tmp_path / "a.npz", source, diff3d=all_frames(source)))
    assert np.array_equal(all_frames(scan), all_frames(source))
    assert note(scan, "too large for amplitudes")


def test_recorded_photons_tell_counts_from_amplitudes(tmp_path):
    source = make_scan(n=9, noise=False, photons=2e3)
    counts = all_frames(source)
    as_counts = open_scan(write_older_npz(tmp_path / "a.npz", source, diff3d=counts, photons=2e3))
    as_amplitude = open_scan(write_older_npz(tmp_path / "b.npz", source, photons=2e3))
    assert np.array_equal(all_frames(as_counts), counts)
    assert np.allclose(all_frames(as_amplitude), counts, rtol=1e-5)


def test_light_in_the_corners_is_not_believed_until_stated(tmp_path):
    source = make_scan(n=9)
    shifted = np.fft.ifftshift(all_frames(source), axes=(1, 2))
    path = write_older_npz(tmp_path / "a.npz", source, diff3d=shifted)
    with pytest.raises(DataError, match="light lies in the corner"):
        open_scan(path)
    scan = open_scan(path, ReadOverrides(zero_frequency="corner"))
    assert np.array_equal(all_frames(scan), all_frames(source))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"xcoords": None}, "no array xcoords. It contains"),
        ({"diff3d": None}, "no array diff3d or diffraction"),
        ({"xcoords": np.zeros(8)}, "8 xcoords but 9 ycoords"),
        ({"xcoords": np.zeros(8), "ycoords": np.zeros(8)}, "there are 8 positions"),
        ({"xcoords": np.full(9, np.nan)}, "position 0 is not a finite number"),
        ({"xcoords": np.array(["a"] * 9)}, "must be real numbers"),
        ({"diff3d": np.ones((9, 16, 12), np.uint8)}, "must be square"),
        ({"diff3d": np.ones((9, 16), np.uint8)}, "axes"),
        ({"diff3d": np.ones((9, 16, 16), complex)}, "real numbers"),
        ({"diff3d": np.ones((0, 16, 16), np.uint8), "xcoords": np.zeros(0), "ycoords": np.zeros(0)}, "no frames"),
        ({"probeGuess": np.ones((8, 8), complex)}, "does not fit"),
        ({"probeGuess": np.ones(8, complex)}, "must be"),
        ({"probeGuess": np.array([[{"a": 1}]], dtype=object)}, "pickled Python objects"),
        ({"objectGuess": np.ones((2, 3, 3), complex)}, "objectGuess has shape"),
        ({"bad_pixels": np.zeros((8, 8), bool)}, "bad_pixels"),
    ],
)
def test_what_does_not_fit_is_one_helpful_sentence(tmp_path, changes, words):
    path = write_older_npz(tmp_path / "a.npz", make_scan(n=9), **changes)
    with pytest.raises(DataError, match=words) as caught:
        open_scan(path)
    assert str(caught.value).startswith(str(path))


def test_a_negative_count_is_found_when_its_frame_is_read(tmp_path):
    counts = all_frames(make_scan(n=99)).astype(np.int32)
    counts[50, 2, 3] = -7
    scan = open_scan(write_older_npz(tmp_path / "a.npz", make_scan(n=99), diff3d=counts))
    with pytest.raises(DataError, match=r"a\.npz: frame 50 has a count that is negative \(-7"):
        check_frames(scan)


@pytest.mark.parametrize("kept", [0, 3, 0.3, 0.99])
def test_a_truncated_archive_is_refused(tmp_path, kept):
    path = write_older_npz(tmp_path / "a.npz", make_scan(n=9))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept) if kept < 1 else kept])
    with pytest.raises(DataError, match=r"a\.npz"):
        open_scan(path)


def test_damage_inside_the_archive_is_a_sentence(tmp_path):
    path = write_older_npz(tmp_path / "a.npz", make_scan(n=9))
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("diff3d.npy").header_offset
    data[start + 400 : start + 500] = bytes(100)
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        open_scan(path)


def test_a_header_that_promises_more_than_is_stored_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "bomb.npz"
    small = write_older_npz(tmp_path / "a.npz", make_scan(n=9))
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<c16', 'fortran_order': False, 'shape': (10000000, 10000000)}"
    with zipfile.ZipFile(small) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            stored = header.ljust(127) + b"\n" if info.filename == "probeGuess.npy" else source.read(info)
            target.writestr(info.filename, stored)
    with pytest.raises(DataError, match="declares 1600000000000000 bytes"):
        open_scan(path)


def test_an_absurdly_large_array_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(npz_archive, "ARRAY_LIMIT_BYTES", 1000)
    path = write_older_npz(tmp_path / "a.npz", make_scan(n=9))
    with pytest.raises(DataError, match="may have; the file is damaged"):
        NpzArchive(path).load("objectGuess")


def test_a_bz2_archive_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(npz_archive, "UNPACKED_LIMIT_BYTES", 10_000)
    path = tmp_path / "a.npz.bz2"
    path.write_bytes(bz2.compress(bytes(10**6)))
    with pytest.raises(DataError, match="unpacks to more than"):
        open_scan(path)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("position_last", [False, True])
@pytest.mark.parametrize("storage", ["streamed", "kept", "mapped", "bz2"])
def test_every_way_of_storing_frames_reads_the_same(tmp_path, monkeypatch, order, position_last, storage):
    if storage in ("streamed", "bz2"):
        monkeypatch.setattr(npz_archive, "CACHE_BYTES", 0)
    frames = np.random.default_rng(0).integers(0, 99, (7, 4, 5)).astype(">u2")
    stored = np.asarray(np.moveaxis(frames, 0, -1) if position_last else frames, order=order)
    save = np.savez if storage == "mapped" else np.savez_compressed
    path = tmp_path / "a.npz"
    save(path, data=stored)
    if storage == "bz2":
        path = path.with_suffix(".npz.bz2")
        path.write_bytes(bz2.compress((tmp_path / "a.npz").read_bytes()))
    lazy = NpzFrames(NpzArchive(path), "data", position_last=position_last)
    indices = np.array([6, 0, 3, 3])
    assert lazy.shape == (7, 4, 5)
    for _ in range(2):
        read = lazy.read(indices)
        assert read.dtype == np.uint16
        assert np.array_equal(read, frames[indices])
    assert np.array_equal(pickle.loads(pickle.dumps(lazy)).read(indices), frames[indices])


def test_kept_frames_are_not_pickled(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", data=np.zeros((100, 32, 32)))
    lazy = NpzFrames(NpzArchive(tmp_path / "a.npz"), "data")
    lazy.read(np.array([0]))
    assert len(pickle.dumps(lazy)) < 2000


def write_tike(path, source, **changes):
    counts = all_frames(source)
    arrays = {
        "data": np.fft.ifftshift(counts, axes=(1, 2))[None].astype(np.float32),
        "scan": (source.positions_px - 8)[None].astype(np.float32),
        "probe": source.probe[None, None, None],
        **changes,
    }
    np.savez(path, **arrays)
    return path


def test_tike_positions_are_corners_and_frames_are_in_fft_order(tmp_path):
    source = make_scan(n=9, n_modes=2)
    scan = open_scan(write_tike(tmp_path / "t.npz", source, scan_truth=np.zeros((9, 2))))
    assert np.array_equal(all_frames(scan), all_frames(source))
    assert np.allclose(scan.positions_px, source.positions_px, atol=1e-5)
    assert np.array_equal(scan.probe, source.probe)
    assert note(scan, "8 px were added")
    assert note(scan, "Not used: scan_truth")
    assert scan.mask is None


def test_a_bz2_archive_reads_like_the_archive_in_it(tmp_path):
    source = make_scan(n=9)
    plain = write_tike(tmp_path / "t.npz", source)
    packed = tmp_path / "t.npz.bz2"
    packed.write_bytes(bz2.compress(plain.read_bytes()))
    assert np.array_equal(all_frames(open_scan(packed)), all_frames(source))
    assert open_scan(packed).name == "t"


def test_dead_pixels_are_masked_and_said(tmp_path):
    source = make_scan(n=20, photons=1e6)
    counts = all_frames(source).copy()
    counts[:, 8, 9] = 0
    counts[:, 0, 0] = 0
    scan = open_scan(write_tike(tmp_path / "t.npz", Scan(**{**vars(source), "frames": type(source.frames)(counts)})))
    assert np.argwhere(~scan.mask).tolist() == [[8, 9]]
    assert note(scan, "1 dead pixels were masked")
    assert note(scan, "(8, 9)")


def test_dark_corners_are_not_called_dead(tmp_path):
    source = make_scan(n=9, photons=300)
    scan = open_scan(write_tike(tmp_path / "t.npz", source))
    assert (all_frames(scan).sum(axis=0) == 0).any()
    assert scan.mask is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": np.ones((2, 9, 16, 16))}, "data has shape"),
        ({"scan": np.ones((9, 3))}, "scan has shape"),
        ({"scan": np.ones((8, 2))}, "9 frames but positions"),
        ({"probe": np.ones((1, 8, 8), complex)}, "does not fit"),
    ],
)
def test_tike_arrays_that_do_not_fit_are_one_sentence(tmp_path, changes, words):
    with pytest.raises(DataError, match=words):
        open_scan(write_tike(tmp_path / "t.npz", make_scan(n=9), **changes))


def test_an_unknown_archive_lists_what_it_has_and_what_is_known(tmp_path):
    np.savez(tmp_path / "a.npz", spam=np.zeros(3))
    with pytest.raises(DataError, match=r"contains: spam \(3,\)\. Known formats: PtychoPINN scan .*tike"):
        open_scan(tmp_path / "a.npz")


@pytest.mark.parametrize(("content", "words"), [(b"", "empty"), (b"GIF89a a picture", "neither an HDF5 file nor")])
def test_a_file_of_another_kind_is_told_by_its_first_bytes(tmp_path, content, words):
    (tmp_path / "scan.h5").write_bytes(content)
    with pytest.raises(DataError, match=words):
        open_scan(tmp_path / "scan.h5")


def test_missing_files_and_folders_are_sentences(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        open_scan(tmp_path / "nothing.h5")
    with pytest.raises(DataError, match="is a folder"):
        open_scan(tmp_path)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"diffraction": "photons"}, "one of"),
        ({"zero_frequency": "left"}, "one of"),
        ({"photons_per_frame": 0}, "posi"),
    ],
)
def test_impossible_statements_are_refused(stated, words):
    with pytest.raises(DataError, match=words):
        ReadOverrides(**stated)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="samples are not here")
def test_a_file_written_by_ptychodus_is_registered_to_its_own_object():
    scan = open_scan(SAMPLES / "ptychodus" / "train_data_ptychopinn.npz")
    with np.load(SAMPLES / "ptychodus" / "truth_sim.npz") as truth:
        centred = truth["y_px"] + (56 - 1) / 2 + 0.5
    assert np.allclose(scan.positions_px[:, 0], centred)


def test_coordinates_far_below_a_pixel_are_metres(tmp_path):
    source, pixel = make_scan(n=9), 5e-8
    moved = (source.positions_px - source.grid.origin_px) * pixel
    path = write_older_npz(tmp_path / "a.npz", source, ycoords=moved[:, 0], xcoords=moved[:, 1])
    scan = open_scan(path, ReadOverrides(object_pixel_m=(pixel, pixel)))
    assert np.allclose(np.diff(scan.positions_px, axis=0), np.diff(source.positions_px, axis=0))
    with pytest.raises(DataError, match="object pixel size is unknown"):
        open_scan(path)
