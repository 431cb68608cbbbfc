import numpy as np
import pytest
import torch

from ptycho_torch.simulate.leaves import fallen_leaves
from ptycho_torch.simulate.objects import OBJECTS, ObjectOptions
from ptycho_torch.simulate.patterns import gaussian_field, grains, soften, star

OPTIONS = ObjectOptions(phase_range_rad=1.2, amplitude_min=0.8, feature_px=8)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", OBJECTS)
def test_an_object_stays_within_the_contrast_asked_and_uses_it(kind):
    image = OBJECTS[kind]((120, 97), OPTIONS, seeded())
    assert image.shape == (120, 97)
    assert image.dtype == torch.complex64
    phase, amplitude = image.angle(), image.abs()
    assert float(phase.min()) == pytest.approx(-0.6, abs=1e-5)
    assert float(phase.max()) == pytest.approx(0.6, abs=1e-5)
    assert float(amplitude.min()) == pytest.approx(0.8, abs=1e-5)
    assert float(amplitude.max()) == pytest.approx(1, abs=1e-5)
    assert 0.15 < float(phase.std()) < 0.6


@pytest.mark.parametrize("kind", OBJECTS)
def test_the_same_seed_draws_the_same_object_and_another_seed_another(kind):
    first, again, other = (OBJECTS[kind]((64, 64), OPTIONS, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert float((first - other).abs().mean()) > 0.01


@pytest.mark.parametrize("kind", OBJECTS)
def test_a_batch_holds_different_objects_each_with_its_own_contrast(kind):
    contrast = torch.tensor([0.5, 1.0, 2.0])[:, None, None]
    options = ObjectOptions(phase_range_rad=contrast, amplitude_min=0.8, feature_px=6)
    images = OBJECTS[kind]((3, 72, 80), options, seeded())
    assert images.shape == (3, 72, 80)
    spans = images.angle().amax((1, 2)) - images.angle().amin((1, 2))
    assert spans.tolist() == pytest.approx([0.5, 1.0, 2.0], abs=1e-4)
    unscaled = images.angle() / contrast
    assert float((unscaled[0] - unscaled[1]).abs().mean()) > 0.01


@pytest.mark.parametrize("kind", ["natural", "leaves"])
def test_scenes_have_the_amplitude_spectrum_of_natural_images(kind):
    # Field (1987) and later: amplitude falls about as 1/f, with exponents from 0.8 to 1.5 for single pictures.
    images = OBJECTS[kind]((4, 256, 256), OPTIONS, seeded()).angle().numpy()
    taper = np.hanning(256)[:, None] * np.hanning(256)
    spectrum = np.abs(np.fft.fft2((images - images.mean((1, 2), keepdims=True)) * taper)).mean(0)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256), indexing="ij"))
    frequencies = 2.0 ** np.arange(-6, -2)
    means = [spectrum[(radius > f) & (radius < 1.4 * f)].mean() for f in frequencies]
    assert -1.7 < np.polyfit(np.log(frequencies), np.log(means), 1)[0] < -0.8


def test_a_gaussian_field_has_the_spectrum_asked():
    field = gaussian_field((32, 128, 128), seeded(), exponent=1.5, coarsest_px=1e4)
    spectrum = torch.fft.fft2(field * torch.hann_window(128)[:, None] * torch.hann_window(128)).abs().square().mean(0)
    radius = torch.hypot(torch.fft.fftfreq(128)[:, None], torch.fft.fftfreq(128)[None, :])
    low, high = (spectrum[(radius > f) & (radius < 1.2 * f)].mean() for f in (0.05, 0.2))
    assert float(torch.log(low / high) / np.log(4)) == pytest.approx(3, abs=0.3)
    assert field.square().mean((1, 2)).numpy() == pytest.approx(np.ones(32), abs=1e-3)
    assert float(field.mean((1, 2)).abs().max()) < 1e-4


def test_a_gaussian_field_does_not_wrap_round_its_edges():
    field = gaussian_field((16, 100, 100), seeded(), exponent=2, coarsest_px=200)
    neighbours = (field[:, 1] - field[:, 0]).square().mean()
    opposite = (field[:, -1] - field[:, 0]).square().mean()
    assert float(opposite) > 10 * float(neighbours)


def test_leaves_hide_what_lies_under_them_and_reach_every_edge():
    scene = fallen_leaves((2, 90, 70), seeded(), smallest_px=3, largest_px=20)
    assert 0.01 < float((scene.top == 0).float().mean()) < 0.15
    rows, columns = (scene.top > 0).float().mean((0, 2)), (scene.top > 0).float().mean((0, 1))
    assert float(rows.min()) > 0.5
    assert float(columns.min()) > 0.5
    on_leaf = scene.top > 0
    # Every pixel lies inside the leaf that it shows.
    assert float(torch.maximum(scene.along.abs(), scene.across.abs())[on_leaf].max()) <= 1.0001
    tone = scene.draw(seeded(5))
    assert len(tone[0][scene.top[0] == scene.top[0, 40, 30]].unique()) == 1


def test_large_leaves_cover_as_much_as_small_ones():
    shares = []
    for seed in range(6):
        scene = fallen_leaves((160, 160), seeded(seed), smallest_px=4, largest_px=32)
        areas = torch.bincount(scene.top.flatten())[1:]
        shares.append(float(areas[areas > 3.14 * 11**2 * 0.4].sum() / areas.sum()))
    assert 0.2 < np.mean(shares) < 0.7


def test_a_star_has_as_many_spokes_as_asked_half_metal_half_gap():
    image = star((301, 301), seeded(), n_spokes=36, roughness_px=0.0)
    angles = torch.arange(7200) / 7200 * 2 * torch.pi
    y, x = (150 + 100 * f(angles) for f in (torch.sin, torch.cos))
    ring = image[y.round().long(), x.round().long()]
    rises = ((ring > 0.5) & (ring.roll(1) <= 0.5)).sum()
    assert int(rises) == 36
    assert float(ring.mean()) == pytest.approx(0.5, abs=0.02)
    assert 0.05 < float(((image > 0.05) & (image < 0.95)).float().mean()) < 0.4


def test_grains_are_the_cells_of_the_nearest_seed():
    level, boundary = grains((1, 96, 96), seeded(), size_px=12)
    n_grains = len(level.unique())
    assert 50 < n_grains < 110
    inside = boundary < 0.01
    flat = inside[:, :, 1:] & inside[:, :, :-1]
    assert float((level[:, :, 1:] - level[:, :, :-1]).abs()[flat].max()) == 0


def test_softening_keeps_the_mean_and_flat_images():
    image = torch.rand((2, 40, 40), generator=seeded())
    assert float(soften(image, 1.0).mean()) == pytest.approx(float(image.mean()), abs=0.01)
    flat = torch.full((10, 10), 0.3)
    assert torch.allclose(soften(flat, 2.0), flat, atol=1e-6)
