"""The LightningDataModule of a training on no scan: batches of random scenes, simulated where they are needed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ptycho.config.config import PyTorchExecutionConfig, TrainingConfig
from ptycho.config.synthetic import SyntheticConfig
from ptycho.data.sharding import shard_bounds
from ptycho.parallel import Ranks
from ptycho_torch.pinn.module import GroupBatch
from ptycho_torch.simulate.scenes import Groups, draw_probes, draw_scene, read_probes

# Streams of random numbers under the job's seed; 0 to 2 are those of a training on a scan.
_TRAINING, _VALIDATION, _REFERENCE = 3, 4, 5


class SyntheticDataModule(LightningDataModule):
    """Every scene is a function of seed, epoch, batch and its number, so that nothing is stored, any batch can be made
    again, and results do not depend on the number of ranks: each makes its own share of a batch's scenes.
    """

    has_validation = True

    def __init__(
        self,
        synthetic: SyntheticConfig,
        config: TrainingConfig,
        execution: PyTorchExecutionConfig,
        *,
        seed: int,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.synthetic, self.config, self.execution = synthetic, config, execution
        self._seed, self._ranks, self._device = seed, ranks, device
        self._bank = [] if synthetic.probe_file is None else read_probes(synthetic.probe_file)
        self.first_epoch, self.first_batch = 0, 0

    @property
    def batches_per_epoch(self) -> int:
        return self.synthetic.batches_per_epoch

    @property
    def mean_photons(self) -> float:
        """The middle of the doses, in their logarithm."""
        low, high = self.synthetic.photons
        return float(np.sqrt(low * high))

    def reference_probe(self) -> Tensor:
        """A probe (1, y, x) for the network to hold until it is given a scan's."""
        generator = torch.Generator().manual_seed(self._state((_REFERENCE, 0, 0, 0)))
        return draw_probes(self.synthetic, self.config.model.N, 1, self._bank, generator)[1]

    def facts(self) -> dict[str, object]:
        """What decides which scenes there are."""
        return {**asdict(self.synthetic), "bank": [float(probe.abs().sum()) for probe in self._bank]}

    def resume_at(self, epoch: int, batch: int) -> None:
        """Start with this batch of this epoch."""
        self.first_epoch, self.first_batch = epoch, batch

    def train_dataloader(self) -> Any:
        """The batches of the trainer's current epoch, from the first one that is still to do."""
        current = self.trainer.current_epoch if self.trainer is not None else 0
        start = self.first_batch if current == 0 else 0
        return self._loader(_TRAINING, self.first_epoch + current, range(start, self.batches_per_epoch))

    def val_dataloader(self) -> Any:
        """The same scenes after every epoch."""
        return self._loader(_VALIDATION, 0, range(self.synthetic.validation_batches))

    def measuring_batches(self, most: int) -> Any:
        """Validation batches, at most so many."""
        return self._loader(_VALIDATION, 0, range(min(most, self.synthetic.validation_batches)))

    def batch(self, stream: int, epoch: int, number: int) -> GroupBatch:
        """This rank's part of a batch: its share of the scenes, or a stand-in of weight zero where it has none."""
        size, n_groups, per_scene = self._shape(number)
        n_scenes = -(-n_groups // per_scene)
        start, stop = shard_bounds(n_scenes, self._ranks.rank, self._ranks.size)
        scenes = [self._scene(stream, epoch, number, k, size, n_groups, per_scene) for k in range(start, stop)]
        share = 1.0 / n_groups
        if not scenes:
            scenes, share = [self._scene(stream, epoch, number, 0, size, 1, 1)], 0.0
        parts = Groups(*(torch.cat(list(pieces)) for pieces in zip(*scenes, strict=True)))
        shares = torch.full((len(parts.counts),), share, device=parts.counts.device)
        return GroupBatch(parts.counts, parts.positions_px, shares, parts.truth, parts.probes, parts.true_probes)

    def _shape(self, number: int) -> tuple[int, int, int]:
        """Frame size, groups and groups for each scene of a batch; batches of equal numbers of pixels."""
        sizes = self.synthetic.patch_sizes
        size = sizes[number % len(sizes)]
        n_groups = max(1, round(self.config.batch_size * (min(sizes) / size) ** 2))
        per_scene = max(1, self.synthetic.frames_per_scene // self.config.model.gridsize**2)
        # Two scenes at least, so that two ranks have work in every batch.
        return size, n_groups, min(per_scene, -(-n_groups // 2))

    def _scene(
        self, stream: int, epoch: int, number: int, scene: int, size: int, n_groups: int, per_scene: int
    ) -> Groups:
        n = min(per_scene, n_groups - scene * per_scene)
        generator = torch.Generator(self._device).manual_seed(self._state((stream, epoch, number, scene)))
        return draw_scene(self.synthetic, size, n, self.config.model.gridsize, self._bank, generator)

    def _state(self, stream: tuple[int, int, int, int]) -> int:
        return int(np.random.SeedSequence([self._seed, *stream]).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _loader(self, stream: int, epoch: int, numbers: range) -> Any:
        # Scenes are made by this process, on its device: there is nothing to load.
        return DataLoader(
            _Scenes(self, stream, epoch, numbers), batch_size=None, shuffle=False, generator=torch.Generator()
        )


class _Scenes(Dataset[GroupBatch]):
    def __init__(self, data: SyntheticDataModule, stream: int, epoch: int, numbers: range) -> None:
        self._data, self._stream, self._epoch, self._numbers = data, stream, epoch, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> GroupBatch:
        return self._data.batch(self._stream, self._epoch, self._numbers[index])
