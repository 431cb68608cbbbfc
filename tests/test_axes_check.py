import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ptycho.cli.main import app
from ptycho.data.formats import ReadOverrides, open_scan
from ptycho.data.formats.hdf5 import write_scan
from ptycho.data.orientation import ALL_AXES, composed, inverse, turn, turned_images, turned_positions
from ptycho.data.scan import ArrayFrames
from ptycho.errors import DataError
from ptycho_torch.axes_check import check_axes
from tests.builders import far_field_counts, make_scan


@pytest.fixture(scope="module")
def scan():
    return make_scan(n=64, N=24, step_px=3.0, photons=1e6)


def test_the_axes_of_a_good_scan_are_confirmed(scan):
    verdict = check_axes(scan)
    assert verdict.is_confirmed
    assert not verdict.is_likely_wrong


@pytest.mark.parametrize("axes", ["-yx", "xy", "x-y"])
def test_wrong_axes_are_found_and_their_remedy_is_named(scan, axes):
    verdict = check_axes(turn(scan, position_axes=axes))
    assert verdict.is_likely_wrong
    assert composed(axes, verdict.best) == "yx"


@pytest.mark.parametrize("axes", ["-yx", "xy", "x-y"])
def test_turning_the_frames_is_the_other_remedy(scan, axes):
    verdict = check_axes(turn(scan, position_axes=axes))
    mended = turn(turn(scan, position_axes=axes), frame_axes=inverse(verdict.best))
    assert check_axes(mended).is_confirmed


def test_the_command_names_the_lines_that_help(scan, tmp_path):
    write_scan(turn(scan, position_axes="x-y"), tmp_path / "scan.h5")
    spec = tmp_path / "job.toml"
    spec.write_text('[job]\nengine = "rpie"\n[data]\nscan = "scan.h5"\n')
    done = CliRunner().invoke(app, ["check", str(spec)])
    lines = [line.strip() for line in done.output.splitlines()]
    assert 'position_axes = "-xy"' in lines
    assert 'frame_axes = "x-y"' in lines
    for key in ("position_axes=-xy", "frame_axes=x-y"):
        again = CliRunner().invoke(app, ["check", str(spec), "--json", "--set", f"data.{key}"])
        assert json.loads(again.output)["axes"]["is_confirmed"] is True
    assert "Axes" not in CliRunner().invoke(app, ["check", str(spec), "--no-axes"]).output


def test_frames_without_structure_are_said_not_to_tell(scan):
    empty = replace(scan, frames=ArrayFrames(np.repeat(scan.frames.read(np.array([5])), 64, axis=0)))
    verdict = check_axes(empty)
    assert not verdict.is_likely_wrong
    assert not verdict.is_confirmed
    assert "cannot tell" in verdict.sentence


def test_without_a_probe_nothing_is_claimed(scan):
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
        assert composed(axes, inverse(axes)) == "yx"
        assert [composed(axes, other) for other in ALL_AXES].count("yx") == 1
    positions = np.array([[1.0, 2.0]])
    assert turned_positions(positions, "x-y").tolist() == [[2.0, -1.0]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("aps_siemens_star.npz.bz2", {}),
        ("cnm_position_error.npz", {}),
        ("petra_p25_near_field.cxi", {"focus_distance_m": 3.65e-3}),
    ],
)
def test_real_scans_raise_no_false_alarm_and_turned_ones_do(name, said):
    path = Path(__file__).parents[2] / "shared" / "data" / "real" / name
    if not path.is_file():
        pytest.skip("samples are not here")
    scan = open_scan(path, ReadOverrides(**said))
    assert not check_axes(scan).is_likely_wrong
    turned = check_axes(turn(scan, position_axes="x-y"))
    # Positions that are 5 px off on average say nothing about axes.
    assert turned.is_likely_wrong == (name != "cnm_position_error.npz")
    assert turned.best == "-xy" or not turned.is_likely_wrong
