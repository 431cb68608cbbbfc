"""The scan files that a list of names and patterns stands for, and a short name for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ptycho.errors import DataError
from ptycho.jobs.problems import shown


def matching_scans(patterns: Sequence[str], start: Path) -> list[Path]:
    """Absolute paths, sorted, each once. A name without wildcards is kept, whether there is such a file or not.

    start: the folder at which relative patterns begin
    Raises DataError for a pattern that matches nothing.
    """
    found: set[Path] = set()
    for pattern in patterns:
        path = start / Path(pattern).expanduser()
        matches = set(_matches(path)) if any(sign in pattern for sign in "*?[") else {path}
        if not matches:
            raise DataError(f"data.scans: no file in {start} matches {shown(pattern)}.")
        found |= matches
    return sorted(found)


def _matches(pattern: Path) -> list[Path]:
    """The files that an absolute pattern matches."""
    root = Path(pattern.anchor)
    return list(root.glob(str(pattern.relative_to(root))))


def plain_name(path: Path) -> str:
    """A file's name without ending, made of letters, digits, points, dashes and underscores."""
    name = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in path.stem
    )
    return name.lstrip("._-") or "run"


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """A plain name for each file, with as many of its folders before it as tell it from the others."""
    names = [plain_name(path) for path in paths]
    depth = 1
    while len(set(names)) < len(names) and depth < max(len(path.parts) for path in paths):
        depth += 1
        twice = {name for name in names if names.count(name) > 1}
        names = [
            plain_name(Path("-".join([*path.parts[-depth:-1], path.stem]) + ".h5")) if name in twice else name
            for name, path in zip(names, paths, strict=True)
        ]
    # Files that differ in their ending alone.
    return [
        name if names.index(name) == number else f"{name}-{path.suffix.removeprefix('.')}-{number}"
        for number, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
