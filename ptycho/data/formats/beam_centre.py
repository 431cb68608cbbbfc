"""Where the direct beam hits the detector, and the square of pixels around it that is reconstructed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats.detector import sample_frames
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.frames import WindowFrames, window
from ptycho.data.scan import Frames
from ptycho.errors import DataError

# A recorded beam centre that lies further than this part of the detector from the light is not believed.
CREDIBLE = 1 / 8


@dataclass(frozen=True)
class Square:
    """Square frames with the beam at index N // 2, with their mask (y, x) and the sentences that say what was done.

    centre_px: the detector's pixel (y, x) that lies at index N // 2
    """

    frames: Frames
    mask: NDArray[np.bool_] | None
    centre_px: tuple[int, int]
    notes: tuple[str, ...] = ()


def cut_square(
    frames: Frames,
    mask: NDArray[np.bool_] | None,
    recorded_px: tuple[float, float] | None,
    overrides: ReadOverrides,
    source: str,
) -> Square:
    """The square around the beam; frames that are square and centred stay as they are.

    recorded_px: (y, x) of the beam in the file's frames, counted from 0, where the file says it

    Without `window_px` a square detector keeps its size, of another the largest even square is taken that lies on it.
    Pixels of the square that lie beyond the detector are masked. Raises DataError when the file and the light disagree.
    """
    height, width = frames.shape[1:]
    middle = height // 2, width // 2
    centre, why = _centre(frames, mask, recorded_px, overrides, source)
    if overrides.window_px is not None and overrides.window_px > max(height, width):
        size = overrides.window_px
    elif height == width and centre == middle:
        return Square(frames, mask, middle, (f"The beam hits pixel {centre}, {why}.",) if why else ())
    else:
        size = overrides.window_px or (height if height == width else _largest(centre, (height, width)))
    if size < 2 or size % 2:
        raise DataError(f"{source}: frames of {size} × {size} around the beam are not possible; choose an even size.")
    inside = window(np.ones((height, width), dtype=bool) if mask is None else mask, centre, size)
    if not inside.any():
        raise DataError(f"{source}: no good detector pixel lies in the {size} × {size} around {centre}.")
    missing = size * size - int(window(np.ones((height, width), dtype=bool), centre, size).sum())
    notes = [
        f"Frames of {height} × {width} were cut to {size} × {size} around pixel {centre}, the beam"
        f" {why or 'being taken to hit the middle of the detector'}."
    ]
    if missing:
        notes.append(f"{missing} pixels of that square lie beyond the detector and are masked.")
    is_whole = mask is None and not missing
    return Square(WindowFrames(frames, centre, size), None if is_whole else inside, centre, tuple(notes))


def found_centre(frames: Frames, mask: NDArray[np.bool_] | None) -> tuple[int, int]:
    """The centre of mass (y, x) of the light above a tenth of its brightest pixels, in the mean of some frames."""
    mean = sample_frames(frames).mean(axis=0)
    if mask is not None:
        mean = np.where(mask, mean, 0.0)
    weight = np.clip(mean - 0.1 * float(np.quantile(mean, 0.999)), 0, None)
    if not weight.any():
        raise DataError("the frames hold no light by which the beam could be found")
    y, x = (float((weight.sum(axis=1 - axis) * np.arange(mean.shape[axis])).sum() / weight.sum()) for axis in (0, 1))
    return round(y), round(x)


def _centre(
    frames: Frames,
    mask: NDArray[np.bool_] | None,
    recorded_px: tuple[float, float] | None,
    overrides: ReadOverrides,
    source: str,
) -> tuple[tuple[int, int], str]:
    height, width = frames.shape[1:]
    stated = overrides.beam_centre_px
    if stated == "find":
        return found_centre(frames, mask), "where the middle of the light was found"
    if stated is not None:
        y, x = (round(float(value)) for value in stated)
        if not (0 <= y < height and 0 <= x < width):
            raise DataError(f"{source}: beam_centre_px = {[y, x]} lies outside the frames of {height} × {width}.")
        return (y, x), "as stated"
    if recorded_px is None:
        return (height // 2, width // 2), ""
    y, x = round(recorded_px[0]), round(recorded_px[1])
    light = found_centre(frames, mask)
    if not overrides.focus_distance_m and max(abs(y - light[0]) / height, abs(x - light[1]) / width) > CREDIBLE:
        raise DataError(
            f"{source}: the file says that the beam hits pixel {(y, x)}, but the light lies around {light};"
            ' say which is right with beam_centre_px = [y, x], or "find".'
        )
    return (y, x), "as the file says"


def _largest(centre: tuple[int, int], shape: tuple[int, int]) -> int:
    """The largest even square around a pixel that lies on the detector."""
    return 2 * min(*centre, *(length - at for at, length in zip(centre, shape, strict=True)))
