"""Small scans with known object and probe for tests of the network method."""

import numpy as np
import torch

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.data.grid import ObjectGrid
from ptycho.data.scan import ArrayFrames, Scan, Truth
from ptycho_torch.physics.forward import expected_counts
from ptycho_torch.physics.patches import Windows, extract_patches
from ptycho_torch.physics.propagate import to_centred


def small_scan(
    side=5, size=32, step_px=3.0, photons=1e5, modes=1, whole_pixels=False, contrast=0.6, seed=0, noise=True
):
    """A jittered raster of side × side frames over a smooth random phase object, under a Gaussian probe."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2) * step_px
    positions = places + rng.uniform(-0.5, 0.5, places.shape)
    positions = positions.round() if whole_pixels else positions
    grid = ObjectGrid.covering(positions, size)
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal(grid.shape)) * _low_pass(grid.shape)).real
    field = (field - field.mean()) / field.std()
    truth = ((1 - 0.1 * (field > 0)) * np.exp(1j * contrast * field)).astype(np.complex64)
    axis = np.arange(size) - size // 2
    gauss = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * (size / 10) ** 2))
    curved = gauss * np.exp(0.02j * (axis[:, None] ** 2 + axis**2))
    probe = np.stack([curved * (axis * 0.2) ** m for m in range(modes)]).astype(np.complex64)
    probe *= np.sqrt(photons / (np.abs(probe) ** 2).sum()).astype(np.float32)
    windows = Windows.at(torch.from_numpy(grid.corners_px(positions, size)), size, grid.shape)
    expected = expected_counts(torch.from_numpy(probe), extract_patches(torch.from_numpy(truth), windows))
    counts = to_centred(expected).numpy().astype(np.float64)
    counts = rng.poisson(counts).astype(np.uint32) if noise else counts.astype(np.float32)
    return Scan(
        name="small",
        path=None,
        frames=ArrayFrames(counts),
        positions_px=positions,
        probe=probe,
        truth=Truth(object=truth, grid=grid, probe=probe),
    )


def small_config(size=32, **changes):
    """A tiny network for such a scan; keywords are fields of ModelConfig or TrainingConfig."""
    model = ModelConfig(N=size, n_filters_scale=1, max_hidden_channels=16)
    config = TrainingConfig(model=model, nepochs=2, batch_size=8, neighbor_count=8)
    for name, value in changes.items():
        setattr(model if hasattr(model, name) else config, name, value)
    return config


def cpu(**changes):
    return PyTorchExecutionConfig(accelerator="cpu", **changes)


def true_patches(scan, indices, width):
    """Patches of the true object (…, y, x) complex64 for scan indices of any shape."""
    corners = torch.from_numpy(scan.truth.grid.corners_px(scan.positions_px[indices.ravel()], width))
    windows = Windows.at(corners, width, scan.truth.grid.shape)
    return extract_patches(torch.from_numpy(scan.truth.object), windows).view(*indices.shape, width, width)


def _low_pass(shape):
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
    return np.exp(-((radius / 0.08) ** 2))
