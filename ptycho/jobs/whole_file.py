"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from ptycho.errors import PtychoError, RequestError, WorkError


def write_text(path: Path, text: str) -> None:
    """Replace the file's content; a reader sees the old text or the new one, never a part.

    Raises WorkError when the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise WorkError(write_problem(path, error)) from error


def write_json(path: Path, content: Any) -> None:
    """Replace the file's content by indented JSON; NaN and infinity are refused, because JSON has none."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises RequestError when it cannot be read or is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"Cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise RequestError(f"{path} is not valid JSON ({error}); it was not written by this program.") from error


def write_problem(path: Path, error: OSError) -> str:
    """One sentence for a file that could not be written, with what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "the disk is full" if error.errno == errno.ENOSPC else "the disk quota is used up"
        return f"Cannot write {path}: {what}. Free some space or set output.dir to another disk."
    return f"Cannot write {path}: {error.strerror or error}. Set output.dir to a folder where you may write."


def as_request_error(error: PtychoError) -> RequestError:
    """The same sentence as a wrong request, for failures before any work has begun."""
    return RequestError(str(error))
