import json

import numpy as np
import pytest
from typer.testing import CliRunner

from ptycho.cli.main import app
from ptycho.data.formats.hdf5 import write_scan
from ptycho.data.orientation import ALL_AXES, composed, turn, turned_images, turned_positions
from ptycho.errors import DataError
from ptycho_torch.axes_check import check_axes
from tests.builders import far_field_counts, make_scan


@pytest.fixture(scope="module")
def scan():
    return make_scan(n=64, N=24, step_px=3.0, photons=1e6)


def test_the_axes_of_a_good_scan_are_confirmed(scan):
    verdict = check_axes(scan)
    assert verdict.best == "yx"
    assert not verdict.is_likely_wrong


@pytest.mark.parametrize("axes", ["-yx", "xy", "x-y"])
def test_wrong_axes_are_found_and_their_remedy_is_named(scan, axes):
    verdict = check_axes(turn(scan, position_axes=axes))
    assert verdict.is_likely_wrong
    assert composed(axes, verdict.best) == "yx"


def test_the_command_names_the_key_that_helps(scan, tmp_path):
    write_scan(turn(scan, position_axes="xy"), tmp_path / "scan.h5")
    (tmp_path / "job.toml").write_text('[job]\nengine = "rpie"\n[data]\nscan = "scan.h5"\n')
    done = CliRunner().invoke(app, ["check", str(tmp_path / "job.toml"), "--axes"])
    assert 'Set data.position_axes = "xy"' in " ".join(done.output.split())
    again = CliRunner().invoke(
        app, ["check", str(tmp_path / "job.toml"), "--axes", "--json", "--set", "data.position_axes=xy"]
    )
    assert json.loads(again.output)["axes"]["is_likely_wrong"] is False


def test_without_a_probe_nothing_is_claimed(scan):
    from dataclasses import replace

    with pytest.raises(DataError, match="first guess of the probe"):
        check_axes(replace(scan, probe=None))


@pytest.mark.parametrize("axes", ALL_AXES)
@pytest.mark.parametrize("size", [8, 9])
def test_turning_frames_and_probe_is_turning_the_wave(axes, size):
    """The far field of a turned wave is the turned far field, for even and odd sizes."""
    rng = np.random.default_rng(1)
    wave = (rng.normal(size=(1, size, size)) + 1j * rng.normal(size=(1, size, size))).astype(np.complex64)
    flat = np.ones((1, size, size))
    turned = far_field_counts(turned_images(wave, axes), flat)
    assert np.allclose(turned, turned_images(far_field_counts(wave, flat), axes), rtol=1e-4, atol=1e-4)


def test_axes_compose_and_every_one_has_an_inverse():
    for axes in ALL_AXES:
        assert composed("yx", axes) == axes
        assert [composed(axes, other) for other in ALL_AXES].count("yx") == 1
    positions = np.array([[1.0, 2.0]])
    assert turned_positions(positions, "x-y").tolist() == [[2.0, -1.0]]
