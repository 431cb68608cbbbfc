"""Frames as TIFF images: one file for each, in a folder, or one file with a page for each."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffTags import TAGS_V2

from ptycho.data.formats.contents import Contents, tiff_files
from ptycho.data.formats.hdf5_source import FRAME_LIMIT_PX
from ptycho.data.formats.measurement import Measurement
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.data.scan import Scan
from ptycho.errors import DataError

# Pillow's name for each kind of grey image, and the type of its pixels.
TYPES = {"L": "uint8", "I;16": "uint16", "I;16B": "uint16", "I;16L": "uint16", "I": "int32", "F": "float32"}
SAMPLE_FORMAT = next(tag for tag, info in TAGS_V2.items() if info.name == "SampleFormat")
UNSIGNED = (1,)
# Pages of one file are found by following a chain of offsets.
MAX_PAGES = 100_000


class TiffFrames:
    """Frames in TIFF files: one for each of several files, or the pages of one."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        with _opened(paths[0]) as image:
            n = _n_pages(image, paths[0])
            first = _type(image, paths[0])
            self.dtype: np.dtype[np.generic] = first
            width, height = image.size
        if len(paths) > 1 and n != 1:
            raise DataError(
                f"{paths[0]}: has {n} pages in a folder of {len(paths)} files; one frame in each is needed."
            )
        self.shape: tuple[int, int, int] = (len(paths) if len(paths) > 1 else n, height, width)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        """Stored values (len(indices), y, x) in the order asked for. Raises DataError naming the file."""
        result = np.empty((len(indices), *self.shape[1:]), dtype=self.dtype)
        if len(self._paths) == 1:
            with _opened(self._paths[0]) as image:
                for at, index in enumerate(indices):
                    image.seek(int(index))
                    result[at] = self._pixels(image, self._paths[0])
            return result
        for at, index in enumerate(indices):
            with _opened(self._paths[int(index)]) as image:
                result[at] = self._pixels(image, self._paths[int(index)])
        return result

    def _pixels(self, image: Any, path: Path) -> NDArray[np.generic]:
        dtype = _type(image, path)
        if (image.size[1], image.size[0]) != self.shape[1:] or dtype != self.dtype:
            raise DataError(
                f"{path}: a frame of {image.size[1]} × {image.size[0]} {dtype}; the first one is"
                f" {self.shape[1]} × {self.shape[2]} {self.dtype}."
            )
        pixels: NDArray[Any] = np.asarray(image)
        # Pillow keeps 32 unsigned bits in a signed type.
        return pixels.view(np.uint32) if dtype == np.uint32 else pixels


def matches(contents: Contents) -> bool:
    """Whether this is a TIFF file or a folder of them."""
    return contents.kind == "tiff"


def read(contents: Contents, overrides: ReadOverrides) -> Scan:
    """The scan; its frames stay in the files. Raises DataError when `positions` names no file."""
    path = contents.path
    frames = TiffFrames(tiff_files(path) if path.is_dir() else [path])
    notes = ["Frames are in the order of the numbers in the files' names."] if path.is_dir() else []
    is_square = frames.shape[1] == frames.shape[2]
    return Measurement(path=path, frames=frames, zero_frequency="centre" if is_square else None, notes=notes).scan(
        overrides
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The opened TIFF file; what Pillow raises on damage becomes DataError."""
    damaged = (
        UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning, OSError, ValueError,
        TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, SyntaxError, struct.error, zlib.error,
    )  # fmt: skip
    try:
        with warnings.catch_warnings():
            # Odd tags are no concern of ours; damaged pixels raise.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["TIFF"]) as image:
                yield image
    except damaged as error:
        raise DataError(f"{path}: cannot be read as TIFF ({error}); copy it again.") from error


def _type(image: Any, path: Path) -> np.dtype[Any]:
    """The pixels' type, for an image of one grey channel and of a sensible size."""
    name = TYPES.get(image.mode)
    if name is None:
        raise DataError(f"{path}: an image of mode {image.mode!r}; frames must be grey, of 8, 16 or 32 bits.")
    dtype = np.dtype(name)
    if name == "int32" and tuple(image.tag_v2.get(SAMPLE_FORMAT, UNSIGNED)) == UNSIGNED:
        dtype = np.dtype(np.uint32)
    if image.size[0] * image.size[1] > FRAME_LIMIT_PX:
        raise DataError(f"{path}: declares {image.size[1]} × {image.size[0]} pixels, more than any detector has.")
    return dtype


def _n_pages(image: Any, path: Path) -> int:
    # A page needs 18 bytes of directory; a longer chain runs in a circle.
    limit, n = min(MAX_PAGES, path.stat().st_size // 18 + 1), 0
    try:
        while n <= limit:
            image.seek(n)
            n += 1
    except EOFError:
        image.seek(0)
        return n
    raise DataError(f"{path}: more than {limit} pages; the file is damaged.")
