"""Steps from epoch to epoch, stopping, and probe modes."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from ptycho.config.refine import RefineConfig
from ptycho.errors import WorkError
from ptycho_torch.engines.schedule import Momentum, annealed_step, check_convergence, has_risen
from ptycho_torch.engines.start import orthogonal_modes, with_modes
from tests.builders import spot_probe


def test_steps_stay_whole_then_shrink_to_a_twentieth():
    config = RefineConfig(epochs=10, anneal_from=0.4)
    steps = [annealed_step(epoch, config) for epoch in range(1, 13)]
    assert steps[:4] == [1, 1, 1, 1]
    assert all(later < earlier for earlier, later in pairwise(steps[3:10]))
    assert steps[9:] == [pytest.approx(0.05)] * 3


def test_momentum_repeats_a_share_of_steady_progress():
    momentum, value = Momentum(0.5, torch.zeros(1)), torch.zeros(1)
    for _ in range(20):
        before = value.clone()
        value += 1
        momentum.push(value, before, 1.0)
    # Steady steps of 1 make a velocity of 1/(1 − share) = 2, so each epoch moves by 1 + 0.5·2.
    assert float(value - before) == pytest.approx(2.0, rel=1e-4)
    momentum.restart()
    assert float(momentum.velocity) == 0


def test_a_rise_above_noise_is_seen():
    assert not has_risen([0.5])
    assert not has_risen([0.5, 0.502])
    assert has_risen([0.5, 0.51])


@pytest.mark.parametrize("history", [[0.3, 2.0], [0.3, float("nan")], [float("inf")]])
def test_an_r_factor_worse_than_no_light_is_divergence(history):
    with pytest.raises(WorkError, match=f"diverged in epoch {len(history)}"):
        check_convergence(history, RefineConfig())


def test_a_plateau_counts_only_when_annealed():
    flat, config = [0.1] * 30, RefineConfig(epochs=30)
    assert check_convergence(flat, config)
    assert not check_convergence(flat[:15], config)
    assert not check_convergence([0.1 * 0.99**epoch for epoch in range(30)], config)


def test_orthogonal_modes_carry_the_same_light_strongest_first():
    mixed = torch.randn(3, 16, 16, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    modes = orthogonal_modes(mixed)
    gram = torch.einsum("aij,bij->ab", modes.conj(), modes)
    assert torch.allclose(gram, torch.diag(gram.diagonal()), atol=1e-3)
    assert (np.diff(gram.diagonal().real.numpy()) < 0).all()
    light, same = (torch.fft.fft2(m).abs().square().sum(0) for m in (mixed, modes))
    assert torch.allclose(light, same, rtol=1e-4)


def test_added_modes_are_weak_and_orthogonal_and_surplus_ones_go():
    probe = torch.from_numpy(spot_probe(32))
    modes = with_modes(probe, 4)
    power = modes.abs().square().sum((1, 2))
    assert modes.shape == (4, 32, 32)
    assert torch.allclose(power[1:] / power[0], torch.full((3,), 0.02), rtol=1e-3)
    gram = torch.einsum("aij,bij->ab", modes.conj(), modes).abs() / torch.outer(power, power).sqrt()
    assert torch.allclose(gram, torch.eye(4), atol=1e-4)
    assert with_modes(modes, 2).shape == (2, 32, 32)


def test_the_object_step_is_regularised_more_when_photons_are_few():
    config = RefineConfig()
    assert config.object_alpha(200) == pytest.approx(0.23, abs=0.01)
    assert config.object_alpha(2) == pytest.approx(0.48, abs=0.01)
    assert config.object_alpha(0.1) == 1
    assert RefineConfig(alpha=0.3).object_alpha(0.1) == 0.3
    assert RefineConfig(engine="epie", alpha=0.3).object_alpha(200) == 1


def test_every_fault_of_the_options_is_named():
    with pytest.raises(ValueError, match=r"epochs = 0: must be at least 1; alpha = 2: must be above 0 and at most 1"):
        RefineConfig(epochs=0, alpha=2)
    with pytest.raises(ValueError, match="engine = 'lsq'"):
        RefineConfig(engine="lsq")
