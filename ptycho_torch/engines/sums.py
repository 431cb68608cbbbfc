"""Numerators and weights of one batch, summed over its frames and over ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho.parallel import Ranks
from ptycho_torch.engines.estimate import Chunk, Trace
from ptycho_torch.engines.tiles import Tile
from ptycho_torch.physics.patches import accumulate_patches, accumulate_pattern


class Sums:
    """Σ_j P*φ_j with Σ_j |P|² and Σ_j O_j*φ_j with Σ_j |O_j|² of one batch, in one buffer: ranks meet once per batch.

    object, object_weight (slice, y, x), probe (mode, y, x), probe_weight (y, x), missed: scalar Σ|√k − √λ|
    largest: scalar, the object's largest weight over all ranks, once they have shared

    Where ranks hold tiles of the object they meet twice: neighbours exchange rims, and all sum what is left, which is
    small.
    """

    def __init__(self, image: Tensor, probe: Tensor, tile: Tile | None = None, n_ranks: int = 1) -> None:
        """n_ranks: with a tile, the number of ranks."""
        # Complex numbers must begin at an even place.
        filler = image.numel() % 2
        sizes = [2 * image.numel(), image.numel(), filler, 2 * probe.numel(), probe[0].numel(), 1, n_ranks]
        self._packed = torch.zeros(sum(sizes), device=image.device)
        self._small = self._packed[3 * image.numel() + filler :]
        parts = torch.split(self._packed, sizes)
        self.object = torch.view_as_complex(parts[0].view(*image.shape, 2))
        self.object_weight = parts[1].view(image.shape)
        self.probe = torch.view_as_complex(parts[3].view(*probe.shape, 2))
        self.probe_weight = parts[4].view(probe.shape[1:])
        self.missed = parts[5][0]
        self._maxima, self._tile = parts[6], tile
        self.largest = torch.zeros((), device=image.device)

    def clear(self) -> None:
        """Start another batch."""
        self._packed.zero_()

    def add_probe(self, trace: Trace) -> None:
        """Add the probe's numerator and weight of waves φ on the first slice."""
        chunk, waves = trace[-1]
        self.probe += (chunk.patches.conj().unsqueeze(1) * waves).sum(0)
        self.probe_weight += torch.view_as_real(chunk.patches).square().sum(0).sum(-1)

    def add_object(self, trace: Trace) -> None:
        """Add the numerators and weights of all slices of waves φ, whose memory is used up."""
        for chunk, waves in trace:
            add_light(self.object_weight[chunk.slice], chunk)
            waves *= chunk.probe.conj()
            pulled = waves[:, 0] if waves.shape[1] == 1 else waves.sum(1)
            accumulate_patches(self.object[chunk.slice], pulled, chunk.windows)

    def share(self, ranks: Ranks) -> None:
        """Replace by the sum over ranks."""
        if self._tile is None:
            share(self._packed, ranks)
            self.largest = self.object_weight.max()
            return
        self._tile.share([self.object, self.object_weight], ranks)
        # Each rank has a place of its own, so that the sum over ranks brings all maxima.
        self._maxima[ranks.rank] = self.object_weight.max()
        share(self._small, ranks)
        self.largest = self._maxima.max()

    def share_probe(self, ranks: Ranks) -> None:
        """Replace all but the object's sums by the sum over ranks."""
        share(self._small, ranks)


def add_light(image: Tensor, chunk: Chunk, factor: Tensor | None = None) -> None:
    """Add the light Σ_m|P|² of each frame, times its factor (position,), to an image (y, x) of the chunk's slice."""
    light = torch.view_as_real(chunk.probe).square().sum(-1).sum(-3)
    if factor is not None:
        accumulate_patches(image, (factor[:, None, None] * light).contiguous(), chunk.windows)
    elif light.dim() == 2:
        accumulate_pattern(image, light, chunk.windows)
    else:
        accumulate_patches(image, light, chunk.windows)


def share(tensor: Tensor, ranks: Ranks) -> None:
    """Replace a contiguous tensor on any device by its sum over ranks."""
    if ranks.size == 1:
        return
    host = tensor.cpu()
    ranks.all_sum(host)
    if host is not tensor:
        tensor.copy_(host)


def share_canvas(canvas: Tensor, tile: Tile | None, ranks: Ranks) -> None:
    """Replace a contiguous canvas (…, y, x), of the whole object or of a tile, by its sum over ranks."""
    if tile is None:
        share(canvas, ranks)
    else:
        tile.share([canvas], ranks)


def move(
    target: Tensor, numerator: Tensor, weight: Tensor, alpha: float, step: float, largest: Tensor | None = None
) -> None:
    """target += step · numerator / ((1 − alpha)·weight + alpha·max weight); reuses the memory of both.

    largest: the maximum, where more than `weight` counts
    """
    largest = weight.max() if largest is None else largest
    # Without light in the batch the numerator is zero too; the floor keeps 0/0 out.
    weight.mul_(1 - alpha).add_((alpha * largest).clamp(min=torch.finfo(weight.dtype).tiny))
    target.add_(numerator.mul_(weight.reciprocal_()), alpha=step)
