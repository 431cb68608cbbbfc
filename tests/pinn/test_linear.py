"""The linear inverse: right to first order, forgiving to a wrong probe, and a first image without training."""

import numpy as np
import pytest
import torch

from ptycho.config.config import ModelConfig
from ptycho.errors import ModelError
from ptycho.evaluation.alignment import align
from ptycho.evaluation.metrics import scanned_region, score
from ptycho.parallel import SerialRanks
from ptycho_torch.physics.forward import expected_counts
from ptycho_torch.physics.propagate import to_fft_order
from ptycho_torch.pinn.inference import infer_patches, linear_model
from ptycho_torch.pinn.linear import LinearInverse
from ptycho_torch.pinn.training import train
from ptycho_torch.pinn.window import cut_window
from ptycho_torch.simulate.probes import with_photons, zone_plate
from ptycho_torch.stages.network import stitch_scan
from tests.pinn.pinn_scans import cpu, small_config, small_scan
from tests.thread_ranks import run_on_ranks

N, WINDOW = 64, 32
LINEAR = ModelConfig(N=32, architecture="linear")


def probe(photons=1e8, size=N):
    made = zone_plate(size, aperture=0.22, stop=0.07, defocus_px2=60.0)
    return with_photons(made[None], photons)


def smooth_patch(strength):
    """A wave of phase and absorption across the beam."""
    axis = torch.arange(N) - N // 2
    wave = torch.sin(axis[:, None] * 0.15 + 0.4) * torch.cos(axis * 0.12)
    return torch.polar(1 - 0.2 * strength * wave.flip(0), strength * wave)[None]


def likeness(found, wanted, weight):
    """Weighted correlation of two phase images, each less its own mean."""
    parts = [torch.angle(image) for image in (found, wanted)]
    parts = [part - (part * weight).sum() / weight.sum() for part in parts]
    inner = [(a * b * weight).sum() for a, b in ((parts[0], parts[1]), (parts[0], parts[0]), (parts[1], parts[1]))]
    return float(inner[0] / (inner[1] * inner[2]).sqrt())


def test_a_weak_smooth_object_is_found_in_one_step():
    light, wanted = probe(), smooth_patch(0.1)
    found = LinearInverse(light, WINDOW, None).patches(expected_counts(light, wanted).sqrt())
    weight = cut_window(light[0].abs().square(), WINDOW)
    assert likeness(cut_window(found, WINDOW)[0], cut_window(wanted, WINDOW)[0], weight) > 0.93


def test_a_flat_object_stays_flat():
    light = probe()
    found = LinearInverse(light, WINDOW, None).patches(expected_counts(light, torch.ones_like(light)).sqrt())
    torch.testing.assert_close(found, torch.ones_like(found), rtol=0, atol=1e-4)


def test_a_reference_forgives_what_the_probe_has_wrong():
    light = probe()
    wrong = probe() * torch.polar(torch.ones(N, N), 0.3 * torch.cos(torch.arange(N) * 0.2)[None].expand(N, N))
    flat = expected_counts(light, torch.ones_like(light))[0].sqrt()
    with_reference = LinearInverse(wrong, WINDOW, None, flat).patches(flat[None])
    without = LinearInverse(wrong, WINDOW, None).patches(flat[None])
    assert (with_reference - 1).abs().max() < 1e-4 < (without - 1).abs().max()


def test_masked_pixels_have_no_influence():
    light = probe()
    mask = torch.ones(N, N)
    mask[5:9, 3:20] = 0
    inverse = LinearInverse(light, WINDOW, mask)
    amplitude = expected_counts(light, smooth_patch(0.3)).sqrt()
    broken = torch.where(mask > 0, amplitude, 1e5)
    assert torch.equal(inverse.patches(broken), inverse.patches(amplitude))


def test_modes_add_up():
    light = probe()
    two = torch.cat([light * 0.8, light * 0.6])
    amplitude = expected_counts(light, smooth_patch(0.2)).sqrt()
    one = LinearInverse(light, WINDOW, None).patches(amplitude)
    torch.testing.assert_close(LinearInverse(two, WINDOW, None).patches(amplitude), one, rtol=0, atol=1e-3)


def test_the_first_image_is_near_the_truth_without_training():
    scan = small_scan(side=8, photons=1e6)
    model = linear_model(scan, LINEAR, np.arange(scan.n_positions), SerialRanks())
    image = stitch_scan(model, scan, SerialRanks(), torch.device("cpu"))
    region = scanned_region(scan.positions_px, scan.probe, scan.grid)

    def phase_error(found):
        return score(align(found, scan.truth.object, region).image, scan.truth.object, region).phase_rmse_rad

    assert phase_error(image.object) < 0.5 * phase_error(np.ones_like(image.object))
    assert image.per_frame["confidence"].min() > 0.5


def test_ranks_make_the_same_model():
    scan = small_scan()

    def reference(ranks):
        owned = np.array_split(np.arange(scan.n_positions), ranks.size)[ranks.rank]
        return linear_model(scan, LINEAR, owned, ranks).network.reference

    alone = reference(SerialRanks())
    torch.testing.assert_close(alone, to_fft_order(torch.from_numpy(np.sqrt(scan.frames.read(np.arange(25))))
                                                   .float()).mean(0))  # fmt: skip
    for part in run_on_ranks(3, reference):
        torch.testing.assert_close(part, alone)


def test_groups_of_frames_work_too():
    scan = small_scan()
    config = ModelConfig(N=32, architecture="linear", gridsize=2)
    model = linear_model(scan, config, np.arange(scan.n_positions), SerialRanks())
    batch = next(infer_patches(model, scan, np.arange(4)))
    assert batch.patches.isfinite().all()


def test_there_is_nothing_to_train():
    with pytest.raises(ModelError, match="nothing to train"):
        train(small_scan(), small_config(architecture="linear"), cpu())
