"""From a client's configurations to ours."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ptycho.config.config import (
    PyTorchExecutionConfig,
    TrainingConfig,
    validate_training_config,
)
from ptycho.data.scan import Scan
from ptycho_torch.api.checkpoint_file import ClientConfigs
from ptycho_torch.api.keywords import require_supported
from ptycho_torch.config_bridge import to_execution_config, to_model_config, to_training_config

log = logging.getLogger(__name__)


def training_of(configs: ClientConfigs, scan: Scan) -> tuple[TrainingConfig, PyTorchExecutionConfig, NDArray[np.int64]]:
    """How to train on a scan, and the scan indices of the frames to train on: those inside the bounds.

    Raises ValueError for settings that contradict each other or cannot be followed.
    """
    require_supported(configs.data, configs.model, configs.training, configs.inference)
    if scan.patch_size != configs.data.N:
        log.info("N = %d is set, but the patterns are %d pixels wide: theirs is taken", configs.data.N, scan.patch_size)
    data = replace(configs.data, N=scan.patch_size)
    chosen = frames_inside(scan.positions_px, data.y_bounds, data.x_bounds)
    model = to_model_config(data, configs.model)
    around_each = data.n_subsample if model.gridsize > 1 else 1
    overrides: dict[str, object] = {
        "n_groups": max(1, len(chosen) * around_each),
        "neighbor_count": max(data.K, model.gridsize**2 - 1),
    }
    if not configs.training.nll:
        overrides["mae_weight"] = 1.0
    training = to_training_config(model, replace(data, K=max(data.K, 1)), configs.model, configs.training, overrides)
    validate_training_config(training)
    # Loading processes and several devices: see keywords.
    client = replace(configs.training, num_workers=0, n_devices=1, strategy="auto")
    return training, to_execution_config(client), chosen


def frames_inside(
    positions_px: NDArray[np.float64], y_bounds: tuple[float, float], x_bounds: tuple[float, float]
) -> NDArray[np.int64]:
    """Indices of the positions (position, 2) inside these fractions of the scanned area's height and width."""
    low, high = positions_px.min(axis=0), positions_px.max(axis=0)
    size = np.where(high > low, high - low, 1)
    place = (positions_px - low) / size
    bounds = np.array([y_bounds, x_bounds])
    # A scan along one line has no extent across it, and every frame is inside.
    inside = ((place >= bounds[:, 0]) & (place <= bounds[:, 1])) | (high == low)
    return np.flatnonzero(inside.all(axis=1))
