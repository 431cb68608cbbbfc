"""Tiles: the part of a large object that one rank holds, and the rims that it shares with its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.data.grid import ObjectGrid
from ptycho.parallel import Ranks

Box = tuple[slice, slice]


@dataclass(frozen=True)
class Tile:
    """The bounding box of one rank's windows on the whole grid, and those of all other ranks.

    boxes: (rank, 4) pixels of the whole grid: top, left, one past the bottom, one past the right

    Pixels of overlapping tiles are held by several ranks. What ranks add to them is summed in the order of ranks on
    each of them, so the copies stay the same to the last bit, and no rank ever needs the others' tiles.
    """

    whole: ObjectGrid
    boxes: NDArray[np.int64]
    rank: int

    @classmethod
    def around(
        cls, corners_px: NDArray[np.float64], window: int, whole: ObjectGrid, room_px: int, ranks: Ranks
    ) -> Tile:
        """The tile of windows whose first pixels are at corners (position, 2) of the whole grid. Every rank must call.

        room_px: how far windows may move
        """
        box = np.array([0, 0, 1, 1])
        if len(corners_px):
            low = np.floor(corners_px.min(0)) - room_px
            high = np.floor(corners_px.max(0)) + window + 1 + room_px
            box = np.concatenate([low.clip(0), np.minimum(high, whole.shape)])
        boxes = np.zeros((ranks.size, 4), np.int64)
        boxes[ranks.rank] = box
        ranks.all_sum(boxes)
        return cls(whole, boxes, ranks.rank)

    @property
    def start(self) -> tuple[int, int]:
        """(y, x) of the tile's first pixel on the whole grid."""
        return int(self.boxes[self.rank, 0]), int(self.boxes[self.rank, 1])

    @property
    def grid(self) -> ObjectGrid:
        """Where the tile's own pixels lie."""
        top, left, bottom, right = (int(edge) for edge in self.boxes[self.rank])
        origin = self.whole.origin_px[0] + top, self.whole.origin_px[1] + left
        return ObjectGrid(shape=(bottom - top, right - left), origin_px=origin)

    @cached_property
    def overlaps(self) -> dict[int, Box]:
        """The other ranks that hold some of this tile's pixels, in order, with the slices (y, x) of this tile."""
        found = {}
        own = self.boxes[self.rank]
        for rank, box in enumerate(self.boxes):
            low, high = np.maximum(own[:2], box[:2]), np.minimum(own[2:], box[2:])
            if rank != self.rank and (low < high).all():
                (top, left), (bottom, right) = low - own[:2], high - own[:2]
                found[rank] = slice(int(top), int(bottom)), slice(int(left), int(right))
        return found

    def cut(self, image: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """The tile's part of an image (…, y, x) on the whole grid."""
        top, left, bottom, right = self.boxes[self.rank]
        return image[..., top:bottom, left:right]

    def share(self, canvases: Sequence[Tensor], ranks: Ranks) -> None:
        """Replace canvases (…, y, x) of the tile, in place, by their sums over ranks. Every rank must call it."""
        outgoing = {rank: _packed(canvases, box) for rank, box in self.overlaps.items()}
        incoming = {rank: torch.empty_like(packed) for rank, packed in outgoing.items()}
        ranks.exchange(outgoing, incoming)
        if self.overlaps and min(self.overlaps) < self.rank:
            lower = [torch.zeros_like(canvas) for canvas in canvases]
            for rank, packed in incoming.items():
                if rank < self.rank:
                    _add(lower, packed, self.overlaps[rank])
            for canvas, part in zip(canvases, lower, strict=True):
                canvas += part
        for rank, packed in incoming.items():
            if rank > self.rank:
                _add(canvases, packed, self.overlaps[rank])

    def gather(self, canvas: Tensor, ranks: Ranks, outside: Tensor) -> Tensor | None:
        """The whole canvas (…, y, x), on the CPU, on rank 0 alone. Every rank must call it.

        canvas:  of the tile, the same as other ranks' where they overlap
        outside: pixels that no rank holds, on the CPU, of a shape that becomes the whole one by repeating

        Tiles come one after the other, so rank 0 needs room for the whole and one tile.
        """
        if ranks.rank != 0:
            for rank in range(1, ranks.size):
                ranks.exchange({0: _real(canvas).contiguous().cpu()} if rank == ranks.rank else {}, {})
            return None
        whole = outside.to(canvas.dtype).expand(*canvas.shape[:-2], *self.whole.shape).clone()
        for rank, (top, left, bottom, right) in enumerate(self.boxes):
            tile = canvas.cpu()
            if rank != 0:
                tile = torch.empty(*canvas.shape[:-2], bottom - top, right - left, dtype=canvas.dtype)
                ranks.exchange({}, {rank: _real(tile)})
            whole[..., top:bottom, left:right] = tile
        return whole


def paste(target: Tensor, target_start: tuple[int, int], source: Tensor, source_start: tuple[int, int]) -> None:
    """Copy the pixels (…, y, x) that two pieces of one grid share. start: (y, x) of a piece's first pixel on it."""
    low = np.maximum(target_start, source_start)
    high = np.minimum(np.add(target_start, target.shape[-2:]), np.add(source_start, source.shape[-2:]))
    if (low < high).all():
        (y, x), (end_y, end_x) = low - target_start, high - target_start
        (from_y, from_x), (to_y, to_x) = low - source_start, high - source_start
        target[..., y:end_y, x:end_x] = source[..., from_y:to_y, from_x:to_x]


def _packed(canvases: Sequence[Tensor], box: Box) -> Tensor:
    return torch.cat([_real(canvas[..., box[0], box[1]].contiguous()).reshape(-1) for canvas in canvases]).cpu()


def _add(canvases: Sequence[Tensor], packed: Tensor, box: Box) -> None:
    parts = [canvas[..., box[0], box[1]] for canvas in canvases]
    sizes = [part.numel() * (2 if part.is_complex() else 1) for part in parts]
    for part, values in zip(parts, torch.split(packed, sizes), strict=True):
        _real(part).add_(values.to(part.device).view(_real(part).shape))


def _real(values: Tensor) -> Tensor:
    """A view as real numbers."""
    return torch.view_as_real(values) if values.is_complex() else values
