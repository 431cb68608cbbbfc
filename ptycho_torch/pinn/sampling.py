"""Which groups of frames are trained on, in which batches, by which rank: pure functions of positions and a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho.config.config import TrainingConfig
from ptycho.data.groups import nearest_groups, sample_groups
from ptycho.data.sharding import hilbert_order, shard_bounds, split_by_region, stratified_batches
from ptycho.errors import ModelError

# Share of the frames whose region is held out.
VALIDATION_FRACTION = 0.1


@dataclass(frozen=True)
class GroupSplit:
    """Groups (group, frame) of scan indices, centre first; no frame is in both. Validation may be empty."""

    training: NDArray[np.int64]
    validation: NDArray[np.int64]


def choose_groups(
    positions_px: NDArray[np.float64],
    config: TrainingConfig,
    window: int,
    seed: int,
    validation_fraction: float = VALIDATION_FRACTION,
) -> GroupSplit:
    """Training and validation groups of a scan, held apart by region.

    positions_px: (position, 2); window: width in pixels of the lit window. A scan too small to be split is trained on
    whole. Raises ModelError when the scan has fewer frames than a group.
    """
    n_frames = config.model.gridsize**2
    rng = np.random.default_rng([seed, 0])
    chosen = _subsample(len(positions_px), config, seed)
    if len(chosen) < n_frames:
        raise ModelError(
            f"A group of gridsize = {config.model.gridsize} takes {n_frames} frames, but there are {len(chosen)};"
            " set model.gridsize lower or use more frames."
        )
    training, validation = chosen, chosen[:0]
    inside, outside = split_by_region(positions_px[chosen], validation_fraction, window, rng)
    if len(inside) >= n_frames and len(outside) >= n_frames:
        training, validation = chosen[inside], chosen[outside]
    n_groups = config.n_groups or len(training)
    return GroupSplit(
        training=training[_draw_groups(positions_px[training], n_groups, config, rng)],
        validation=_nearest(positions_px, validation, config) if len(validation) else np.empty((0, n_frames), np.int64),
    )


def neighbour_count(config: TrainingConfig) -> int:
    """Neighbours among which a group is chosen: never fewer than it needs."""
    return max(config.neighbor_count, config.model.gridsize**2 - 1)


def shard_of_groups(
    positions_px: NDArray[np.float64], groups: NDArray[np.int64], rank: int, size: int
) -> NDArray[np.int64]:
    """Numbers of the groups that a rank owns: one contiguous piece of the curve through their centres."""
    start, stop = shard_bounds(len(groups), rank, size)
    if not len(groups):
        return np.empty(0, np.int64)
    return hilbert_order(positions_px[groups[:, 0]])[start:stop]


def epoch_batches(
    positions_px: NDArray[np.float64], groups: NDArray[np.int64], config: TrainingConfig, seed: int, epoch: int
) -> list[NDArray[np.int64]]:
    """Group numbers of every batch of an epoch, the same on every rank and for every number of ranks."""
    if config.sequential_sampling:
        return batches_in_order(len(groups), config.batch_size)
    order = hilbert_order(positions_px[groups[:, 0]])
    rng = np.random.default_rng([seed, 1, epoch])
    return stratified_batches(order, min(config.batch_size, len(groups)), rng)


def batches_in_order(n_groups: int, batch_size: int) -> list[NDArray[np.int64]]:
    """Group numbers 0 to n_groups − 1 in batches."""
    numbers = np.arange(n_groups, dtype=np.int64)
    return [numbers[start : start + batch_size] for start in range(0, n_groups, batch_size)]


def _subsample(n: int, config: TrainingConfig, seed: int) -> NDArray[np.int64]:
    if config.n_subsample is None or config.n_subsample >= n:
        return np.arange(n, dtype=np.int64)
    rng = np.random.default_rng(config.subsample_seed if config.subsample_seed is not None else [seed, 2])
    return np.sort(rng.choice(n, config.n_subsample, replace=False)).astype(np.int64)


def _draw_groups(
    positions_px: NDArray[np.float64], n_groups: int, config: TrainingConfig, rng: np.random.Generator
) -> NDArray[np.int64]:
    n_frames, n_neighbours = config.model.gridsize**2, neighbour_count(config)
    if n_groups == len(positions_px) and not config.enable_oversampling:
        return nearest_groups(positions_px, n_frames, n_neighbours)
    return sample_groups(
        positions_px,
        n_groups,
        n_frames,
        n_neighbours,
        rng,
        pool_size=config.neighbor_pool_size,
        oversampling=config.enable_oversampling,
    )


def _nearest(positions_px: NDArray[np.float64], chosen: NDArray[np.int64], config: TrainingConfig) -> NDArray[np.int64]:
    near = nearest_groups(positions_px[chosen], config.model.gridsize**2, neighbour_count(config))
    return chosen[near]
