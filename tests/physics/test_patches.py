"""Extracting and adding patches: exact adjoints, differentiable, true at the edges."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptycho_torch.physics.patches import (
    Windows,
    accumulate_patches,
    accumulate_pattern,
    add_patches,
    extract_patches,
)

SHAPE, SIZE = (13, 17), 6
# Corners in the middle, on whole pixels, and with windows that end exactly at the image's edges.
CORNERS = torch.tensor([[1.25, 2.75], [3.0, 4.0], [0.0, 0.0], [7.0, 11.0], [7.0, 0.5], [6.5, 11.0]]).double()


def random_tensor(*shape, dtype=torch.complex128, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.complex128, torch.float64])
@given(seed=st.integers(0, 1000))
def test_adding_is_the_exact_adjoint_of_extracting(dtype, seed):
    room = torch.tensor([SHAPE[0] - SIZE, SHAPE[1] - SIZE])
    random = torch.rand(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * room
    corners = torch.cat([random, CORNERS])
    windows = Windows.at(corners, SIZE, SHAPE)
    image = random_tensor(*SHAPE, dtype=dtype, seed=seed)
    patches = random_tensor(len(corners), SIZE, SIZE, dtype=dtype, seed=seed + 1)
    left = torch.vdot(extract_patches(image, windows).flatten(), patches.flatten())
    right = torch.vdot(image.flatten(), add_patches(patches, windows, SHAPE).flatten())
    assert abs(left - right) <= 1e-12 * abs(left) + 1e-12


def test_extracting_at_whole_pixels_cuts_out():
    image = random_tensor(*SHAPE)
    patch = extract_patches(image, Windows.at(torch.tensor([[2.0, 5.0]]), SIZE, SHAPE))[0]
    assert torch.equal(patch, image[2 : 2 + SIZE, 5 : 5 + SIZE])


def test_extracting_between_pixels_interpolates_a_plane_exactly():
    y, x = torch.arange(SHAPE[0]).double(), torch.arange(SHAPE[1]).double()
    plane = 3 * y[:, None] - 2 * x[None, :]
    patches = extract_patches(plane, Windows.at(CORNERS, SIZE, SHAPE))
    inside = torch.arange(SIZE).double()
    expected = 3 * (CORNERS[:, 0, None, None] + inside[:, None]) - 2 * (CORNERS[:, 1, None, None] + inside)
    assert torch.allclose(patches, expected, atol=1e-6)


def test_a_window_that_fills_the_image_returns_the_image():
    image = random_tensor(SIZE, SIZE)
    windows = Windows.at(torch.zeros(1, 2), SIZE, (SIZE, SIZE))
    assert torch.equal(extract_patches(image, windows)[0], image)
    assert torch.equal(add_patches(image[None], windows, (SIZE, SIZE)), image)


@pytest.mark.parametrize("corner", [(-0.1, 2.0), (7.1, 2.0), (2.0, 11.5)])
def test_a_window_that_leaves_the_image_is_refused(corner):
    with pytest.raises(ValueError, match="outside the image"):
        Windows.at(torch.tensor([corner]), SIZE, SHAPE)


def test_extracting_and_adding_have_right_gradients():
    windows = Windows.at(CORNERS, SIZE, SHAPE)
    image = random_tensor(*SHAPE).requires_grad_()
    patches = random_tensor(len(CORNERS), SIZE, SIZE).requires_grad_()
    assert torch.autograd.gradcheck(lambda image: extract_patches(image, windows), image)
    assert torch.autograd.gradcheck(lambda patches: add_patches(patches, windows, SHAPE), patches)


def test_accumulating_adds_to_what_is_there():
    windows, patches = Windows.at(CORNERS, SIZE, SHAPE), random_tensor(len(CORNERS), SIZE, SIZE)
    image = random_tensor(*SHAPE, seed=3)
    expected = image + add_patches(patches, windows, SHAPE)
    accumulate_patches(image, patches, windows)
    assert torch.allclose(image, expected, atol=1e-12)


@pytest.mark.parametrize("part", [slice(None), slice(0, 3)])
def test_accumulating_a_pattern_equals_adding_its_copies(part):
    windows, pattern = Windows.at(CORNERS, SIZE, SHAPE)[part], random_tensor(SIZE, SIZE, dtype=torch.float64)
    image = random_tensor(*SHAPE, dtype=torch.float64, seed=3)
    expected = image + add_patches(pattern.expand(len(windows), SIZE, SIZE), windows, SHAPE)
    accumulate_pattern(image, pattern, windows)
    assert torch.allclose(image, expected, atol=1e-12)


def test_no_windows_give_no_patches_and_an_empty_image():
    windows = Windows.at(torch.zeros(0, 2), SIZE, SHAPE)
    assert extract_patches(random_tensor(*SHAPE), windows).shape == (0, SIZE, SIZE)
    assert not add_patches(random_tensor(0, SIZE, SIZE), windows, SHAPE).any()
