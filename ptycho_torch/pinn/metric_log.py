"""Metrics and patches of a training, for the tools with which people watch one: Lightning's loggers, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from ptycho.config.config import PyTorchExecutionConfig
from ptycho.errors import PackageError
from ptycho_torch.pinn.inference import infer_patches
from ptycho_torch.pinn.module import PtychoPINN
from ptycho_torch.pinn.trained import TrainedModel

_PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow"}


def training_logs(execution: PyTorchExecutionConfig, folder: Path, *, csv: bool = True) -> list[Callback]:
    """Callbacks that log what the configuration asks for, below a folder.

    csv: whether "csv" means a file here; a job writes metrics.jsonl anyway. Raises PackageError for a logger whose
    package is not installed.
    """
    logs: list[Callback] = []
    backend = execution.logger_backend
    if backend not in (None, "none") and (csv or backend != "csv"):
        logs.append(MetricLog(_logger(str(backend), folder)))
    if execution.recon_log_every_n_epochs is not None:
        logs.append(PatchLog(execution, folder / "patches"))
    return logs


class MetricLog(Callback):
    """Hands the numbers of every epoch to one of Lightning's loggers."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch, on the first rank."""
        if trainer.is_global_zero:
            numbers = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self._logger.log_metrics(numbers, step=trainer.current_epoch)
            self._logger.save()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the log."""
        if trainer.is_global_zero:
            self._logger.finalize("success")


class PatchLog(Callback):
    """Writes predicted patches of some frames every few epochs: epoch-0010.npz with indices, patches, residual."""

    def __init__(self, execution: PyTorchExecutionConfig, folder: Path) -> None:
        self._every, self._folder = execution.recon_log_every_n_epochs or 1, folder
        fixed = execution.recon_log_fixed_indices
        self._indices = list(fixed) if fixed is not None else list(range(execution.recon_log_num_patches))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the patches of this epoch, on the first rank."""
        epoch = trainer.current_epoch + 1
        if epoch % self._every or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, PtychoPINN)
        scan = getattr(trainer.datamodule, "scan", None)  # type: ignore[attr-defined]
        if scan is None:  # a training on random scenes has no frames that stay the same
            return
        indices = np.array([index for index in self._indices if index < scan.n_positions], np.int64)
        device = next(pl_module.network.parameters()).device
        (*batches,) = infer_patches(TrainedModel(pl_module.network), scan, indices, device=device)
        pl_module.network.train()
        self._folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            self._folder / f"epoch-{epoch:04d}.npz",
            indices=np.concatenate([batch.indices for batch in batches]),
            patches=np.concatenate([batch.patches.cpu().numpy() for batch in batches]),
            residual=np.concatenate([batch.residual for batch in batches]),
        )


def _logger(backend: str, folder: Path) -> Any:
    """Any: the loggers have no common type that says what is used of them."""
    from lightning.pytorch import loggers

    try:
        if backend == "csv":
            return loggers.CSVLogger(folder, name="", version="")
        if backend == "tensorboard":
            return loggers.TensorBoardLogger(folder, name="", version="")
        return loggers.MLFlowLogger(save_dir=str(folder / "mlruns"))
    except ModuleNotFoundError as error:
        raise PackageError(
            f'logger_backend = "{backend}" needs {_PACKAGES[backend]}, which is not installed. Install it with:'
            f' pip install {_PACKAGES[backend]}, or choose "csv".'
        ) from error
