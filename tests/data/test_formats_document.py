from pathlib import Path

import h5py
import numpy as np

from ptycho.data.formats import FORMATS, open_scan
from ptycho.data.formats.hdf5 import write_scan
from ptycho.data.geometry import Geometry
from ptycho.data.scan import Scan
from tests.builders import make_scan

DOCUMENT = (Path(__file__).parents[2] / "docs" / "data-formats.md").read_text()


def test_the_document_lists_every_format():
    assert all(f"| {row.name} (" in DOCUMENT or f"| {row.name} |" in DOCUMENT for row in FORMATS)


def test_the_document_names_everything_that_is_written(tmp_path):
    scan = make_scan(n=4, geometry=Geometry(energy_eV=8e3, distance_m=1, detector_pixel_m=(1e-5, 1e-5)))
    start = np.ones(scan.object_grid.shape, np.complex64)
    full = Scan(**{**vars(scan), "mask": np.ones((16, 16), bool), "object_start": start})
    write_scan(full, tmp_path / "scan.h5")
    names = []
    with h5py.File(tmp_path / "scan.h5") as file:
        file.visit(names.append)
        names += [name for group in ("geometry", "object_grid") for name in file[group].attrs]
    assert [name for name in names if name not in DOCUMENT] == []


def test_the_example_makes_a_readable_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = DOCUMENT.split("```python\n")[1].split("```")[0]
    pixel = 1.2398419843e-6 / 8000 * 1.9 / (16 * 75e-6)
    positions_px = np.array([[0.0, 1.0], [2.0, 3.0]])
    exec(example, {"counts": np.ones((2, 16, 16), np.uint16), "positions_m": positions_px * pixel})
    assert np.allclose(open_scan(tmp_path / "scan.h5").positions_px, positions_px)
