"""The call of the model archive: amplitudes, positions, probe and scale in, patches out."""

import numpy as np
import pytest
import torch

from ptycho.errors import ModelError
from ptycho_torch.api.inference_model import InferenceModel
from ptycho_torch.physics.propagate import to_fft_order
from ptycho_torch.pinn.network import PtychoNetwork
from ptycho_torch.pinn.trained import TrainedModel
from tests.pinn.pinn_scans import small_config, small_scan, true_patches


@pytest.fixture
def scan():
    torch.set_num_threads(1)
    return small_scan(modes=2, noise=False)


@pytest.fixture
def model(scan):
    network = PtychoNetwork(small_config(gridsize=2).model, scan.probe, 1e5)
    return InferenceModel.of(TrainedModel(network.eval()))


@pytest.mark.parametrize("scale_shape", [(2,), (2, 1, 1, 1)])
def test_patches_have_the_frames_size_and_resemble_the_truth(scan, model, scale_shape):
    groups = np.array([[6, 7, 11, 12], [16, 17, 11, 12]])
    amplitude = torch.from_numpy(np.sqrt(scan.frames.read(groups.ravel())).reshape(2, 4, 32, 32).astype(np.float32))
    positions = torch.from_numpy(scan.positions_px[groups])[:, :, None].float()
    scale = torch.full(scale_shape, 100.0)
    patches = model.diffraction_to_obj(amplitude / 100, positions, torch.from_numpy(scan.probe), scale)
    assert (patches.shape, patches.dtype) == ((2, 4, 32, 32), torch.complex64)
    truth, weight = true_patches(scan, groups, 32), np.abs(scan.probe[0]) ** 2
    light = torch.from_numpy(weight / weight.sum())
    seen, flat = (likeness(found, truth, light) for found in (patches, torch.ones_like(patches)))
    assert seen.min() > 0.94 > flat.max()
    # The predicted counts are those that were measured: order, scale and centring are right.
    with torch.inference_mode():
        expected = model.network.predict(model.network(to_fft_order(amplitude**2), positions[:, :, 0].double()))
    assert float(expected.sum() / amplitude.square().sum()) == pytest.approx(1, abs=0.05)


def likeness(patches, truth, light):
    """Correlation (…) of patches (…, y, x) with the truth under a light (y, x), each patch's phase free."""
    product = (patches.conj() * truth * light).sum((-2, -1)).abs()
    norms = [(part.abs().square() * light).sum((-2, -1)).sqrt() for part in (patches, truth)]
    return product / norms[0] / norms[1]


def test_shapes_that_do_not_fit_are_refused(scan, model):
    x, probe = torch.ones(1, 4, 16, 16), torch.from_numpy(scan.probe)
    with pytest.raises(ModelError, match=r"x of shape \(1, 4, 16, 16\)"):
        model.diffraction_to_obj(x, torch.zeros(1, 4, 1, 2), probe, torch.ones(1))
