"""Inference: object patches of a scan, batch by batch, from a trained model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.config.config import ModelConfig
from ptycho.data.groups import covering_groups
from ptycho.data.scan import Scan
from ptycho.errors import ModelError
from ptycho.parallel import Ranks
from ptycho_torch.physics.likelihood import poisson_deviance
from ptycho_torch.pinn.frame_cache import FrameCache
from ptycho_torch.pinn.network import PtychoNetwork
from ptycho_torch.pinn.trained import TrainedModel

DEFAULT_BATCH_SIZE = 64
_AT_ONCE = 256


class PatchBatch(NamedTuple):
    """Patches of some frames.

    indices:  (frame,) scan indices
    patches:  (frame, y, x) complex64 of the lit window, on the model's device; their global phases are free
    weight:   (y, x) float32, the probe's intensity in the window, largest value 1
    residual: (frame,) float32, deviance per pixel of the counts that the patch predicts; 1 is noise-limited
    """

    indices: NDArray[np.int64]
    patches: Tensor
    weight: Tensor
    residual: NDArray[np.float32]


def mean_photons(scan: Scan, owned: NDArray[np.int64], ranks: Ranks) -> float:
    """Mean photons per frame on good pixels, over the frames (frame,) that each rank owns. Every rank takes part."""
    cache = FrameCache(scan.frames, owned, scan.mask)
    sums = np.array([cache.total_photons(owned), len(owned)], np.float64)
    ranks.all_sum(sums)
    return float(sums[0] / sums[1])


def linear_model(scan: Scan, config: ModelConfig, owned: NDArray[np.int64], ranks: Ranks) -> TrainedModel:
    """The linear inverse for a scan, as a model that needs no training. Every rank takes part.

    owned: (frame,) the frames of each rank. The scan's mean √counts stand for its flat object. Raises ModelError when
    the scan has no probe, or another size than the configuration says.
    """
    if scan.probe is None:
        raise ModelError(f"{scan.name} has no probe, which the inverse needs; give a file that has one.")
    cache = FrameCache(scan.frames, owned, scan.mask)
    size = scan.patch_size
    sums = np.zeros(size**2 + 2, np.float64)
    for start in range(0, len(owned), _AT_ONCE):
        part = owned[start : start + _AT_ONCE]
        counts = cache.counts(part)
        sums[:-2] += counts.sqrt().double().sum(0).flatten().numpy()
        sums[-2:] += (cache.total_photons(part), len(part))
    ranks.all_sum(sums)
    photons, n_frames = sums[-2:]
    network = PtychoNetwork(config, scan.probe, float(photons / n_frames), scan.mask)
    network.reference = torch.from_numpy(sums[:-2] / n_frames).float().view(size, size)
    return TrainedModel(network)


def infer_patches(
    model: TrainedModel,
    scan: Scan,
    indices: NDArray[np.int64],
    *,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    photons: float | None = None,
) -> Iterator[PatchBatch]:
    """Patches of the frames with these scan indices, each once, in any order; only frames that they need are read.

    batch_size: groups computed at once
    photons:    the scan's mean photons per frame (see `mean_photons`) where its dose is not that of the training scan.
                Contrast does not depend on the dose: counts are compared with the probe at the scan's own power.

    With gridsize > 1 the scan is covered by groups of neighbours, and every member's patch is taken: a group around
    each frame would cost gridsize² times as much for an image that is no better (docs/performance.md). Raises
    ModelError when the scan has other frame sizes than the model, or fewer frames than a group.
    """
    model.require_fit(scan)
    groups, is_asked = _groups_of(scan, model.config.gridsize**2, indices)
    step = batch_size or DEFAULT_BATCH_SIZE
    dose_ratio = model.network.mean_photons / photons if photons else 1.0
    network = model.network.to(device).eval()
    for start in range(0, len(groups), step):
        part, asked = groups[start : start + step], is_asked[start : start + step]
        counts = FrameCache(scan.frames, part, scan.mask).counts(part).to(device)
        positions = torch.from_numpy(scan.positions_px[part]).to(device)
        chosen = torch.from_numpy(asked).to(device)
        with torch.inference_mode():
            patches = network(counts, positions, dose_ratio)[chosen][:, None]
            expected = network.predict(patches, dose_ratio)
            residual = poisson_deviance(counts[chosen], expected[:, 0], network.mask)
            centred = network.in_gauge(patches[:, 0])
        yield PatchBatch(part[asked], centred, network.weight, residual.cpu().numpy())


def _groups_of(scan: Scan, group_size: int, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Groups that hold the frames, and which of their members are those frames, each once."""
    if scan.n_positions < group_size:
        raise ModelError(
            f"The model works on groups of {group_size} frames, but {scan.name} has {scan.n_positions};"
            " use a model with a smaller gridsize."
        )
    groups, is_new = covering_groups(scan.positions_px, group_size)
    is_asked = is_new & np.isin(groups, indices)
    needed = is_asked.any(1)
    return groups[needed], is_asked[needed]
