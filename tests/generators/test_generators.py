"""Generators: correct a guess, start at the guess, say which names exist."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ptycho.config.config import ModelConfig
from ptycho.errors import ModelError
from ptycho_torch.generators import FEATURE_CHANNELS, GENERATORS, build_generator
from ptycho_torch.generators.fourier import FactorisedBlock, FullBlock, input_transform
from ptycho_torch.generators.heads import AMPLITUDE_FACTORS, build_head

HEADS = [("real_imag", "sigmoid"), ("amp_phase_logits", "sigmoid")]
HEADS += [("amp_phase", name) for name in ("sigmoid", "swish", "softplus", "relu")]


OPERATORS = ["fno", "fno_vanilla", "ffno"]


def features(batch=2, frames=4, size=16):
    return 0.3 * torch.randn(batch, frames, FEATURE_CHANNELS, size, size, generator=torch.Generator().manual_seed(0))


def guess_in(made):
    return torch.complex(1 + made[:, :, 0], made[:, :, 1])


@pytest.mark.parametrize(("mode", "activation"), HEADS)
def test_at_the_start_the_output_is_the_guess(mode, activation):
    generator = build_generator(ModelConfig(n_filters_scale=1, generator_output_mode=mode, amp_activation=activation))
    made = features()
    torch.testing.assert_close(generator(made), guess_in(made))


@pytest.mark.parametrize(("mode", "activation"), HEADS)
def test_every_head_changes_the_guess_and_passes_gradients_from_the_start(mode, activation):
    generator = build_generator(ModelConfig(n_filters_scale=1, generator_output_mode=mode, amp_activation=activation))
    generator(features()).abs().square().sum().backward()
    assert generator.last.weight.grad.abs().max() > 0


def test_real_imag_reaches_every_transmission():
    wanted = torch.polar(torch.linspace(0, 1.2, 16)[:, None], torch.linspace(-3.2, 3.2, 16)[None])
    guess = torch.ones(16, 16, dtype=torch.complex64)
    change = torch.stack([wanted.real - 1, wanted.imag])
    torch.testing.assert_close(build_head("real_imag", "sigmoid")(guess, change), wanted)


@pytest.mark.parametrize("activation", AMPLITUDE_FACTORS)
def test_amplitude_factors_reach_below_and_above_the_guess(activation):
    factor = AMPLITUDE_FACTORS[activation](torch.linspace(-3, 3, 601))
    assert factor[300] == pytest.approx(1, abs=1e-6)
    assert factor.max() > 1.2
    # swish dips to 1 − 0.28 and no lower: it is the one that cannot make a sample opaque on its own.
    assert factor.min() < (0.75 if activation in ("swish", "silu") else 0.1)


def test_frames_of_a_batch_do_not_influence_one_another():
    generator = build_generator(ModelConfig(n_filters_scale=1))
    torch.nn.init.normal_(generator.last.weight, std=0.1)
    made = features()
    together = generator(made)
    alone = generator(made[1:, 2:3])
    torch.testing.assert_close(together[1:, 2:3], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["cnn", "unrolled", *OPERATORS])
@pytest.mark.parametrize("window", [32, 64])
def test_networks_cost_at_most_0_6_gflop_for_a_pattern_of_64(window, architecture):
    counter = FlopCounterMode(display=False)
    generator = build_generator(ModelConfig(architecture=architecture))
    with counter, torch.no_grad():
        for step in range(generator.n_steps):
            generator(features(1, 1, window), step)
    assert counter.get_total_flops() <= 0.6e9


def test_every_step_of_the_unrolled_network_starts_at_its_guess_and_learns():
    generator = build_generator(ModelConfig(architecture="unrolled", n_filters_scale=1))
    made = features()
    for step in range(generator.n_steps):
        torch.testing.assert_close(generator(made, step), guess_in(made))
        generator(made, step).abs().square().sum().backward()
        assert generator.steps[step].last.weight.grad.abs().max() > 0


@pytest.mark.parametrize("architecture", OPERATORS)
@pytest.mark.parametrize("size", [16, 32, 40])
def test_operators_start_at_the_guess_and_learn_in_windows_of_any_size(architecture, size):
    generator = build_generator(ModelConfig(architecture=architecture, fno_width=8))
    made = features(size=size)
    torch.testing.assert_close(generator(made), guess_in(made))
    torch.nn.init.normal_(generator.last.weight, std=0.1)
    generator(made).abs().square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in generator.parameters())
    assert not any(parameter.is_complex() for parameter in generator.parameters())


@pytest.mark.parametrize("block", [FullBlock, FactorisedBlock])
def test_spectral_blocks_see_the_whole_window_and_move_with_the_sample(block):
    made = features(1, 1, 32)[0, :, :4]
    layer = block(4, 6)
    moved = layer(made.roll((5, -3), (-2, -1)))
    torch.testing.assert_close(moved, layer(made).roll((5, -3), (-2, -1)), rtol=1e-4, atol=1e-5)
    # A change of one pixel reaches every other in its row and column, "fno" everywhere.
    made[..., 3, 4] += 1
    reached = (layer(made) - moved.roll((-5, 3), (-2, -1))).abs().amax((0, 1)) > 0
    assert reached[3].all()
    assert reached[:, 4].all()


def test_inputs_of_operators_keep_their_signs():
    made = features()[:, 0]
    for name in ("sqrt", "log1p"):
        assert torch.equal(input_transform(name)(made).sign(), made.sign())
    assert input_transform("none")(made) is made
    assert input_transform("instancenorm")(made).mean((-2, -1)).abs().max() < 1e-5
    with pytest.raises(ModelError, match="log1p"):
        input_transform("log")


def test_width_follows_the_configuration():
    def count(**changes):
        return sum(p.numel() for p in build_generator(ModelConfig(**changes)).parameters())

    assert count(n_filters_scale=1) < count(n_filters_scale=2, max_hidden_channels=80) < count(n_filters_scale=2)


def test_unknown_architecture_names_what_exists():
    with pytest.raises(ModelError, match=r'"neuralop_uno" is not available; available: cnn'):
        build_generator(ModelConfig(architecture="neuralop_uno"))
    assert list(GENERATORS) == ["cnn", "unrolled", *OPERATORS, "linear"]


def test_unknown_head_is_refused():
    with pytest.raises(ModelError, match="amp_phase_logits"):
        build_head("polar", "sigmoid")
    with pytest.raises(ModelError, match="tanh"):
        build_head("amp_phase", "tanh")
