"""Metadata of NPZ files: a JSON text stored as one more array."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho.config.config import TrainingConfig, dataclass_to_legacy_dict
from ptycho.data.formats.npz_archive import NpzArchive
from ptycho.data.formats.pickled_text import read_pickled_text
from ptycho.errors import DataError
from ptycho.whole_file import whole_file

METADATA_KEY = "_metadata"

# Metadata larger than this is no description of a scan.
_LIMIT_BYTES = 16 * 2**20


class MetadataManager:
    """Reads and writes metadata; without state, under the one name that older programs use."""

    METADATA_KEY = METADATA_KEY

    @staticmethod
    def create_metadata(config: Any, script_name: str, **extra: Any) -> dict[str, Any]:
        """Metadata that says which configuration made a file, with which program.

        config: a configuration dataclass; its fields stand under their legacy names in "physics_parameters"
        extra:  further facts, kept in "additional_parameters"
        """
        return {
            "schema_version": "1.0",
            "creation_info": {"timestamp": datetime.now(UTC).isoformat(timespec="seconds"), "script": script_name},
            "physics_parameters": dataclass_to_legacy_dict(config),
            "additional_parameters": dict(extra),
        }

    @staticmethod
    def save_with_metadata(
        path: str | Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any] | None
    ) -> None:
        """Write an NPZ file, compressed, with its metadata; the file appears whole or not at all.

        Raises ValueError for an array of Python objects or a name that is taken, TypeError for metadata that JSON
        cannot express, WorkError when the file cannot be written.
        """
        stored = {name: np.asarray(array) for name, array in arrays.items()}
        pickled = [name for name, array in stored.items() if array.dtype.hasobject]
        if pickled:
            raise ValueError(f"{', '.join(pickled)}: arrays of Python objects are not stored; give plain arrays.")
        if METADATA_KEY in stored:
            raise ValueError(f"{METADATA_KEY!r} is the name of the metadata; give the array another one.")
        if metadata is not None:
            stored[METADATA_KEY] = np.array(json.dumps(metadata, default=_plain))
        with whole_file(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **stored)  # type: ignore[arg-type]  # numpy's stub takes a bool named allow_pickle

    @staticmethod
    def load_with_metadata(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any] | None]:
        """The arrays of an NPZ file and its metadata, None when it has none.

        Raises FileNotFoundError, and DataError when the file is damaged or would have to be unpickled.
        """
        archive = NpzArchive(Path(path))
        names = [name for name in archive.headers if name != METADATA_KEY]
        pickled = [name for name in names if archive.headers[name].dtype.hasobject]
        if pickled:
            raise DataError(
                f"{path}: {', '.join(pickled)} holds pickled Python objects, which are never loaded because they can"
                " run code; save it again as a plain array."
            )
        metadata = _metadata(archive)
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}, metadata

    @staticmethod
    def load_metadata(path: str | Path) -> dict[str, Any] | None:
        """The metadata of an NPZ file alone, None when it has none; no other array is read. Raises as above."""
        return _metadata(NpzArchive(Path(path)))

    @staticmethod
    def get_nphotons(metadata: Mapping[str, Any] | None, default: float = TrainingConfig.nphotons) -> float:
        """Mean photons of one pattern that the metadata state, else the default. Raises DataError for nonsense."""
        for place in ((metadata or {}).get("physics_parameters"), metadata):
            if isinstance(place, Mapping) and place.get("nphotons") is not None:
                value = place["nphotons"]
                if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                    raise DataError(f"metadata: nphotons = {value!r}; a number above 0 was expected. Repair the file.")
                return float(value)
        return default


def _metadata(archive: NpzArchive) -> dict[str, Any] | None:
    if METADATA_KEY not in archive.headers:
        return None
    try:
        found = json.loads(_text(archive))
    except ValueError as error:
        raise DataError(
            f"{archive.path}: {METADATA_KEY} is not a JSON text ({error}); it is not read, because anything else could"
            " run code. Save the file again with MetadataManager, or without this array."
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"{archive.path}: {METADATA_KEY} is JSON, but no object {{…}}; save the file again.")
    return found


def _text(archive: NpzArchive) -> str:
    """The metadata's JSON text. Raises ValueError when the array is anything but one text."""
    header = archive.headers[METADATA_KEY]
    if header.shape != ():
        raise ValueError(f"an array of shape {header.shape}")
    if not header.dtype.hasobject:
        value = archive.load(METADATA_KEY, "iufcbSU").item()
        return value.decode() if isinstance(value, bytes) else str(value)
    with archive.stream(METADATA_KEY) as stream:
        pickled = stream.read(_LIMIT_BYTES + 1)
    if len(pickled) > _LIMIT_BYTES:
        raise ValueError(f"more than {_LIMIT_BYTES} bytes")
    return read_pickled_text(pickled)


def _plain(value: Any) -> Any:
    """What JSON knows in place of a numpy number, a numpy array or a path."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} cannot be written as JSON metadata; give a number, a text, a list or a dict.")
