"""The LightningDataModule: batches of groups from the frames that this rank owns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ptycho.config.config import PyTorchExecutionConfig, TrainingConfig
from ptycho.data.scan import Scan
from ptycho.errors import ModelError
from ptycho.parallel import Ranks
from ptycho_torch.physics.patches import Windows, extract_patches
from ptycho_torch.pinn.frame_cache import FrameCache
from ptycho_torch.pinn.module import GroupBatch
from ptycho_torch.pinn.sampling import GroupSplit, batches_in_order, epoch_batches, shard_of_groups


class GroupDataModule(LightningDataModule):
    """Every batch is decided for all ranks together, from seed, epoch and number; a rank computes its own groups of it.

    So results do not depend on the number of ranks, every rank takes the same number of steps, and training goes on
    at any batch of any epoch without replaying what came before.
    """

    def __init__(
        self,
        scan: Scan,
        split: GroupSplit,
        config: TrainingConfig,
        execution: PyTorchExecutionConfig,
        *,
        seed: int,
        ranks: Ranks,
        window: int,
    ) -> None:
        super().__init__()
        self.scan, self.split, self.config, self.execution = scan, split, config, execution
        self._seed, self._window = seed, window
        positions = scan.positions_px
        self._owned = shard_of_groups(positions, split.training, ranks.rank, ranks.size)
        self._owned_validation = shard_of_groups(positions, split.validation, ranks.rank, ranks.size)
        needed = np.concatenate([split.training[self._owned].ravel(), split.validation[self._owned_validation].ravel()])
        # A rank without groups still takes part in every step, with a stand-in of weight zero.
        needed = needed if len(needed) else split.training[0]
        self.cache = FrameCache(scan.frames, needed, scan.mask)
        self.mean_photons = self._mean_photons(ranks)
        self._truth = _TruthPatches(scan, window) if _needs_truth(config) else None
        self.first_epoch, self.first_batch = 0, 0

    @property
    def has_validation(self) -> bool:
        return len(self.split.validation) > 0

    @property
    def batches_per_epoch(self) -> int:
        return len(self._batches(0))

    def resume_at(self, epoch: int, batch: int) -> None:
        """Start with this batch of this epoch."""
        self.first_epoch, self.first_batch = epoch, batch

    def train_dataloader(self) -> DataLoader[GroupBatch]:
        """The batches of the trainer's current epoch, from the first one that is still to do."""
        current = self.trainer.current_epoch if self.trainer is not None else 0
        batches = self._batches(self.first_epoch + current)[self.first_batch if current == 0 else 0 :]
        return self._loader(_Batches(self, self.split.training, batches, self._owned))

    def val_dataloader(self) -> Any:
        """The validation groups, in order; none when nothing is held out."""
        if not self.has_validation:
            return []
        batches = batches_in_order(len(self.split.validation), self.config.batch_size)
        return self._loader(_Batches(self, self.split.validation, batches, self._owned_validation))

    def measuring_batches(self, most: int) -> Any:
        """Held-out batches or, where nothing is held out, the first ones of the first epoch; at most so many."""
        if self.has_validation:
            batches = batches_in_order(len(self.split.validation), self.config.batch_size)
            return self._loader(_Batches(self, self.split.validation, batches[:most], self._owned_validation))
        return self._loader(_Batches(self, self.split.training, self._batches(0)[:most], self._owned))

    def batch(self, groups: NDArray[np.int64], owned: NDArray[np.bool_], numbers: NDArray[np.int64]) -> GroupBatch:
        """This rank's part of the batch with these group numbers; owned: (group,) which groups this rank has."""
        mine = numbers[owned[numbers]]
        share = torch.full((max(1, len(mine)),), 1.0 / len(numbers) if len(mine) else 0.0)
        frames = groups[mine] if len(mine) else self._stand_in
        positions = torch.from_numpy(self.scan.positions_px[frames])
        truth = None if self._truth is None else self._truth.at(frames)
        return GroupBatch(self.cache.counts(frames), positions, share, truth)

    @property
    def _stand_in(self) -> NDArray[np.int64]:
        group = np.resize(self.cache.indices, self.split.training.shape[1])
        if len(self._owned):
            group = self.split.training[self._owned[0]]
        return group[None]

    def _batches(self, epoch: int) -> list[NDArray[np.int64]]:
        return epoch_batches(self.scan.positions_px, self.split.training, self.config, self._seed, epoch)

    def _loader(self, batches: _Batches) -> DataLoader[GroupBatch]:
        execution = self.execution
        return DataLoader(
            batches,
            batch_size=None,
            shuffle=False,
            num_workers=execution.num_workers,
            pin_memory=execution.pin_memory and torch.cuda.is_available(),
            prefetch_factor=execution.prefetch_factor,
            # Without one of its own it would draw from the process's generator.
            generator=torch.Generator(),
        )

    def _mean_photons(self, ranks: Ranks) -> float:
        """Mean photons of the training groups' centre frames on good pixels, over all ranks."""
        centres = self.split.training[self._owned][:, 0]
        sums = np.array([self.cache.total_photons(centres), len(centres)], np.float64)
        ranks.all_sum(sums)
        return float(sums[0] / sums[1])


class _Batches(Dataset[GroupBatch]):
    def __init__(
        self,
        data: GroupDataModule,
        groups: NDArray[np.int64],
        batches: list[NDArray[np.int64]],
        owned: NDArray[np.int64],
    ) -> None:
        self._data, self._groups, self._batches = data, groups, batches
        self._owned = np.zeros(len(groups), bool)
        self._owned[owned] = True

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> GroupBatch:
        return self._data.batch(self._groups, self._owned, self._batches[index])


class _TruthPatches:
    """Patches of the known object, cut out where frames lie."""

    def __init__(self, scan: Scan, window: int) -> None:
        if scan.truth is None:
            raise ModelError(
                f"{scan.name} has no known object, which supervised training needs;"
                ' set model.model_type = "pinn" and training.realspace_mae_weight = 0 to train by physics alone.'
            )
        self._object = torch.from_numpy(np.ascontiguousarray(scan.truth.object)).to(torch.complex64)
        grid = scan.truth.grid
        if not grid.holds(scan.positions_px, window):
            raise ModelError(f"{scan.name}: the known object of shape {grid.shape} does not cover every scan position.")
        corners = torch.from_numpy(grid.corners_px(scan.positions_px, window))
        self._windows = Windows.at(corners, window, grid.shape)

    def at(self, frames: NDArray[np.int64]) -> Tensor:
        """(group, frame, y, x) complex64 for scan indices (group, frame)."""
        patches = extract_patches(self._object, self._windows[torch.from_numpy(frames.ravel())])
        return patches.view(*frames.shape, *patches.shape[1:])


def _needs_truth(config: TrainingConfig) -> bool:
    return config.model.model_type == "supervised" or config.realspace_mae_weight > 0
