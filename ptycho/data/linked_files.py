"""The other files that an HDF5 file draws on: external links, virtual datasets, raw external storage."""

from __future__ import annotations

from pathlib import Path

import h5py

# Files with more objects than this are not scans, and looking through them takes longer than it helps.
_MOST_OBJECTS = 10_000


def linked_files(path: Path) -> tuple[Path, ...]:
    """Paths of the files that a file draws on, directly or through one another; none for anything but HDF5.

    Links that lead nowhere are left out: reading says so where it matters.
    """
    found: dict[Path, None] = {}
    waiting = [path.resolve()]
    while waiting:
        current = waiting.pop()
        for name in _names_in(current):
            # HDF5 looks beside the file that holds the link.
            target = (current.parent / name).resolve()
            if target != path.resolve() and target not in found and target.is_file():
                found[target] = None
                waiting.append(target)
    return tuple(sorted(found))


def _names_in(path: Path) -> list[str]:
    """The file names that an HDF5 file mentions, as they stand there."""
    if not h5py.is_hdf5(path):
        return []
    names: list[str] = []
    try:
        with h5py.File(path, "r") as file:
            seen: set[int] = set()
            groups: list[h5py.Group] = [file]
            while groups and len(seen) < _MOST_OBJECTS:
                group = groups.pop()
                for key in group:
                    link = group.get(key, getlink=True)
                    if isinstance(link, h5py.ExternalLink):
                        names.append(link.filename)
                    elif isinstance(link, h5py.HardLink):
                        member = group[key]
                        address = h5py.h5o.get_info(member.id).addr
                        if address in seen:
                            continue
                        seen.add(address)
                        if isinstance(member, h5py.Group):
                            groups.append(member)
                        elif isinstance(member, h5py.Dataset):
                            names += _storage_of(member)
    except (OSError, RuntimeError):
        # A damaged file is the reader's to explain.
        return names
    return names


def _storage_of(dataset: h5py.Dataset) -> list[str]:
    if dataset.is_virtual:
        # "." is the file itself.
        return [source.file_name for source in dataset.virtual_sources() if source.file_name != "."]
    return [name for name, _, _ in dataset.external or ()]
