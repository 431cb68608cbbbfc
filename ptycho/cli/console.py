"""What the commands show: sentences and tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer


def is_terminal() -> bool:
    """Whether a person is looking at the output as it comes."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def say(text: str = "") -> None:
    """One line for people, on standard output."""
    typer.echo(text)


def next_step(text: str) -> None:
    """The last line of a command: what to type next."""
    typer.echo(f"Next: {text}")


def complain(text: str) -> None:
    """An error for people, on standard error."""
    _tell("Error:", "red", text)


def warn(text: str) -> None:
    """Something that is wrong and stops nothing, on standard error."""
    _tell("Warning:", "yellow", text)


def _tell(label: str, colour: str, text: str) -> None:
    is_coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    typer.echo(f"{typer.style(label, fg=colour, bold=True) if is_coloured else label} {text}", err=True)


def show_json(content: Any) -> None:
    """JSON for programs; NaN and infinity become null."""
    typer.echo(json.dumps(_finite(content), indent=1, default=str, allow_nan=False))


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and (content != content or content in (float("inf"), float("-inf"))):
        return None
    return content


def show_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: drawn by rich in a terminal, aligned columns of plain text elsewhere."""
    if is_terminal():
        from rich.console import Console
        from rich.table import Table

        table = Table(*headers, box=None, header_style="bold", pad_edge=False)
        for row in rows:
            table.add_row(*(_cell(value) for value in row))
        Console(highlight=False, markup=False).print(table)
        return
    for line in table_lines(headers, rows):
        typer.echo(line)


def table_lines(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A table as lines of plain text, its columns aligned."""
    table = [list(headers), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(headers))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def counted(number: int, thing: str) -> str:
    """A number of things in words: 1 rank, 2 ranks, 2 processes."""
    ending = "" if number == 1 else "es" if thing.endswith("s") else "s"
    return f"{number} {thing}{ending}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
