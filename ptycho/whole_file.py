"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptycho.errors import WorkError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, which takes the file's place when the block ends without an error.

    A reader sees the old file or the new one, never a part. Raises WorkError, and leaves nothing behind, when the disk
    is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise WorkError(write_problem(path, error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_problem(path: Path, error: OSError) -> str:
    """One sentence for a file that could not be written, with what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "the disk is full" if error.errno == errno.ENOSPC else "the disk quota is used up"
        return f"Cannot write {path}: {what}. Free some space or choose a folder on another disk."
    return f"Cannot write {path}: {error.strerror or error}. Choose a folder where you may write."
