import dataclasses
import math

import pytest

from ptycho.config.simulate import SimulateConfig, option_help
from ptycho.errors import SpecError


def test_every_option_is_documented():
    names = {field.name for field in dataclasses.fields(SimulateConfig)}
    assert option_help().keys() == names
    assert all(text.endswith(".") for text in option_help().values())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"photons": 0}, "photons"),
        ({"photons": math.nan}, "photons"),
        ({"n_positions": 0}, "n_positions"),
        ({"object": "photograph"}, "natural, leaves, star"),
        ({"path": "zigzag"}, "raster, jittered"),
        ({"probe_stop": 0.3}, "probe_aperture"),
        ({"mode_fractions": (0.5, 0.2)}, "add up to 1"),
        ({"mode_fractions": ()}, "add up to 1"),
        ({"probe": "measured"}, "probe_file"),
        ({"probe": "measured", "probe_file": "p.npy"}, "probe_defocus_px2"),
        ({"probe_file": "p.npy"}, "measured"),
        ({"probe_aperture": 0.7, "amplitude_min": 1.5}, "amplitude_min"),
    ],
)
def test_a_wrong_option_is_refused_by_name(options, word):
    with pytest.raises(SpecError, match=word):
        SimulateConfig(**options)


def test_all_faults_are_reported_at_once():
    with pytest.raises(SpecError) as caught:
        SimulateConfig(photons=-1, step_px=0, probe="lens")
    assert len(caught.value.problems) == 3


def test_defocus_is_sixty_for_a_zone_plate_and_none_for_the_others():
    assert SimulateConfig().defocus_px2 == 60
    assert SimulateConfig(probe="disk").defocus_px2 == 0
    assert SimulateConfig(probe="disk", probe_defocus_px2=12).defocus_px2 == 12
