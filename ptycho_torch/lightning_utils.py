"""Finding what a client's training has written."""

from __future__ import annotations

from pathlib import Path

from ptycho_torch.api.checkpoint_file import SUFFIX


def find_best_checkpoint(directory: str | Path) -> Path | None:
    """The model file of a training below its output directory, the newest where there are several, or None."""
    found = sorted(Path(directory).rglob(f"*{SUFFIX}"), key=lambda path: (path.stat().st_mtime_ns, str(path)))
    return found[-1] if found else None
