"""The page of a series: one HTML file with a row for each scan, which needs nothing but the runs' reports beside it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import median
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined

from ptycho.report.html import duration_words
from ptycho.whole_file import whole_file


@dataclass(frozen=True, kw_only=True)
class PageRow:
    """One scan. thumbnail: a PNG picture; report, log: relative addresses, empty where there is none."""

    scan: str
    file: str
    status: str
    r_factor: float | None = None
    seconds: float | None = None
    error: str = ""
    report: str = ""
    log: str = ""
    thumbnail: bytes | None = None

    @property
    def picture(self) -> str:
        """The thumbnail as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.thumbnail or b"").decode("ascii")


@dataclass(frozen=True, kw_only=True)
class SeriesPage:
    """What the page tells.

    headline: how many scans are in which state
    training: how the training of the network went, where there was one; training_log: its address or empty
    """

    title: str
    headline: str
    collected: str
    is_complete: bool
    rows: tuple[PageRow, ...]
    training: str | None = None
    training_log: str = ""

    @property
    def failed(self) -> tuple[PageRow, ...]:
        """The scans of which there is something to repair."""
        return tuple(row for row in self.rows if row.error)

    @property
    def summary(self) -> str:
        """The spread of what was reached, in a sentence; empty while nothing was."""
        reached = sorted(row.r_factor for row in self.rows if row.r_factor is not None)
        if not reached:
            return ""
        times = [row.seconds for row in self.rows if row.seconds is not None and row.r_factor is not None]
        spread = f"R-factor {reached[0]:.3f} to {reached[-1]:.3f}, median {median(reached):.3f}"
        return spread + (f"; {duration_words(median(times))} for a scan." if times else ".")


def render_page(page: SeriesPage) -> str:
    """The page as text. Everything that comes from data is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["duration"] = duration_words
    environment.filters["address"] = quote
    template = environment.from_string(files("ptycho.report").joinpath("series.html").read_text(encoding="utf-8"))
    return template.render(page=page)


def write_page(page: SeriesPage, path: Path) -> None:
    """Write the page, whole or not at all. Raises WorkError when the disk refuses it."""
    with whole_file(path) as partial:
        partial.write_text(render_page(page), encoding="utf-8")
