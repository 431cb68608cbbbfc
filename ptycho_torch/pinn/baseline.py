"""The final measure of a training, beside what no network and what a constant object would have reached."""

from __future__ import annotations

import numpy as np
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device

from ptycho.parallel import Ranks
from ptycho_torch.pinn.datamodule import GroupDataModule
from ptycho_torch.pinn.module import GroupBatch, PtychoPINN
from ptycho_torch.pinn.synthetic import SyntheticDataModule

# Enough to tell a trained network from a collapsed one where no frames are held out.
MOST_BATCHES = 16


@torch.no_grad()
def final_metrics(module: PtychoPINN, data: GroupDataModule | SyntheticDataModule, ranks: Ranks) -> dict[str, float]:
    """Loss and deviance per pixel, over all ranks, of the network, of the physics-made guess and of a constant object.

    Measured on held-out frames where there are any, else on some batches of training frames.
    """
    sums = np.zeros((4, 2), np.float64)
    device = next(module.network.generator.parameters()).device
    for batch in data.measuring_batches(MOST_BATCHES):
        _add_batch(sums, module, move_data_to_device(batch, device))
    ranks.all_sum(sums)
    (loss, deviance), (loss_guess, deviance_guess), (loss_constant, deviance_constant) = sums[:3] / sums[3, 0]
    return {
        "loss": float(loss),
        "deviance": float(deviance),
        "loss_guess": float(loss_guess),
        "deviance_guess": float(deviance_guess),
        "loss_constant": float(loss_constant),
        "deviance_constant": float(deviance_constant),
        "beats_constant": float(loss < loss_constant),
    }


def _add_batch(sums: np.ndarray[tuple[int, ...], np.dtype[np.float64]], module: PtychoPINN, batch: GroupBatch) -> None:
    patches = module.network(batch.counts, batch.positions_px, probes=batch.probes)
    guess = module.network.guess(batch.counts, batch.positions_px, probes=batch.probes)
    present = (batch.share > 0).double()
    for row, candidate in enumerate((patches, guess, torch.ones_like(patches))):
        losses = module.losses_of(candidate, batch)
        sums[row] += [float((part.double() * present).sum()) for part in losses]
    sums[3] += float(present.sum())
