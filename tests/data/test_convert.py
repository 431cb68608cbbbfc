import hashlib
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from ptycho.data.convert import convert_scan
from ptycho.data.formats import ReadOverrides, open_scan
from ptycho.errors import DataError
from tests.builders import make_scan, write_older_npz

STAR = Path(__file__).parents[2] / "jobs" / "data" / "siemens-star.h5"


def test_converting_keeps_the_scan_and_says_where_it_came_from(tmp_path):
    source = write_older_npz(tmp_path / "older.npz", make_scan(n=9))
    done = convert_scan(source, tmp_path / "new.h5", name="renamed", notes={"licence": "BSD"})
    read, original = open_scan(tmp_path / "new.h5"), open_scan(source)
    assert np.array_equal(read.frames.read(np.arange(9)), original.frames.read(np.arange(9)))
    assert np.array_equal(read.positions_px, original.positions_px)
    assert read.name == "renamed"
    assert read.assumptions == original.assumptions
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert read.provenance == {"source": {"name": "older.npz", "sha256": digest}, "licence": "BSD"}
    assert done.frames.n_frames == 9


def test_statements_about_the_source_are_used(tmp_path):
    source = write_older_npz(tmp_path / "older.npz", make_scan(n=4))
    convert_scan(source, tmp_path / "new.h5", overrides=ReadOverrides(energy_eV=9000))
    assert open_scan(tmp_path / "new.h5").geometry.energy_eV == 9000


def test_crop_and_mask_are_applied(tmp_path):
    source = write_older_npz(tmp_path / "older.npz", make_scan(n=4))
    np.save(tmp_path / "mask.npy", np.eye(16) == 0)
    convert_scan(source, tmp_path / "new.h5", preparation={"crop_px": 8, "mask_path": tmp_path / "mask.npy"})
    read = open_scan(tmp_path / "new.h5")
    assert read.frames.shape == (4, 8, 8)
    assert np.array_equal(read.mask, np.eye(8) == 0)


def test_a_file_is_not_converted_onto_itself(tmp_path):
    source = write_older_npz(tmp_path / "older.npz", make_scan(n=4))
    whole = source.read_bytes()
    with pytest.raises(DataError, match="same file"):
        convert_scan(source, tmp_path / "." / "older.npz")
    assert source.read_bytes() == whole


def test_a_missing_folder_is_said_before_the_source_is_read(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        convert_scan(tmp_path / "nothing.npz", tmp_path / "nowhere" / "new.h5")


def test_a_source_that_cannot_be_read_leaves_nothing(tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(DataError, match=r"broken\.npz"):
        convert_scan(tmp_path / "broken.npz", tmp_path / "new.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.npz"]


def test_the_scan_that_ships_is_small_complete_and_names_its_origin():
    scan = open_scan(STAR)
    assert STAR.stat().st_size < 4e6
    assert scan.frames.shape == (516, 128, 128)
    assert scan.frames.dtype == np.uint16
    assert scan.probe.shape == (1, 128, 128)
    assert scan.provenance["source"]["sha256"].startswith("dbce7715")
    assert "UChicago Argonne" in scan.provenance["licence"]
    assert "/" not in scan.provenance["source"]["name"]
    counts = scan.frames.read(np.arange(0, 516, 43))
    assert counts.max() <= 963
    middle = counts[:, 32:96, 32:96].sum() / counts.sum()
    assert middle > 0.9


def test_overrides_replace_only_what_they_name():
    names = {field.name for field in fields(ReadOverrides)}
    assert all(getattr(ReadOverrides(), name) is None for name in names)
