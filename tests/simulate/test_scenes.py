"""Random scenes: frames that their truth explains, drawn again by the same seed, under probes as asked."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptycho.config.synthetic import SyntheticConfig
from ptycho.errors import DataError
from ptycho_torch.physics.forward import expected_counts
from ptycho_torch.physics.likelihood import poisson_deviance
from ptycho_torch.pinn.card import probe_diameter
from ptycho_torch.simulate.probes import zone_plate
from ptycho_torch.simulate.scenes import draw_probes, draw_scene, read_probes, scaled

CONFIG = SyntheticConfig(objects=("field", "lines", "grains"), photons=(1e6, 1e6))


def scene(seed=0, config=CONFIG, n_groups=4, gridsize=1, size=32):
    return draw_scene(config, size, n_groups, gridsize, [], torch.Generator().manual_seed(seed))


def test_the_truth_explains_the_counts_to_the_noise():
    config = replace(CONFIG, probe_diameter=(0.2, 0.25), probes=("gaussian",), phase_range_rad=(0.3, 0.5))
    made = scene(config=config, size=64)
    frame = torch.ones_like(made.counts, dtype=torch.complex64)
    frame[..., 16:48, 16:48] = made.truth
    expected = expected_counts(made.true_probes.flatten(0, 1), frame.flatten(0, 1))
    wrong = expected_counts(made.true_probes.flatten(0, 1), torch.ones_like(frame).flatten(0, 1))
    counts = made.counts.flatten(0, 1)
    # The central half alone is known; what little light falls beside it keeps the fit from being perfect.
    assert poisson_deviance(counts, expected).median() < 0.2 * poisson_deviance(counts, wrong).median()


def test_the_same_seed_draws_the_same_scene_and_another_another():
    for first, second, other in zip(scene(1), scene(1), scene(2), strict=True):
        assert torch.equal(first, second)
        assert not torch.equal(first, other)


def test_members_of_a_group_lie_around_its_centre():
    made = scene(gridsize=3, n_groups=6)
    assert made.counts.shape[:2] == (6, 9)
    assert made.positions_px.shape == (6, 9, 2)
    away = (made.positions_px - made.positions_px[:, :1]).norm(dim=-1)
    assert (away[:, 0] == 0).all()
    assert away.max() < 32


def test_photons_and_probe_power_agree():
    made = scene(config=replace(CONFIG, photons=(1e4, 1e6)))
    power = made.true_probes.abs().square().sum((-3, -2, -1))
    assert ((power > 0.99e4) & (power < 1.01e6)).all()
    torch.testing.assert_close(power, made.probes.abs().square().sum((-3, -2, -1)), rtol=1e-4, atol=0)
    assert (made.counts.sum((-2, -1)) <= 1.05 * power).all()


@pytest.mark.parametrize("kind", ["zone_plate", "gaussian", "disk", "file"])
def test_probes_are_as_wide_as_asked_and_as_wrong_as_asked(kind):
    bank = [zone_plate(96, aperture=0.2, stop=0.05, defocus_px2=90.0)]
    config = replace(CONFIG, probes=(kind,), wrong_share=1.0, probe_file="bank.npz" if kind == "file" else None)
    told, true = draw_probes(config, 64, 6, bank, torch.Generator().manual_seed(0))
    widths = [probe_diameter(probe[None].numpy()) for probe in true]
    assert min(widths) > 0.12
    assert max(widths) < 0.6
    likeness = (told.conj() * true).sum((-2, -1)).abs() / (told.norm(dim=(-2, -1)) * true.norm(dim=(-2, -1)))
    assert (likeness < 0.99999).all()
    right = draw_probes(replace(config, wrong_share=0.0), 64, 6, bank, torch.Generator().manual_seed(0))
    torch.testing.assert_close(*right, rtol=1e-4, atol=1e-6)


def test_a_measured_probe_is_scaled_about_its_centre():
    probe = torch.roll(zone_plate(96, aperture=0.2, stop=0.05, defocus_px2=90.0), (5, -9), (0, 1))
    made = scaled(probe, 20.0, 64)
    assert probe_diameter(made[None].numpy()) * 64 == pytest.approx(20, rel=0.1)
    power = made.abs().square()
    axis = torch.arange(64.0)
    assert float((power.sum(1) * axis).sum() / power.sum()) == pytest.approx(32, abs=0.5)
    assert float((power.sum(0) * axis).sum() / power.sum()) == pytest.approx(32, abs=0.5)


def test_a_file_of_probes_gives_the_strongest_mode_of_each(tmp_path):
    modes = np.zeros((1, 2, 16, 16), np.complex64)
    modes[0, 0, 8, 8], modes[0, 1, 4, 4] = 1, 2
    np.savez(tmp_path / "bank.npz", first=modes, second=modes[0, 0])
    bank = read_probes(tmp_path / "bank.npz")
    assert [probe.shape for probe in bank] == [(16, 16), (16, 16)]
    assert bank[0][4, 4] == 2


def test_a_file_that_holds_no_probes_is_refused(tmp_path):
    np.savez(tmp_path / "bank.npz", probe=np.zeros((3, 4)))
    with pytest.raises(DataError, match="array probe: shape"):
        read_probes(tmp_path / "bank.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match="cannot be read"):
        read_probes(tmp_path / "text.npz")


@pytest.mark.parametrize(
    "wrong",
    [{"patch_sizes": (30,)}, {"objects": ()}, {"photons": (10.0, 1.0)}, {"probes": ("file",)}, {"wrong_share": 2.0}],
)
def test_a_configuration_that_cannot_work_says_which_key(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("probes", "probe_file")):
        SyntheticConfig(**wrong)
