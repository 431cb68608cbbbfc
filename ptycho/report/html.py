"""The report page of a run: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from ptycho.report.captions import CAPTIONS
from ptycho.report.lengths import length_words
from ptycho.whole_file import whole_file

# An image that explains the data less than this much better than a constant object has not found the object.
_NO_BETTER = 0.98
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class ReportFigure:
    """A drawn figure. caption: one sentence that says how to read it; name: letters, digits and underscores."""

    name: str
    title: str
    png: bytes
    caption: str

    @classmethod
    def standard(cls, name: str, png: bytes) -> ReportFigure:
        """A figure of `ptycho.report.figures` by its function's name, with its title and caption."""
        title, caption = CAPTIONS[name]
        return cls(name=name, title=title, png=png, caption=caption)

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the picture, from its header."""
        if not self.png.startswith(_PNG_SIGNATURE):
            raise ValueError(f"figure {self.name!r} holds no PNG picture")
        width, height = struct.unpack(">II", self.png[16:24])
        return int(width), int(height)

    @property
    def address(self) -> str:
        """The picture itself as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True, kw_only=True)
class KeyNumber:
    """A row of the numbers' table, in words. note: what it means, or what it was compared with."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A row of the configuration's table. source: spec, override, data, execution or default, or a sentence."""

    key: str
    value: str
    source: str


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """What a report tells. Everything but the title may be left out; its part of the page is then left out too.

    title:            the job's name
    summary:          what was done, in a sentence or two
    n_frames:         frames that the R-factor was made over
    r_factor:         Σ|√k − √λ| / Σ√k of the result
    flat_r_factor:    the same for the best constant object with the same probe
    resolution_px:    half period in object pixels from the Fourier ring correlation of two half scans
    resolution_m:     the same in metres
    resolution_criterion: "half-bit" or "1/7"
    phase_rmse_rad, flat_phase_rmse_rad, amplitude_psnr_db: against the truth where the scan has one; the second for a
                      constant object
    deviance:         Poisson deviance per good detector pixel; 1 means that noise alone is left
    warnings:         sentences that the reader must see before believing the image
    key_numbers:      further rows of the numbers' table
    figures:          in the order of the page; the first is shown large
    stage_times_s:    stage name and wall-clock seconds, in order
    configuration:    every resolved value with its source
    assumptions:      what the reader of the scan file had to assume or convert
    versions:         package or program and its version
    provenance:       other facts: host, ranks, start, scan file, checksum …
    """

    title: str
    summary: str = ""
    n_frames: int | None = None
    r_factor: float | None = None
    flat_r_factor: float | None = None
    resolution_px: float | None = None
    resolution_m: float | None = None
    resolution_criterion: str = "half-bit"
    phase_rmse_rad: float | None = None
    flat_phase_rmse_rad: float | None = None
    amplitude_psnr_db: float | None = None
    deviance: float | None = None
    warnings: tuple[str, ...] = ()
    key_numbers: tuple[KeyNumber, ...] = ()
    figures: tuple[ReportFigure, ...] = ()
    stage_times_s: Mapping[str, float] = field(default_factory=dict)
    configuration: tuple[Setting, ...] = ()
    assumptions: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)


def verdict(data: ReportData) -> str:
    """The first line of the report: what was reached, in one plain sentence."""
    parts = []
    if data.r_factor is not None:
        on = f" on {data.n_frames:,} frames" if data.n_frames else ""
        against = f" (a constant object: {data.flat_r_factor:.3f})" if data.flat_r_factor is not None else ""
        parts.append(f"R-factor {data.r_factor:.3f}{on}{against}")
    if data.resolution_px is not None:
        parts.append(f"half scans agree down to a half period of {_resolution(data)}")
    if data.phase_rmse_rad is not None:
        parts.append(f"phase error {data.phase_rmse_rad:.3f} rad against the truth")
    if not parts:
        return "The image was made; nothing about it was measured."
    sentence = "; ".join(parts) + "."
    return sentence[0].upper() + sentence[1:]


def all_warnings(data: ReportData) -> tuple[str, ...]:
    """The warnings given, after those that follow from the numbers themselves."""
    found = []
    for name, value in (("R-factor", data.r_factor), ("phase error", data.phase_rmse_rad)):
        if value is not None and not math.isfinite(value):
            found.append(f"The {name} is not a finite number: the reconstruction has diverged.")
    for name, value, flat in (
        ("R-factor", data.r_factor, data.flat_r_factor),
        ("phase error", data.phase_rmse_rad, data.flat_phase_rmse_rad),
    ):
        if value is not None and flat is not None and value >= _NO_BETTER * flat:
            found.append(
                f"The image is no better than a constant object: {name} {value:.3f}, a constant object {flat:.3f}."
                " Do not interpret it; check the probe, the positions and the orientation of the frames first."
            )
    return (*found, *data.warnings)


def key_numbers(data: ReportData) -> tuple[KeyNumber, ...]:
    """Rows of the numbers' table: the measured ones, then those given."""
    rows = []
    if data.r_factor is not None:
        note = "" if data.flat_r_factor is None else f"a constant object: {data.flat_r_factor:.4f}"
        rows.append(KeyNumber(label="R-factor", value=f"{data.r_factor:.4f}", note=note))
    if data.deviance is not None:
        rows.append(KeyNumber(label="Deviance per pixel", value=f"{data.deviance:.3g}", note="1: only noise is left"))
    if data.resolution_px is not None:
        criterion = f"Fourier ring correlation of half scans, {data.resolution_criterion} criterion"
        rows.append(KeyNumber(label="Half-period resolution", value=_resolution(data), note=criterion))
    if data.phase_rmse_rad is not None:
        flat = data.flat_phase_rmse_rad
        note = "after alignment to the truth" + ("" if flat is None else f"; a constant object: {flat:.4f} rad")
        rows.append(KeyNumber(label="Phase error (RMS)", value=f"{data.phase_rmse_rad:.4f} rad", note=note))
    if data.amplitude_psnr_db is not None:
        rows.append(
            KeyNumber(
                label="Amplitude PSNR",
                value=f"{data.amplitude_psnr_db:.1f} dB",
                note="peak: the truth's largest amplitude",
            )
        )
    return (*rows, *data.key_numbers)


def render_report(data: ReportData) -> str:
    """The page as text. Everything that comes from data is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["duration"] = duration_words
    template = environment.from_string(files("ptycho.report").joinpath("report.html").read_text(encoding="utf-8"))
    return template.render(data=data, verdict=verdict(data), warnings=all_warnings(data), key_numbers=key_numbers(data))


def write_report(data: ReportData, path: Path) -> None:
    """Write the page, whole or not at all. Raises WorkError when the disk refuses it."""
    with whole_file(path) as partial:
        partial.write_text(render_report(data), encoding="utf-8")


def duration_words(seconds: float) -> str:
    """A duration as people say it: "0.8 s", "42 s", "3 min 5 s", "2 h 10 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{whole} s"


def _resolution(data: ReportData) -> str:
    metres = "" if data.resolution_m is None else f" ({length_words(data.resolution_m)})"
    return f"{data.resolution_px:.2f} px{metres}"
