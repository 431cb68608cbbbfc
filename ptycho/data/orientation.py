"""Turning a scan's axes: frames that a detector read out mirrored, positions whose axes are swapped or run backwards.

An orientation is two axes, each with a sign: "yx" leaves everything as it is; "-yx" means that what is called y runs
backwards; "xy" that y and x are swapped; "x-y" that the new y is the old x and the new x is minus the old y.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ptycho.data.frames import FramesView
from ptycho.data.scan import Scan

Axes = Literal["yx", "-yx", "y-x", "-y-x", "xy", "-xy", "x-y", "-x-y"]
ALL_AXES: tuple[Axes, ...] = get_args(Axes)
# Axes are told apart when one leaves less than this part of the other's residual; noise changes it by a few per cent.
CLEARLY = 0.85


def turned_positions(positions: NDArray[np.float64], axes: Axes) -> NDArray[np.float64]:
    """Positions (position, 2) = (y, x) in the new axes."""
    return np.stack([sign * positions[:, "yx".index(name)] for sign, name in _parsed(axes)], axis=1)


def composed(first: Axes, second: Axes) -> Axes:
    """The axes that turn as `first` does, and then `second`."""
    both = turned_positions(turned_positions(np.eye(2), first), second)
    return next(axes for axes in ALL_AXES if np.array_equal(turned_positions(np.eye(2), axes), both))


def turned_images(images: NDArray[Any], axes: Axes) -> NDArray[Any]:
    """Square images (..., y, x) in the new axes; index N // 2 stays where it is.

    The first row of an even image has no counterpart on the other side: it is kept as its own mirror image, as the
    highest frequency of a discrete spectrum is.
    """
    turned = images.swapaxes(-2, -1) if axes.lstrip("-").startswith("x") else images
    for axis, (sign, _) in zip((-2, -1), _parsed(axes), strict=True):
        if sign < 0:
            turned = np.flip(turned, axis)
            if turned.shape[axis] % 2 == 0:
                turned = np.roll(turned, 1, axis)
    return turned


def inverse(axes: Axes) -> Axes:
    """The axes that undo `axes`."""
    return next(other for other in ALL_AXES if composed(axes, other) == "yx")


@dataclass(frozen=True)
class TurnedFrames(FramesView):
    """Frames in other axes, turned as they are read."""

    axes: Axes

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        return np.ascontiguousarray(turned_images(self.frames.read(indices), self.axes))


def turn(scan: Scan, *, frame_axes: Axes | None = None, position_axes: Axes | None = None) -> Scan:
    """The scan with its frames or its positions in other axes.

    Probe and mask belong to the frames and turn with them. A first guess of the object and a simulation's truth fit
    neither way, so they are left out.
    """
    frame_axes, position_axes = frame_axes or "yx", position_axes or "yx"
    if frame_axes == position_axes == "yx":
        return scan
    notes, geometry = [], scan.geometry
    changes: dict[str, Any] = {"object_start": None, "object_grid": None, "truth": None}
    if frame_axes != "yx":
        if scan.detector is not None:
            changes["detector"] = replace(scan.detector, axes=frame_axes)
        notes.append(f'Frames, mask and probe were turned to the axes "{frame_axes}", as stated.')
        changes["frames"] = TurnedFrames(scan.frames, frame_axes)
        changes["mask"] = None if scan.mask is None else turned_images(scan.mask, frame_axes).copy()
        changes["probe"] = None if scan.probe is None else turned_images(scan.probe, frame_axes).copy()
        if frame_axes.lstrip("-").startswith("x"):
            geometry = geometry.transposed()
    if position_axes != "yx":
        notes.append(f'Positions were turned to the axes "{position_axes}", as stated.')
    # In metres, because object pixels need not be square; where their size is unknown they are taken to be.
    pixels = [known.object_pixel(scan.patch_size) or (1.0, 1.0) for known in (scan.geometry, geometry)]
    changes["positions_px"] = turned_positions(scan.positions_px * pixels[0], position_axes) / pixels[1]
    changes["geometry"] = geometry
    if scan.object_start is not None or scan.truth is not None:
        notes.append("The file's object belongs to the axes as they were and is not used.")
    return replace(scan, assumptions=(*scan.assumptions, *notes), **changes)


@dataclass(frozen=True, kw_only=True)
class AxesVerdict:
    """What a comparison of all eight orientations of the positions has found.

    n_frames:  how many frames were reconstructed
    r_factors: R-factor after a few epochs for each orientation of the positions, relative to how they are read now
    """

    n_frames: int
    r_factors: dict[Axes, float]

    @property
    def best(self) -> Axes:
        """The orientation that explains the frames best."""
        return min(self.r_factors, key=self.r_factors.__getitem__)

    @property
    def is_likely_wrong(self) -> bool:
        """Whether other axes than the present ones explain the frames clearly better."""
        return self.r_factors[self.best] < CLEARLY * self.r_factors["yx"]

    @property
    def is_confirmed(self) -> bool:
        """Whether no other axes explain them nearly as well; minus both axes, the twin, is not asked."""
        others = (self.r_factors[axes] for axes in ALL_AXES if axes not in ("yx", "-y-x"))
        return self.best in ("yx", "-y-x") and self.r_factors["yx"] < CLEARLY * min(others)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        now, least = self.r_factors["yx"], self.r_factors[self.best]
        if self.is_likely_wrong:
            return f"as the positions are read they leave an R-factor of {now:.3f}, in other axes {least:.3f}"
        if self.is_confirmed:
            return f"right: an R-factor of {now:.3f}, and clearly more in other axes"
        return f"these frames cannot tell; all axes leave nearly the same R-factor ({least:.3f} to {self._most:.3f})"

    @property
    def _most(self) -> float:
        return max(self.r_factors.values())


def _parsed(axes: Axes) -> list[tuple[int, str]]:
    signs, names, sign = [], [], 1
    for letter in axes:
        if letter == "-":
            sign = -1
        else:
            signs.append(sign)
            names.append(letter)
            sign = 1
    return list(zip(signs, names, strict=True))
