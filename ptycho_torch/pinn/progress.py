"""The callback that watches a training: checkpoints, stops, validation, one report for each epoch."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ptycho.errors import CancelledError, WorkError
from ptycho.parallel import Ranks
from ptycho_torch.pinn.checkpoint import TrainingState
from ptycho_torch.pinn.module import PtychoPINN

STAGE = "train"


class TrainingReport(Protocol):
    """Where training tells how it goes."""

    def epoch(self, stage: str, epoch: int, n_epochs: int, **numbers: float) -> None: ...

    def progress(self, stage: str, done: int, total: int) -> None: ...

    def checkpoint(self, stage: str, epoch: int) -> None: ...

    def message(self, text: str) -> None: ...


class SilentReport:
    """A report to nobody."""

    def epoch(self, stage: str, epoch: int, n_epochs: int, **numbers: float) -> None:
        pass

    def progress(self, stage: str, done: int, total: int) -> None:
        pass

    def checkpoint(self, stage: str, epoch: int) -> None:
        pass

    def message(self, text: str) -> None:
        pass


class TrainingWatch(Callback):
    """Keeps `state` up to date on every rank; rank 0 writes it.

    Every rank takes the same decisions: losses are summed over ranks, `should_stop` and the clock are asked together.
    """

    def __init__(
        self,
        state: TrainingState,
        ranks: Ranks,
        report: TrainingReport,
        should_stop: Callable[[], bool],
        *,
        folder: Path | None,
        checkpoint_every_s: float,
        n_epochs: int,
        batches_per_epoch: int,
        group_size: int,
        patience: int,
        keep_best: bool,
    ) -> None:
        self.state, self._ranks, self._report, self._should_stop = state, ranks, report, should_stop
        self._folder, self._checkpoint_every_s = folder, checkpoint_every_s
        self._n_epochs, self._batches_per_epoch = n_epochs, batches_per_epoch
        self._group_size, self._patience, self._keep_best = group_size, patience, keep_best
        self._sigterm = signal.getsignal(signal.SIGTERM)
        self._saved_at = self._began_at = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up optimiser and schedule where they were."""
        # Lightning's own handler of SIGTERM does a collective inside the handler; the job runner's only sets a flag.
        if threading.current_thread() is threading.main_thread() and self._sigterm is not None:
            signal.signal(signal.SIGTERM, self._sigterm)
        if self.state.optimizer:
            trainer.optimizers[0].load_state_dict(self.state.optimizer)
            trainer.lr_scheduler_configs[0].scheduler.load_state_dict(self.state.scheduler)
            trainer.precision_plugin.load_state_dict(self.state.scaler)
        self._began_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the loss, then save and stop when asked to."""
        state = self.state
        state.batch += 1
        self._report.progress(
            STAGE, state.epoch * self._batches_per_epoch + state.batch, self._n_epochs * self._batches_per_epoch
        )
        is_late = self._ranks.rank == 0 and time.monotonic() - self._saved_at > self._checkpoint_every_s
        flags = np.array([not bool(torch.isfinite(outputs["loss"])), is_late], np.float64)
        self._ranks.all_sum(flags)
        if flags[0]:
            raise _diverged(f"loss is not a finite number in epoch {state.epoch + 1}, batch {state.batch}")
        stopping = self._should_stop()
        # Gradients that still accumulate are in no checkpoint; the end of an epoch is saved with its validation.
        between_steps = state.batch % trainer.accumulate_grad_batches == 0
        if state.batch < self._batches_per_epoch and between_steps and (stopping or flags[1]):
            self._save(trainer, pl_module)
            if stopping:
                raise CancelledError(f"Training was stopped in epoch {state.epoch + 1}; its state is saved.")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell other callbacks the loss on held-out groups, as `val_loss`, before the epoch ends."""
        assert isinstance(pl_module, PtychoPINN)
        sums = pl_module.sums[3:].clone()
        self._ranks.all_sum(sums)
        pl_module.log("val_loss", sums[0] / sums[2])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sum the losses over ranks, remember the best weights, report, save."""
        assert isinstance(pl_module, PtychoPINN)
        state = self.state
        train, validation = self._epoch_sums(pl_module)
        numbers = self._numbers(trainer, train, validation)
        pl_module.sums.zero_()
        monitored = numbers.get("val_loss", numbers["loss"])
        pl_module.log_dict({"monitored_loss": monitored, "train_loss": numbers["loss"]})
        scheduler = trainer.lr_scheduler_configs[0].scheduler
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(monitored)
        self._remember(monitored, pl_module)
        state.history.append(numbers)
        state.epoch, state.batch, state.sums = state.epoch + 1, 0, [0.0, 0.0, 0.0]
        state.finished = state.epoch >= self._n_epochs or state.epochs_since_best >= self._patience
        self._report.epoch(STAGE, state.epoch, self._n_epochs, **numbers)
        stopping = self._should_stop()
        self._save(trainer, pl_module)
        if state.finished:
            trainer.should_stop = True
        elif stopping:
            raise CancelledError(f"Training was stopped after epoch {state.epoch}; its state is saved.")

    def _epoch_sums(self, module: PtychoPINN) -> tuple[list[float], list[float]]:
        sums = module.sums.clone()
        if self._ranks.rank == 0:
            # What was done of this epoch before a restart is known to the checkpoint alone.
            sums[:3] += torch.tensor(self.state.sums, dtype=torch.float64)
        self._ranks.all_sum(sums)
        return sums[:3].tolist(), sums[3:].tolist()

    def _numbers(self, trainer: Trainer, train: list[float], validation: list[float]) -> dict[str, float]:
        seconds = self.state.seconds + time.monotonic() - self._began_at
        numbers = {"loss": train[0] / train[2], "deviance": train[1] / train[2]}
        if validation[2]:
            numbers |= {"val_loss": validation[0] / validation[2], "val_deviance": validation[1] / validation[2]}
        numbers["learning_rate"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        numbers["patterns_per_s"] = train[2] * self._group_size / max(seconds, 1e-9)
        numbers["seconds"] = seconds
        self.state.seconds, self._began_at = 0.0, time.monotonic()
        return numbers

    def _remember(self, monitored: float, module: PtychoPINN) -> None:
        state = self.state
        if monitored < state.best_loss:
            state.best_loss, state.epochs_since_best = monitored, 0
            if self._keep_best:
                state.best_weights = _weights_of(module)
        else:
            state.epochs_since_best += 1

    def _save(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, PtychoPINN)
        # A gradient may be lost where the loss was not. All ranks hold the same weights and answer alike.
        if not all(bool(torch.isfinite(parameter).all()) for parameter in module.parameters()):
            raise _diverged(f"weights are not finite numbers after {self.state.epoch} epochs")
        self._saved_at = time.monotonic()
        if self._folder is None:
            return
        state = self.state
        if state.batch:
            sums, _ = self._epoch_sums(module)
            state.sums = sums
            module.sums[:3] = 0
            state.seconds += time.monotonic() - self._began_at
            self._began_at = time.monotonic()
        if self._ranks.rank != 0:
            state.sums = [0.0, 0.0, 0.0]
            return
        state.weights = _weights_of(module)
        state.optimizer = trainer.optimizers[0].state_dict()
        state.scheduler = trainer.lr_scheduler_configs[0].scheduler.state_dict()
        state.scaler = trainer.precision_plugin.state_dict()
        state.save(self._folder)
        self._report.checkpoint(STAGE, state.epoch)


def _diverged(what: str) -> WorkError:
    return WorkError(
        f"The training {what}; lower execution.learning_rate or set training.gradient_clip_val = 1."
        " The last checkpoint is kept."
    )


def _weights_of(module: PtychoPINN) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in module.network.state_dict().items()}
