"""The checkpoint of a refinement: one file of what all ranks share, and one file per rank of its own frames' state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.errors import DataError
from ptycho.parallel import Ranks
from ptycho.whole_file import whole_file
from ptycho_torch.engines.interface import Engine
from ptycho_torch.engines.tiles import paste


class RefinementCheckpoint:
    """checkpoints/refine.pt; for state of single frames and tiles of the object, also checkpoints/refine-EPOCH-RANK.pt.

    The parts of an epoch are whole before refine.pt names them, and those of the epoch before are deleted after that:
    whenever the process dies, refine.pt and the parts that it names belong together. Parts hold the scan indices of
    their frames and the place of their tile, so a job may resume on another number of ranks. Every rank must make every
    call.
    """

    def __init__(self, folder: Path, ranks: Ranks, owned: NDArray[np.int64]) -> None:
        """folder: of all ranks; owned: scan indices of this rank's frames, in the order of the engine's rows."""
        self.path = folder / "refine.pt"
        self._folder, self._ranks, self._owned = folder, ranks, owned

    def save(self, engine: Engine, epoch: int, is_converged: bool) -> None:
        """Write what the next epoch depends on, whole or not at all."""
        frames, state, tile = engine.frame_state_dict(), engine.state_dict(), engine.tile
        canvases = {name: state.pop(name) for name in engine.canvas_names}
        part = {"frames": torch.from_numpy(self._owned), "state": frames}
        if tile is not None:
            part |= {"canvases": canvases, "start": tile.start}
        has_parts = bool(frames) or tile is not None
        if has_parts:
            with whole_file(self._part(epoch, self._ranks.rank)) as partial:
                torch.save(part, partial)
        # Also keeps the ranks together: none may delete the parts that another has yet to read.
        self._ranks.barrier()
        if self._ranks.rank == 0:
            saved = {
                "epoch": epoch,
                "converged": is_converged,
                "parts": self._ranks.size if has_parts else 0,
                "engine": state,
                "canvases": canvases if tile is None else None,
                "shape": engine.grid.shape,
            }
            with whole_file(self.path) as partial:
                torch.save(saved, partial)
            self._delete_parts(keep=epoch)

    def restore(self, engine: Engine) -> tuple[int, bool]:
        """Load the checkpoint, if there is one; returns the epochs done and whether the engine had converged."""
        exists = self._ranks.rank == 0 and self.path.exists()
        saved = torch.load(self.path, map_location="cpu", weights_only=True) if exists else None
        saved = self._ranks.broadcast(saved)
        if saved is None:
            return 0, False
        if tuple(saved["shape"]) != engine.grid.shape:
            raise DataError(
                f"{self.path} is of an object of {saved['shape']} pixels, this one has {engine.grid.shape}:"
                " the checkpoint is of another scan. Start a new run."
            )
        parts = [self._part(saved["epoch"], rank) for rank in range(saved["parts"])]
        canvases = self._own_canvases(engine, saved["canvases"], parts)
        engine.load_state_dict(saved["engine"] | canvases, self._own_frames(parts))
        return saved["epoch"], saved["converged"]

    def delete(self) -> None:
        """Remove all files, once the refined image is written. Only rank 0 may call it."""
        self.path.unlink(missing_ok=True)
        self._delete_parts(keep=None)

    def _part(self, epoch: int, rank: int) -> Path:
        return self._folder / f"refine-{epoch}-{rank}.pt"

    def _delete_parts(self, keep: int | None) -> None:
        for path in self._folder.glob("refine-*-*.pt"):
            if keep is None or not path.name.startswith(f"refine-{keep}-"):
                path.unlink(missing_ok=True)

    def _own_canvases(self, engine: Engine, whole: dict[str, Tensor] | None, parts: list[Path]) -> dict[str, Tensor]:
        """What the engine holds of the object, from the whole one or from the tiles of ranks as they were."""
        start = engine.tile.start if engine.tile is not None else (0, 0)
        now = engine.state_dict()
        # Pixels that no tile held, which no light meets, stay as every engine begins with them.
        own = {name: now[name] for name in engine.canvas_names}
        one: dict[str, Any] = {"canvases": whole, "start": (0, 0)}
        for source in [one] if whole is not None else map(_mapped, parts):
            for name, values in source["canvases"].items():
                paste(own[name], start, values, source["start"])
        return own

    def _own_frames(self, parts: list[Path]) -> dict[str, Tensor]:
        """The state of this rank's frames, in its rows' order, from the parts of ranks as they were."""
        state: dict[str, Tensor] = {}
        n_found = 0
        for part in map(_mapped, parts):
            _, rows, places = np.intersect1d(self._owned, part["frames"].numpy(), return_indices=True)
            for name, values in part["state"].items():
                mine = state.setdefault(name, torch.empty(len(self._owned), *values.shape[1:], dtype=values.dtype))
                mine[torch.from_numpy(rows)] = values[torch.from_numpy(places)]
            n_found += len(rows)
        if parts and n_found != len(self._owned):
            raise DataError(
                f"{self._folder} holds the state of {n_found} of this rank's {len(self._owned)} frames:"
                " the checkpoint is of another scan. Start a new run."
            )
        return state


def _mapped(part: Path) -> dict[str, Any]:
    """A part, mapped: a rank reads the frames and pixels that it holds and not those of all others."""
    values: dict[str, Any] = torch.load(part, weights_only=True, mmap=True)
    return values
