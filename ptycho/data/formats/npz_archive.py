"""NPZ archives, plain or bz2-compressed: array headers first, arrays only when asked for, nothing unpickled."""

from __future__ import annotations

import bz2
import io
import json
import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ptycho.data.formats.pickled_text import read_pickled_text
from ptycho.errors import DataError

# A probe, an object or a list of positions larger than this is a damaged header, not data.
ARRAY_LIMIT_BYTES = 2 * 2**30
# A bz2 archive is unpacked in memory, because ZIP keeps its table at the end.
UNPACKED_LIMIT_BYTES = 4 * 2**30
HEADER_LIMIT_BYTES = 64 * 2**10
# Frames up to this size are kept after the first read; larger ones are streamed or mapped.
CACHE_BYTES = 256 * 2**20

# NumPy parses a header as Python text, and zipfile checks little, so damage shows in many ways.
DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError, EOFError, ValueError,
    NotImplementedError, OSError, RuntimeError, SyntaxError, TypeError, LookupError, OverflowError, RecursionError,
)  # fmt: skip


@dataclass(frozen=True)
class ArrayHeader:
    """What an .npy member says about itself."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    offset: int

    @property
    def n_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


class NpzArchive:
    """A .npz or .npz.bz2 file. Opened anew by each call, so it survives fork and pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unpacked: bytes | None = None
        self.headers = self._read_headers()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_unpacked": None}

    def load(self, name: str, kinds: str = "iufcb") -> NDArray[Any]:
        """The array in memory.

        kinds: the NumPy kinds that are allowed
        Raises DataError when it is of another type, damaged, absurdly large or holds Python objects.
        """
        header = self.headers[name]
        if header.dtype.hasobject:
            raise DataError(
                f"{self.path}: {name} holds pickled Python objects, which are never loaded because they can run code;"
                " save it again as a plain numeric array."
            )
        if header.dtype.kind not in kinds:
            raise DataError(f"{self.path}: {name} has type {header.dtype}; it must be real numbers or complex ones.")
        if header.n_bytes > ARRAY_LIMIT_BYTES:
            raise DataError(
                f"{self.path}: {name} declares shape {header.shape} ({header.n_bytes / 2**30:.0f} GiB), more than the"
                f" {ARRAY_LIMIT_BYTES / 2**30:.0f} GiB that such an array may have; the file is damaged."
            )
        with self.stream(name) as stream:
            values = np.frombuffer(_read_exactly(stream, header.n_bytes), dtype=header.dtype)
        order = "F" if header.fortran_order else "C"
        return values.reshape(header.shape, order=order).astype(header.dtype.newbyteorder("="))  # type: ignore[call-overload,no-any-return]

    def text(self, name: str) -> str:
        """The one string of a 0-d array, also where older programs stored it as a Python object.

        Raises ValueError for an object array of anything else.
        """
        header = self.headers[name]
        if not header.dtype.hasobject:
            value = self.load(name, "iufcbSU")
            return str(value.item()) if value.ndim == 0 else ""
        with self.stream(name) as stream:
            pickled = stream.read(ARRAY_LIMIT_BYTES)
        return read_pickled_text(pickled)

    def json(self, name: str) -> dict[str, object]:
        """The JSON object stored as text under that name; empty when there is none or it is not JSON."""
        if name not in self.headers:
            return {}
        try:
            found = json.loads(self.text(name))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @contextmanager
    def stream(self, name: str) -> Iterator[IO[bytes]]:
        """The bytes of one array after its header. Damage met while reading becomes DataError."""
        try:
            with self._opened() as archive, archive.open(name + ".npy") as member:
                member.seek(self.headers[name].offset)
                yield member
        except DAMAGED as error:
            raise DataError(
                f"{self.path}: {name} cannot be read ({error}); the file is damaged. Copy it again."
            ) from error

    def mapped(self, name: str) -> NDArray[Any] | None:
        """The array as a read-only memory map where the archive stores it uncompressed, else None."""
        header = self.headers[name]
        with self._opened() as archive:
            info = archive.getinfo(name + ".npy")
        if info.compress_type != zipfile.ZIP_STORED or self._is_bz2() or header.n_bytes == 0:
            return None
        with self.path.open("rb") as file:
            file.seek(info.header_offset + 26)
            # The local header repeats the name with an extra field of its own length (APPNOTE 6.3, section 4.3.7).
            lengths = np.frombuffer(file.read(4), dtype="<u2")
        start = info.header_offset + 30 + int(lengths.sum()) + header.offset
        order = "F" if header.fortran_order else "C"
        return np.memmap(self.path, header.dtype, "r", start, header.shape, order)  # type: ignore[call-overload,no-any-return]

    def release(self) -> None:
        """Forget the unpacked bytes of a bz2 archive; they are unpacked again when needed."""
        self._unpacked = None

    def _is_bz2(self) -> bool:
        with self.path.open("rb") as file:
            return file.read(3) == b"BZh"

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        source: Path | io.BytesIO = self.path
        if self._is_bz2():
            if self._unpacked is None:
                self._unpacked = _unpack(self.path)
            source = io.BytesIO(self._unpacked)
        with zipfile.ZipFile(source) as archive:
            yield archive

    def _read_headers(self) -> dict[str, ArrayHeader]:
        headers = {}
        try:
            with self._opened() as archive:
                for info in archive.infolist():
                    if info.filename.endswith(".npy"):
                        with archive.open(info) as member:
                            header = _read_header(member)
                        if not header.dtype.hasobject and header.offset + header.n_bytes != info.file_size:
                            raise ValueError(
                                f"{info.filename} declares {header.n_bytes} bytes, {info.file_size} stored"
                            )
                        headers[info.filename.removesuffix(".npy")] = header
        except (FileNotFoundError, PermissionError):
            raise
        except DAMAGED as error:
            raise DataError(
                f"{self.path}: not a complete NPZ archive ({error}); it is truncated or damaged. Copy it again."
            ) from error
        return headers


class NpzFrames:
    """Frames in an NPZ array of three axes (after leading axes of length 1), read lazily.

    position_last: the file's axes are (y, x, position) instead of (position, y, x)

    Small arrays are kept after the first read, uncompressed ones are memory-mapped, large compressed ones are streamed
    once for each call, so memory never exceeds the frames asked for by more than a block.
    """

    def __init__(self, archive: NpzArchive, name: str, *, position_last: bool = False) -> None:
        self._archive, self._name, self._position_last = archive, name, position_last
        self._kept: NDArray[Any] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": None}

    @property
    def shape(self) -> tuple[int, int, int]:
        first, second, third = self._archive.headers[self._name].shape[-3:]
        return (third, first, second) if self._position_last else (first, second, third)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return self._archive.headers[self._name].dtype.newbyteorder("=")

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        if self._kept is None:
            self._kept = self._keep()
        if self._kept is not None:
            return self._kept[indices].astype(self.dtype)
        return self._stream(indices)

    def _keep(self) -> NDArray[Any] | None:
        header = self._archive.headers[self._name]
        whole = self._archive.mapped(self._name)
        if whole is None and header.n_bytes <= CACHE_BYTES:
            whole = self._archive.load(self._name)
            self._archive.release()
        if whole is None:
            return None
        whole = whole.reshape(header.shape[-3:])
        return np.moveaxis(whole, -1, 0) if self._position_last else whole

    def _stream(self, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        header = self._archive.headers[self._name]
        axes = [1, 2, 0] if self._position_last else [0, 1, 2]  # which of (position, y, x) each stored axis is
        if header.fortran_order:
            axes.reverse()
        stored = [self.shape[axis] for axis in axes]
        at = axes.index(0)
        result = np.empty([len(indices) if axis == 0 else self.shape[axis] for axis in axes], dtype=self.dtype)
        row_bytes = stored[1] * stored[2] * header.dtype.itemsize
        step = max(1, 2**24 // row_bytes)
        with self._archive.stream(self._name) as stream:
            for start in range(0, stored[0], step):
                rows = min(step, stored[0] - start)
                block = np.frombuffer(_read_exactly(stream, rows * row_bytes), dtype=header.dtype)
                block = block.reshape(rows, *stored[1:])
                if at == 0:
                    wanted = (indices >= start) & (indices < start + rows)
                    result[wanted] = block[indices[wanted] - start]
                else:
                    result[start : start + rows] = block.take(indices, axis=at)
        return np.ascontiguousarray(result.transpose([axes.index(axis) for axis in range(3)]))


def _read_header(member: IO[bytes]) -> ArrayHeader:
    version = npy.read_magic(member)
    if version == (1, 0):
        shape, fortran_order, dtype = npy.read_array_header_1_0(member, max_header_size=HEADER_LIMIT_BYTES)
    elif version == (2, 0):
        shape, fortran_order, dtype = npy.read_array_header_2_0(member, max_header_size=HEADER_LIMIT_BYTES)
    else:
        raise ValueError(f"NPY version {version} is not supported")
    if any(length < 0 for length in shape):
        raise ValueError(f"shape {shape} has a negative length")
    return ArrayHeader(shape, dtype, fortran_order, member.tell())


def _read_exactly(stream: IO[bytes], n_bytes: int) -> bytes:
    found = stream.read(n_bytes)
    if len(found) != n_bytes:
        raise EOFError(f"{n_bytes} bytes expected, {len(found)} found")
    return found


def _unpack(path: Path) -> bytes:
    try:
        with bz2.open(path) as stream:
            unpacked = stream.read(UNPACKED_LIMIT_BYTES + 1)
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be unpacked ({error}); it is truncated or damaged. Copy it again.") from error
    if len(unpacked) > UNPACKED_LIMIT_BYTES:
        raise DataError(
            f"{path}: unpacks to more than {UNPACKED_LIMIT_BYTES / 2**30:.0f} GiB in memory; run bunzip2 on it first."
        )
    return unpacked
