import math

import numpy as np
import pytest
import torch

from ptycho.errors import DataError
from ptycho_torch.physics.propagate import far_field, to_centred, to_fft_order
from ptycho_torch.simulate.probes import (
    defocused,
    disk,
    gaussian,
    measured,
    power,
    with_modes,
    with_photons,
    zone_plate,
)

ZONE_PLATE = {"aperture": 0.22, "stop": 0.07, "defocus_px2": 60.0}


def far_radii(probe):
    """Share of the far-field power by radius: (radius in cycles per pixel, share)."""
    size = probe.shape[-1]
    share = to_centred(far_field(to_fft_order(probe))).abs().square()
    along = (torch.arange(size) - size // 2) / size
    return torch.hypot(along[:, None], along[None, :]), share / share.sum()


def width_at_half(profile):
    """Full width at half maximum of a sampled peak, interpolated."""
    level = profile / profile.max() - 0.5
    inside = torch.nonzero(level > 0).flatten()
    first, last = int(inside[0]), int(inside[-1])
    left = first - level[first] / (level[first] - level[first - 1])
    right = last + level[last] / (level[last] - level[last + 1])
    return float(right - left)


def test_the_far_field_of_a_zone_plate_is_a_ring_between_stop_and_aperture():
    radius, share = far_radii(zone_plate(64, **ZONE_PLATE))
    assert float(share[(radius > 0.07) & (radius < 0.22)].sum()) > 0.8
    assert float(share[(radius < 0.03) | (radius > 0.26)].sum()) < 0.01


def test_defocus_spreads_a_zone_plate_probe_by_aperture_times_defocus():
    widths = []
    for defocus in (60.0, 120.0):
        light = zone_plate(128, aperture=0.2, stop=0.0, defocus_px2=defocus).abs().square()
        along = torch.arange(128) - 64.0
        widths.append(math.sqrt(float((light * (along[:, None] ** 2 + along**2)).sum() / light.sum())))
    # A uniformly filled cone has an rms radius of its outer radius / √2.
    assert widths[0] == pytest.approx(0.2 * 60 / math.sqrt(2), rel=0.1)
    assert widths[1] / widths[0] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("size", [64, 65])
@pytest.mark.parametrize("make", [zone_plate, gaussian, disk])
def test_a_probe_is_centred_on_index_half_of_its_size(make, size):
    probe = make(size, **ZONE_PLATE) if make is zone_plate else make(size, diameter_px=15)
    light = probe.abs().square()
    along = torch.arange(size, dtype=torch.float32)
    assert float((light.sum(1) * along).sum() / light.sum()) == pytest.approx(size // 2, abs=0.02)
    assert float((light.sum(0) * along).sum() / light.sum()) == pytest.approx(size // 2, abs=0.02)


def test_many_zone_plates_are_made_at_once():
    several = zone_plate(
        32, aperture=torch.tensor([0.2, 0.3]), stop=torch.tensor([0.0, 0.1]), defocus_px2=torch.tensor([10.0, 40.0])
    )
    alone = zone_plate(32, aperture=0.3, stop=0.1, defocus_px2=40)
    assert several.shape == (2, 32, 32)
    assert torch.allclose(several[1], alone, atol=1e-6)


@pytest.mark.parametrize("make", [gaussian, disk])
def test_the_diameter_is_the_full_width_at_half_intensity(make):
    profile = make(64, diameter_px=20).abs().square()[32]
    assert width_at_half(profile) == pytest.approx(20, abs=1.3)


def test_a_gaussian_beam_widens_as_gaussian_optics_says():
    # w(z) = w0 √(1 + (z/zR)²), zR = π w0² in units of λz/dx².
    diameter = 8.0
    waist = diameter / math.sqrt(2 * math.log(2))
    rayleigh = math.pi * waist**2
    profile = gaussian(128, diameter_px=diameter, defocus_px2=rayleigh).abs().square()[64]
    assert width_at_half(profile) == pytest.approx(diameter * math.sqrt(2), rel=0.01)


def test_free_flight_keeps_the_power_and_can_be_undone():
    probe = disk(64, diameter_px=20)
    flown = defocused(probe, 35.0)
    assert float(power(flown)) == pytest.approx(float(power(probe)), rel=1e-5)
    assert torch.allclose(defocused(flown, -35.0), probe, atol=1e-5)
    assert not torch.allclose(flown, probe, atol=0.1)


def test_modes_are_orthogonal_with_the_shares_asked_and_the_first_is_the_probe():
    probe = zone_plate(64, **ZONE_PLATE)
    shares = (0.6, 0.2, 0.15, 0.05)
    modes = with_modes(probe, shares).reshape(4, -1)
    overlaps = modes @ modes.conj().T / power(probe)
    assert torch.allclose(overlaps, torch.diag(torch.tensor(shares)).to(torch.complex64), atol=1e-5)
    assert torch.allclose(modes[0], probe.flatten() * math.sqrt(0.6), atol=1e-5)


def test_all_modes_together_bring_the_photons():
    probe = with_photons(with_modes(disk(32, diameter_px=12), (0.5, 0.5)), 1e5)
    assert float(power(probe)) == pytest.approx(1e5, rel=1e-5)


def test_a_measured_probe_is_read_from_npy_and_npz_and_kept_centred(tmp_path):
    probe = gaussian(64, diameter_px=10).numpy()
    np.save(tmp_path / "probe.npy", probe)
    np.savez(tmp_path / "probes.npz", gauss=probe[None, None])
    for path, key in ((tmp_path / "probe.npy", None), (tmp_path / "probes.npz", "gauss")):
        for size in (48, 64, 65, 96):
            modes = measured(path, key, size)
            assert modes.shape == (1, size, size)
            assert int(modes[0].abs().argmax()) == (size // 2) * size + size // 2


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (np.zeros((8, 8), np.complex64), "not zero"),
        (np.ones((8, 9), np.complex64), "square"),
        (np.full((8, 8), np.nan), "finite"),
        (np.ones((64, 64), np.complex64), "cuts off"),
    ],
)
def test_a_measured_probe_that_cannot_be_one_is_refused(tmp_path, content, word):
    np.save(tmp_path / "probe.npy", content)
    with pytest.raises(DataError, match=word):
        measured(tmp_path / "probe.npy", None, 32)


def test_a_probe_file_that_is_missing_broken_or_without_the_key_is_refused(tmp_path):
    np.savez(tmp_path / "probes.npz", gauss=np.ones((8, 8)))
    (tmp_path / "broken.npy").write_bytes(b"nonsense")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04nonsense")
    with pytest.raises(DataError, match="no such file"):
        measured(tmp_path / "none.npy", None, 8)
    with pytest.raises(DataError, match="It contains: gauss"):
        measured(tmp_path / "probes.npz", "airy", 8)
    with pytest.raises(DataError, match="cannot be read"):
        measured(tmp_path / "broken.npy", None, 8)
    with pytest.raises(DataError, match="cannot be read"):
        measured(tmp_path / "broken.npz", "gauss", 8)
    with pytest.raises(DataError, match="probe_key"):
        measured(tmp_path / "probes.npz", None, 8)
