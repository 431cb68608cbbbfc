"""Files of ours, read by ptychodus' and cdtools' own readers in an interpreter that has them."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptycho.data.formats.cxi_writer import write_cxi
from ptycho.data.formats.product import Product, write_product
from ptycho.data.formats.ptychodus_writer import write_ptychodus
from tests.data.format_samples import GEOMETRY, SIZE, counts, measured
from tests.requirements import cannot_run

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("read_elsewhere.py")


@pytest.fixture(scope="module")
def written():
    """The scan that was written, with a mask and a first guess of the object."""
    plain = measured()
    good = np.ones((SIZE, SIZE), bool)
    good[0, 1] = False
    return replace(plain, mask=good, object_start=plain.truth.object)


@pytest.fixture(scope="module")
def seen(tmp_path_factory, written):
    """What the other programs read."""
    python = os.environ.get("PTYCHO_TESTS_PTYCHODUS_PYTHON")
    if not python:
        cannot_run(
            "ptychodus",
            "PTYCHO_TESTS_PTYCHODUS_PYTHON names no interpreter with ptychodus and cdtools-py (.ci/ptychodus)",
        )
    folder = tmp_path_factory.mktemp("written")
    write_cxi(written, folder / "scan.cxi")
    write_ptychodus(written, folder / "diffraction.h5")
    product = Product(
        name="result", object=written.truth.object, grid=written.truth.grid, probe=written.probe,
        positions_px=written.positions_px, geometry=replace(GEOMETRY, object_pixel_m=GEOMETRY.object_pixel(SIZE)),
    )  # fmt: skip
    write_product(product, folder / "result.h5")
    done = subprocess.run([python, str(SCRIPT), str(folder)], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", ["product", "cxi", "pair"])
def test_ptychodus_sees_every_window_on_the_same_object_pixels(seen, written, kind):
    found = seen["ptychodus"][kind]
    ours = written.object_grid.corners_px(written.positions_px, SIZE) + (SIZE - 1) / 2
    assert np.allclose(found["middle_y_px"], ours[:, 0], atol=1e-4)
    assert np.allclose(found["middle_x_px"], ours[:, 1], atol=1e-4)
    assert found["object_shape"] == [1, *written.object_grid.shape]
    assert found["probe_shape"] == [1, 2, SIZE, SIZE]
    assert found["energy_eV"] == pytest.approx(8000)
    assert found["distance_m"] == pytest.approx(0.75)


def test_ptychodus_sees_the_same_frames_and_pixels(seen, written):
    total = int((counts(written) * written.mask).sum())
    assert seen["ptychodus"]["cxi"]["frames"] == total
    assert seen["ptychodus"]["pair"]["frames"] == total
    assert seen["ptychodus"]["pair"]["bad"] == 1
    assert seen["ptychodus"]["cxi"]["detector_pixel_m"] == pytest.approx(75e-6)


def test_cdtools_sees_the_same_positions_and_frames(seen, written):
    found = seen["cdtools"]
    if found is None:
        cannot_run("ptychodus", "the interpreter has no cdtools-py")
    # cdtools starts counting elsewhere; the distances between positions are what must be equal.
    for axis, name in enumerate(("y_px", "x_px")):
        ours = written.positions_px[:, axis]
        assert np.allclose(np.subtract(found[name], found[name][0]), ours - ours[0], atol=2e-3)
    assert found["frames"] == int((counts(written) * written.mask).sum())
