"""JSON files of a run folder, written whole and read with a sentence when they are broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ptycho.errors import RequestError
from ptycho.whole_file import whole_file


def write_text(path: Path, text: str) -> None:
    """Replace the file's content. Raises WorkError when the disk is full or the folder cannot be written."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
