"""Fourier neural operators in the place of the default network."""

import numpy as np
import pytest
import torch

from ptycho_torch.pinn.bundle import load_bundle, save_bundle
from ptycho_torch.pinn.inference import infer_patches
from ptycho_torch.pinn.training import train
from tests.pinn.pinn_scans import cpu, small_config, small_scan


@pytest.mark.parametrize("architecture", ["fno", "ffno"])
def test_operators_learn_a_scan_and_come_back_from_a_bundle(tmp_path, architecture):
    scan = small_scan()
    config = small_config(architecture=architecture, fno_width=8, fno_blocks=2, fno_modes=6, gridsize=2, nepochs=6)
    config.n_groups = scan.n_positions
    model = train(scan, config, cpu(learning_rate=4e-3))
    assert model.metrics["loss"] < 0.85 * model.metrics["loss_guess"] < 0.4 * model.metrics["loss_constant"]
    back = load_bundle(save_bundle(model, tmp_path))
    (before,), (after,) = (list(infer_patches(one, scan, np.arange(4))) for one in (model, back))
    assert torch.equal(before.patches, after.patches)
