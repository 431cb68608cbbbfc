"""The LightningModule: one training step of the network, unsupervised or supervised."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ptycho.config.config import TrainingConfig
from ptycho_torch.physics.likelihood import poisson_deviance
from ptycho_torch.pinn.losses import data_loss, object_mae, smoothness_loss
from ptycho_torch.pinn.network import PtychoNetwork
from ptycho_torch.pinn.optimisation import build_optimizer, build_scheduler, clip_gradients


class GroupBatch(NamedTuple):
    """This rank's part of one batch of groups.

    counts:       (group, frame, y, x) float32, FFT order
    positions_px: (group, frame, 2) float64, window centres (y, x)
    share:        (group,) float32: 1 over the number of groups in the whole batch; 0 for a stand-in where a rank
                  has no group of the batch, because every rank has to take part in every step
    truth:        (group, frame, y, x) complex64 patches of the lit window, or None
    probes:       (group, frame, mode, y, x) the probes that the network is told, or None: its own for all
    true_probes:  the same shape, the probes that made the counts where they are others than the network is told
    """

    counts: Tensor
    positions_px: Tensor
    share: Tensor
    truth: Tensor | None
    probes: Tensor | None = None
    true_probes: Tensor | None = None


class PtychoPINN(LightningModule):
    """Losses and optimiser around a PtychoNetwork.

    `sums` adds up, over the batches of an epoch and on this rank alone: training loss, deviance and weight, then
    the same three of validation. The owner reads and clears them.
    """

    def __init__(
        self,
        network: PtychoNetwork,
        config: TrainingConfig,
        *,
        learning_rate: float,
        scheduler: str = "Default",
        gradient_clip: tuple[float | None, str] = (None, "norm"),
        steps_per_epoch: int = 1,
        n_ranks: int = 1,
        own_probe: bool = True,
    ) -> None:
        """own_probe: whether the counts are of the network's own probe, and not of others that a batch brings."""
        super().__init__()
        self.network = network
        self.config = config
        self.supervised = config.model.model_type == "supervised"
        self._learning_rate, self._scheduler, self._gradient_clip = learning_rate, scheduler, gradient_clip
        self._steps_per_epoch, self._n_ranks = steps_per_epoch, n_ranks
        self.sums = torch.zeros(6, dtype=torch.float64)
        network.make_trainable(
            probe=config.probe_trainable and own_probe and not self.supervised,
            intensity=config.intensity_scale_trainable and own_probe and not self.supervised,
        )

    def losses(self, batch: GroupBatch) -> tuple[Tensor, Tensor]:
        """Loss and deviance per pixel, each (group,)."""
        patches = self.network(batch.counts, batch.positions_px, probes=batch.probes)
        return self.losses_of(patches, batch)

    def losses_of(self, patches: Tensor, batch: GroupBatch) -> tuple[Tensor, Tensor]:
        """The same for given patches (group, frame, y, x): the generator's own, the truth or a constant."""
        network, shape = self.network, patches.shape[:2]
        counts, flat = batch.counts.flatten(0, 1), patches.flatten(0, 1)
        light = batch.probes if batch.true_probes is None else batch.true_probes
        weight = network.weight_of(light)
        expected = network.predict(patches, probes=light).flatten(0, 1)
        deviance = poisson_deviance(counts, expected.detach(), network.mask)
        weights = self.config
        if self.supervised:
            assert batch.truth is not None
            loss = object_mae(flat, batch.truth.flatten(0, 1), weight)
        else:
            loss = data_loss(weights, counts, expected, network.mask)
            if weights.realspace_mae_weight and batch.truth is not None:
                truth = batch.truth.flatten(0, 1)
                loss = loss + weights.realspace_mae_weight * object_mae(flat, truth, weight)
        if weights.realspace_weight:
            loss = loss + weights.realspace_weight * smoothness_loss(flat, weight)
        return loss.view(shape).mean(1), deviance.view(shape).mean(1)

    def training_step(self, batch: GroupBatch, index: int) -> Tensor:
        """This rank's share of the batch's mean loss, times the ranks, because DDP averages gradients over ranks."""
        loss, deviance = self.losses(batch)
        self._add(0, loss, deviance, batch.share)
        return (loss * batch.share).sum() * self._n_ranks

    def validation_step(self, batch: GroupBatch, index: int) -> None:
        """Adds this batch's loss and deviance to `sums`."""
        loss, deviance = self.losses(batch)
        self._add(3, loss, deviance, batch.share)

    def _add(self, first: int, loss: Tensor, deviance: Tensor, share: Tensor) -> None:
        # Batches differ in size by at most one stratum, so each group counts once, whatever its batch.
        present = (share > 0).double()
        values = [(part.detach().double() * present).sum() for part in (loss, deviance, torch.ones_like(share))]
        self.sums[first : first + 3] += torch.stack(values).cpu()

    def configure_optimizers(self) -> Any:
        """Lightning's dictionary of optimiser and schedule."""
        optimizer = build_optimizer(self.config, self.parameters(), self._learning_rate)
        scheduler = build_scheduler(self.config, optimizer, self._scheduler, self._steps_per_epoch)
        by_epoch = self._scheduler == "ReduceLROnPlateau"
        schedule: dict[str, Any] = {"scheduler": scheduler, "interval": "epoch" if by_epoch else "step"}
        if by_epoch:
            schedule |= {"monitor": "monitored_loss", "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Steps the schedule; a plateau is stepped by the watch, before it saves the epoch's checkpoint."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips as the configuration says; Lightning itself knows only two of the three algorithms."""
        clip_gradients(self.parameters(), *self._gradient_clip)
