"""What `ptycho.workflows.backend_selector` calls: train, reconstruct and reload, from scans or scan files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho.config.config import PyTorchExecutionConfig, TrainingConfig
from ptycho.data.formats import open_scan
from ptycho.data.scan import Scan
from ptycho.jobs.resolve import NETWORK_EXECUTION
from ptycho.parallel import SerialRanks
from ptycho_torch.api.client_work import LogReport, image_for_client, train_for_client, with_label
from ptycho_torch.api.inference_model import InferenceModel
from ptycho_torch.config_bridge import canonical_config
from ptycho_torch.device import rank_device
from ptycho_torch.pinn.bundle import load_bundle, save_bundle
from ptycho_torch.pinn.trained import TrainedModel
from ptycho_torch.stages.network import infer_scan, stitch_scan

ScanLike = Scan | str | Path


def run_cdi_example(
    train_data: ScanLike,
    test_data: ScanLike | None,
    config: TrainingConfig,
    execution_config: PyTorchExecutionConfig | None = None,
    seed: int = 0,
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None, dict[str, Any]]:
    """Train on one scan and reconstruct another: amplitude and phase (y, x) of the stitched object, and results.

    The image is None when there is no test scan. Raises as training and inference do.
    """
    results = train_cdi_model(train_data, test_data, config, execution_config, seed)
    if test_data is None:
        return None, None, results
    scan, execution = _scan(test_data), execution_config or PyTorchExecutionConfig()
    device = rank_device(str(execution.accelerator))
    image = stitch_scan(_model_of(results), scan, SerialRanks(), device, batch_size=execution.inference_batch_size)
    results |= {"object": image.object, "coverage": image.coverage}
    return np.abs(image.object), np.angle(image.object), results


def train_cdi_model(
    train_data: ScanLike,
    test_data: ScanLike | None,
    config: TrainingConfig,
    execution_config: PyTorchExecutionConfig | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Train on a scan and write the model archive into `config.output_dir`: model, metrics and history.

    test_data is not trained on: validation is a region of the training scan. A supervised training takes the object in
    the scan's file as the known one.
    """
    # Lightning takes seconds to import, which reloading a model should not pay.
    from ptycho_torch.pinn.metric_log import training_logs
    from ptycho_torch.pinn.training import train

    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    execution = execution_config or PyTorchExecutionConfig()
    model = train(
        with_label(_scan(train_data), config),
        config,
        execution,
        seed=seed,
        checkpoint_dir=folder / "checkpoints",
        report=LogReport(),
        callbacks=training_logs(execution, folder / "logs"),
    )
    archive = save_bundle(model, folder)
    return {"model": model, "model_path": archive, "metrics": model.metrics, "history": model.history}


def run_client_example(
    train_data: Scan, test_data: Scan | None, config: TrainingConfig, execution_config: PyTorchExecutionConfig | None
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None, dict[str, Any]]:
    """The same for `ptycho.workflows.components`, whose callers save by themselves: no file is written.

    Without a number of groups, which ptychodus cannot give, an epoch has one group around every pattern; without an
    execution configuration, training goes as in a job. The image lies on the pixels of the scan's own object.
    """
    execution = execution_config or canonical_config(PyTorchExecutionConfig, NETWORK_EXECUTION)
    if config.leaves_n_groups_open:
        config = replace(config, n_groups=train_data.n_positions)
    model = InferenceModel.of(train_for_client(train_data, config, execution))
    results: dict[str, Any] = {"model": model, "metrics": model.metrics, "history": model.history}
    if test_data is None:
        return None, None, results
    device = rank_device(str(execution.accelerator))
    seen = model if test_data.probe is None else model.with_probe(test_data.probe, test_data.mask)
    found = infer_scan(seen, test_data, SerialRanks(), device, batch_size=execution.inference_batch_size)
    image = image_for_client(found, test_data.object_grid or test_data.grid, device)
    return np.abs(image), np.angle(image), results


def load_inference_bundle(bundle_dir: Path) -> tuple[InferenceModel, dict[str, Any]]:
    """A trained model and its configuration (N, gridsize, …) from a folder with wts.h5.zip, or its unpacked content."""
    model = InferenceModel.of(load_bundle(bundle_dir))
    return model, dict(vars(model.config))


def _scan(data: ScanLike) -> Scan:
    return data if isinstance(data, Scan) else open_scan(Path(data))


def _model_of(results: dict[str, Any]) -> TrainedModel:
    model: TrainedModel = results["model"]
    return model
