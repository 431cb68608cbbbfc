"""The network: oracles of the method, invariances, shapes."""

import numpy as np
import pytest
import torch

from ptycho.config.config import ModelConfig
from ptycho.data.groups import nearest_groups
from ptycho.errors import ModelError
from ptycho_torch.phase_sync import synchronise_phases
from ptycho_torch.physics.likelihood import poisson_deviance
from ptycho_torch.physics.propagate import to_fft_order
from ptycho_torch.pinn.inference import infer_patches
from ptycho_torch.pinn.network import PtychoNetwork
from ptycho_torch.pinn.overlap import agree, group_windows
from ptycho_torch.pinn.trained import TrainedModel
from ptycho_torch.pinn.window import cut_window, fill_frame, lit_window
from ptycho_torch.stitching import Canvas
from tests.pinn.pinn_scans import small_config, small_scan, true_patches


def network_for(scan, **changes):
    """A network whose probe has the scan's true power, so that the true object is in its gauge."""
    photons = float((np.abs(scan.probe) ** 2).sum())
    return PtychoNetwork(small_config(scan.patch_size, **changes).model, scan.probe, photons, scan.mask)


def group_batch(scan, group_size, n=None):
    groups = nearest_groups(scan.positions_px, group_size, max(1, group_size - 1))[:n]
    counts = to_fft_order(torch.from_numpy(scan.frames.read(groups.ravel()).astype(np.float32)))
    return groups, counts.view(*groups.shape, *counts.shape[1:]), torch.from_numpy(scan.positions_px[groups])


def deviance(network, counts, patches):
    return float(poisson_deviance(counts.flatten(0, 1), network.predict(patches).flatten(0, 1), network.mask).mean())


class _TruthNetwork(PtychoNetwork):
    """Returns the true patches of whichever positions it is asked for, each with a global phase of its own."""

    def __init__(self, scan, **changes):
        super().__init__(small_config(scan.patch_size, **changes).model, scan.probe, 1e5)
        self.scan = scan

    def forward(self, counts, positions_px, dose_ratio=1.0):
        at = [(np.abs(self.scan.positions_px - p).sum(1)).argmin() for p in positions_px.flatten(0, 1).numpy()]
        patches = true_patches(self.scan, np.array(at).reshape(counts.shape[:2]), self.window)
        phases = torch.polar(torch.ones(len(at)), torch.arange(len(at)) * 0.7).view(counts.shape[:2])
        return patches * phases[..., None, None]


@pytest.mark.parametrize("gridsize", [1, 2])
def test_true_patches_come_back_through_inference_and_stitching(gridsize):
    scan = small_scan(side=8, step_px=2.0, whole_pixels=True)
    model = TrainedModel(_TruthNetwork(scan, gridsize=gridsize))
    asked = np.random.default_rng(0).permutation(scan.n_positions)
    batches = list(infer_patches(model, scan, asked, batch_size=7))
    indices = np.concatenate([batch.indices for batch in batches])
    patches = torch.cat([batch.patches for batch in batches])
    weight = batches[0].weight
    sync = synchronise_phases(patches, scan.positions_px, weight, indices=indices)
    canvas = Canvas(scan.truth.grid, model.window)
    canvas.add(patches, scan.positions_px[indices], weight, torch.from_numpy(sync.phasors[indices]))
    image, coverage = canvas.image()
    lit = coverage > 1e-2 * coverage.max()
    truth = torch.from_numpy(scan.truth.object)
    factor = (image[lit] * truth[lit].conj()).sum() / truth[lit].abs().square().sum()
    assert factor.abs() == pytest.approx(1, abs=0.01)
    assert ((image / factor - truth)[lit].abs().square().mean().sqrt()) < 0.01


def test_true_patches_through_the_gridsize_2_forward_model_reach_the_poisson_floor():
    scan = small_scan(side=6, photons=1e6, whole_pixels=True)
    network = network_for(scan, gridsize=2)
    groups, counts, positions = group_batch(scan, 4)
    # The lit window's rim is filled with a mean, so the floor is tested with a window as wide as the frame.
    network.window = scan.patch_size
    truth = true_patches(scan, groups, network.window)
    free = truth * torch.polar(torch.ones(groups.shape), torch.rand(groups.shape) * 6)[..., None, None]
    patches = agree(free, positions, network.weight)
    # The many dark pixels of a small frame have a deviance below 1 even at the truth, so the floor is the truth's own.
    floor = deviance(network, counts, truth)
    assert floor < 1.05
    assert deviance(network, counts, patches) == pytest.approx(floor, rel=0.02)


def test_sub_pixel_positions_cost_little_in_the_gridsize_2_forward_model():
    scan = small_scan(side=6, photons=1e5)
    network = network_for(scan, gridsize=2)
    network.window = scan.patch_size
    groups, counts, positions = group_batch(scan, 4)
    truth = true_patches(scan, groups, network.window)
    agreed = deviance(network, counts, agree(truth, positions, network.weight))
    constant = deviance(network, counts, torch.ones_like(truth))
    assert agreed < 0.02 * constant


def test_loss_orders_truth_guess_constant_and_zero():
    scan = small_scan()
    network = network_for(scan, gridsize=2)
    groups, counts, positions = group_batch(scan, 4)
    truth = true_patches(scan, groups, network.window)
    guess = network.guess(counts, positions)
    candidates = [truth, guess, torch.ones_like(truth), torch.zeros_like(truth)]
    losses = [deviance(network, counts, patches) for patches in candidates]
    assert losses == sorted(losses)
    assert losses[1] < 0.3 * losses[2]


def test_members_far_apart_enlarge_the_canvas_and_are_never_clipped():
    positions = torch.tensor([[[0.0, 0.0], [0.0, 500.25], [300.5, -7.0], [3.0, 2.0]]], dtype=torch.float64)
    _, shape = group_windows(positions, 16)
    assert shape[0] >= 316
    assert shape[1] >= 523
    patches = torch.randn(1, 4, 16, 16, dtype=torch.complex64)
    agreed = agree(patches, positions, torch.ones(16, 16))
    # The two that overlap nobody keep their light.
    assert float(agreed[0, 1].abs().sum() / patches[0, 1].abs().sum()) > 0.5


def test_agreement_of_consistent_patches_changes_nothing_and_keeps_each_phase():
    scan = small_scan(whole_pixels=True)
    groups, _, positions = group_batch(scan, 9)
    truth = true_patches(scan, groups, 16)
    turned = truth * torch.polar(torch.ones(groups.shape), 6 * torch.rand(groups.shape))[..., None, None]
    weight = network_for(scan).weight[:16, :16]
    torch.testing.assert_close(agree(turned, positions, weight), turned, rtol=1e-3, atol=1e-3)


def test_groups_do_not_influence_one_another():
    scan = small_scan()
    network = network_for(scan, gridsize=2)
    _, counts, positions = group_batch(scan, 4)
    together = network(counts, positions)
    alone = network(counts[3:5], positions[3:5])
    torch.testing.assert_close(together[3:5], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("gridsize", [1, 2, 3])
@pytest.mark.parametrize("size", [64, 128, 256])
def test_shapes_for_every_group_and_frame_size(gridsize, size):
    scan = small_scan(side=3, size=size, step_px=size / 16)
    network = network_for(scan, gridsize=gridsize)
    _, counts, positions = group_batch(scan, gridsize**2, n=1)
    with torch.no_grad():
        patches = network(counts, positions)
    assert patches.shape == (1, gridsize**2, network.window, network.window)
    assert patches.dtype == torch.complex64
    assert network.window % 8 == 0
    assert network.window < size
    assert network.predict(patches).shape == counts.shape


def test_at_the_start_the_output_is_the_physics_made_guess_near_one():
    scan = small_scan()
    network = network_for(scan, gridsize=2)
    _, counts, positions = group_batch(scan, 4)
    with torch.no_grad():
        patches = network(counts, positions)
    torch.testing.assert_close(patches, network.guess(counts, positions))
    mean = (patches.abs() * network.weight).sum((-2, -1)) / network.weight.sum()
    assert mean.min() > 0.8
    assert mean.max() < 1.2


def test_dose_does_not_change_the_patches():
    scan = small_scan(noise=False)
    _, counts, positions = group_batch(scan, 4)
    network = network_for(scan, gridsize=2)
    torch.nn.init.normal_(network.generator.last.weight, std=0.05)
    with torch.no_grad():
        reference = network(counts, positions)
        torch.testing.assert_close(network(counts / 50, positions, 50.0), reference, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(network.predict(reference, 50.0) * 50, network.predict(reference))
    # Trained at another dose: other counts, other probe power, same features.
    dim = PtychoNetwork(network.config, scan.probe, network.mean_photons / 50)
    dim.generator.load_state_dict(network.generator.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(dim(counts / 50, positions), reference, rtol=1e-3, atol=1e-3)


def test_a_global_phase_of_the_probe_does_not_change_the_patches():
    scan = small_scan(modes=2)
    _, counts, positions = group_batch(scan, 1)
    network = network_for(scan)
    torch.nn.init.normal_(network.generator.last.weight, std=0.05)
    turned = network.with_probe((scan.probe * np.exp(2j)).astype(np.complex64))
    with torch.no_grad():
        torch.testing.assert_close(turned(counts, positions), network(counts, positions), rtol=1e-3, atol=1e-3)


def test_masked_pixels_have_no_influence():
    scan = small_scan()
    mask = np.ones((32, 32), bool)
    mask[10:14, 15:18] = False
    good = to_fft_order(torch.from_numpy(mask))
    network = PtychoNetwork(small_config().model, scan.probe, 1e5, mask)
    _, counts, positions = group_batch(scan, 1)
    broken = torch.where(good, counts, 1e6)
    with torch.no_grad():
        torch.testing.assert_close(network(broken, positions), network(counts * good, positions))


def test_lit_window_holds_the_probe_and_is_a_multiple_of_eight():
    probe = torch.zeros(1, 64, 64, dtype=torch.complex64)
    cut_window(probe, 20).fill_(1)
    assert lit_window(probe, probe_big=True) == 24
    assert lit_window(torch.ones(1, 64, 64), probe_big=True) == 64
    assert lit_window(torch.ones(1, 64, 64), probe_big=False) == 32


def test_outside_the_window_the_patch_is_its_own_mean_or_one():
    patches = torch.full((3, 8, 8), 0.5j, dtype=torch.complex64)
    assert (fill_frame(patches, 16, torch.ones(8, 8)) == 0.5j).all()
    frame = fill_frame(patches, 16, None)
    assert (frame[:, 0] == 1).all()
    assert (cut_window(frame, 8) == 0.5j).all()


def test_without_object_big_every_frame_is_by_itself():
    scan = small_scan()
    _, counts, positions = group_batch(scan, 4)
    apart = network_for(scan, gridsize=2, object_big=False)(counts, positions)
    single = network_for(scan, gridsize=1)(counts[:, :1], positions[:, :1])
    torch.testing.assert_close(apart[:, :1], single)


def test_what_training_did_to_probe_power_and_intensity_belongs_to_the_objects_modulus():
    scan = small_scan()
    network = network_for(scan)
    _, counts, positions = group_batch(scan, 1)
    with torch.no_grad():
        network.log_intensity += np.log(1.21)
        network.probe_parts *= 0.5
        patches = network(counts, positions)
        expected = network.predict(patches)
        matched = PtychoNetwork(small_config(probe_big=False).model, network.matched_probe, network.mean_photons)
        torch.testing.assert_close(network.in_gauge(patches), patches * 0.55)
        torch.testing.assert_close(
            matched.predict(network.in_gauge(patches)), expected, rtol=0.05, atol=expected.mean()
        )
        assert float(matched.predict(network.in_gauge(patches)).sum() / expected.sum()) == pytest.approx(1, abs=0.01)


def test_probe_mask_and_smoothing_of_the_prediction_are_honoured():
    scan = small_scan()
    _, counts, positions = group_batch(scan, 1)
    masked = network_for(scan, probe_mask=True, probe_mask_diameter=6.0)
    assert masked.probe[0, 16, 26].abs() < 0.05 * network_for(scan).probe[0, 16, 26].abs()
    smooth, plain = (network_for(scan, gaussian_smoothing_sigma=s)(counts, positions) for s in (2.0, 0.0))
    assert smooth.diff(dim=-1).abs().mean() < 0.7 * plain.diff(dim=-1).abs().mean()
    torch.testing.assert_close(smooth.mean(), plain.mean(), rtol=0.05, atol=0.05)


def test_probe_of_another_size_or_without_light_is_refused():
    with pytest.raises(ModelError, match=r"N = 64 but the probe is 32 × 32"):
        PtychoNetwork(ModelConfig(N=64), np.ones((1, 32, 32), np.complex64), 1e5)
    with pytest.raises(ModelError, match="0 photons"):
        PtychoNetwork(ModelConfig(N=32), np.ones((1, 32, 32), np.complex64), 0.0)
