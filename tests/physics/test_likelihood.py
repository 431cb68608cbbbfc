"""Likelihoods: least at the truth, about one at the noise, blind to masked pixels."""

import pytest
import torch

from ptycho_torch.physics.likelihood import amplitude_error, poisson_deviance, r_factor_terms

LIKELIHOODS = [poisson_deviance, amplitude_error]


def rates(mean, seed=0):
    random = torch.rand(4, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return mean * (0.5 + random)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("mean", [20, 1000])
def test_the_deviance_of_poisson_counts_from_their_rates_is_about_one(likelihood, mean):
    expected = rates(mean)
    counts = torch.poisson(expected, generator=torch.Generator().manual_seed(1))
    # 4,096 pixels: the deviance's own spread is √(2/4096) = 0.022; small rates add a bias of 1/(6λ) or so.
    assert likelihood(counts, expected) == pytest.approx([1, 1, 1, 1], abs=0.1)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_truth_is_the_most_likely_scale(likelihood):
    expected = rates(50)
    counts = torch.poisson(expected, generator=torch.Generator().manual_seed(1))
    scales = [0.8, 0.9, 1.0, 1.1, 1.2]
    errors = [float(likelihood(counts, scale * expected).mean()) for scale in scales]
    assert min(errors) == errors[2]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_noiseless_counts_have_no_deviance_and_no_gradient(likelihood):
    expected = rates(50).requires_grad_()
    likelihood(expected.detach(), expected).sum().backward()
    assert float(likelihood(expected.detach(), expected).detach().max()) < 1e-5
    assert float(expected.grad.abs().max()) < 1e-7


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_masked_pixels_do_not_matter(likelihood):
    expected, mask = rates(50), torch.ones(64, 64, dtype=torch.float64)
    mask[:5] = 0
    counts = torch.poisson(expected, generator=torch.Generator().manual_seed(1))
    wrong = counts.clone()
    wrong[:, :5] = 1e6
    assert torch.equal(likelihood(counts, expected, mask), likelihood(wrong, expected, mask))
    assert torch.allclose(likelihood(counts, expected, mask), likelihood(counts[:, 5:], expected[:, 5:]))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_no_light_is_finite_with_finite_gradients(likelihood):
    expected = torch.zeros(1, 4, 4, requires_grad=True)
    value = likelihood(torch.tensor([[[0.0, 1, 0, 2]]]).expand(1, 4, 4), expected)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(expected.grad).all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_likelihoods_have_right_gradients(likelihood):
    counts = torch.tensor([[[0.0, 1.0], [7.0, 30.0]]], dtype=torch.float64)
    expected = (counts * 1.3 + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda expected: likelihood(counts, expected), expected)


def test_the_r_factor_counts_good_pixels_only():
    amplitude, expected = torch.tensor([[[2.0, 9.0]]]), torch.tensor([[[1.0, 4.0]]])
    numerator, denominator = r_factor_terms(amplitude, expected, torch.tensor([[1.0, 0.0]]))
    assert (numerator, denominator) == (1.0, 2.0)
