"""Figures of a run: arrays in, PNG out. The only file that knows matplotlib.

Figures are made without pyplot, on the Agg canvas: they need no display and leave no settings behind. The colour maps
can be read by colour-blind people and in grey.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ptycho.data.scan import Scan
from ptycho.evaluation.alignment import remove_ramp
from ptycho.evaluation.frc import ONE_SEVENTH, RingCorrelation
from ptycho.evaluation.metrics import phase_difference, smooth_phase
from ptycho.report.colour import colour_limits, complex_colours, phase_colours
from ptycho.report.lengths import Pixel, in_unit, length_words, round_length
from ptycho.whole_file import whole_file

_DPI = 160
_INK, _FAINT, _OUTSIDE = "#1b2430", "#5d6875", "#e9edf1"
# Okabe & Ito's palette, which stays distinct for every kind of colour vision.
_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#a9b3bd",
    "axes.linewidth": 0.8,
    "axes.grid": False,
    "text.color": _INK,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "axes.prop_cycle": cycler(color=_LINES),
    "image.interpolation": "antialiased",
    "savefig.facecolor": "white",
}
_PHASE_MAP, _WRAPPED_PHASE_MAP, _SIGNED_MAP = "cividis", "twilight", "RdBu_r"
_AMPLITUDE_MAP, _LIGHT_MAP = "gray", "magma"

Region = NDArray[np.bool_]
P = ParamSpec("P")
R = TypeVar("R")


def _styled(draw: Callable[P, R]) -> Callable[P, R]:
    """The function with our style set while it draws, and the caller's afterwards."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(cast("Any", _STYLE)):
            return draw(*args, **kwargs)

    return styled


@_styled
def object_phase(image: NDArray[np.complexfloating], region: Region, pixel_m: Pixel | None = None) -> bytes:
    """The object's phase (y, x) in the scanned region, its ramp taken out. pixel_m: (height, width) or None."""
    figure, (axes,) = _figure(1, 6.4, 5.6)
    phase, color_map, limits = _shown_phase(remove_ramp(image, region).image, region)
    _show(figure, axes, phase, region, pixel_m, color_map, limits, "Phase (rad)")
    axes.set_title("Object phase, linear ramp removed")
    return _png(figure)


def thumbnail(image: NDArray[np.complexfloating], region: Region, width_px: int = 176) -> bytes:
    """The phase (y, x) of the scanned region as a square picture without axes, for tables of many runs."""
    phase, color_map, limits = _shown_phase(remove_ramp(image, region).image, region)
    figure = Figure(figsize=(1, 1), facecolor=_OUTSIDE)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(_inside(phase, region), cmap=_map(color_map), norm=Normalize(*limits), interpolation="antialiased")
    axes.set_axis_off()
    return _png(figure, dpi=width_px)


@_styled
def object_amplitude(image: NDArray[np.complexfloating], region: Region, pixel_m: Pixel | None = None) -> bytes:
    """The object's amplitude (y, x) in the scanned region; 1 is vacuum."""
    figure, (axes,) = _figure(1, 6.4, 5.6)
    amplitude = np.abs(image)
    _show(figure, axes, amplitude, region, pixel_m, _AMPLITUDE_MAP, colour_limits(amplitude[region]), "Amplitude")
    axes.set_title("Object amplitude")
    return _png(figure)


@_styled
def probe_modes(probe: NDArray[np.complexfloating], pixel_m: Pixel | None = None) -> bytes:
    """The probe's modes (mode, y, x): hue is the phase, brightness the amplitude, each mode to its own maximum."""
    n_shown = min(len(probe), 6)
    power = (np.abs(probe) ** 2).sum((-2, -1))
    figure, panels = _figure(n_shown, 4.2 if n_shown == 1 else 2.9, 3.9 if n_shown == 1 else 3.1)
    for number, (mode, axes) in enumerate(zip(probe, panels, strict=False), 1):
        axes.imshow(complex_colours(mode))
        _scale_bar(axes, mode.shape, pixel_m)
        share = f"{power[number - 1] / power.sum():.1%} of the power"
        axes.set_title("Probe" if len(probe) == 1 else f"Mode {number}, {share}")
        _bare(axes)
    _phase_wheel(panels[-1])
    return _png(figure)


@_styled
def diffraction(
    mean_counts: NDArray[np.floating], mean_residual: NDArray[np.floating], mask: Region | None = None
) -> bytes:
    """Mean pattern (log) and mean residual √λ − √k, (y, x), zero frequency at N // 2. mask: True where good."""
    good = np.ones(mean_counts.shape, bool) if mask is None else mask
    counts, residual = np.where(good, mean_counts, np.nan), np.where(good, mean_residual, np.nan)
    figure, (left, right) = _figure(2, 4.3, 3.7)
    _draw_counts(figure, left, counts)
    left.set_title("Mean diffraction pattern")
    limit = max(float(np.nanquantile(np.abs(residual), 0.998)), 1e-12)
    shown = right.imshow(residual, cmap=_map(_SIGNED_MAP), vmin=-limit, vmax=limit)
    _bar(figure, right, shown, "Model − measured (√counts)")
    right.set_title("Mean residual")
    for axes in (left, right):
        _bare(axes)
    return _png(figure)


@_styled
def frame_residuals(
    positions_px: NDArray[np.float64], frame_r_factor: NDArray[np.floating], pixel_m: Pixel | None = None
) -> bytes:
    """Scan positions (position, 2) coloured by each frame's R-factor, the worst on top."""
    order = np.argsort(frame_r_factor)
    return _by_position(positions_px, frame_r_factor, order, pixel_m, "R-factor of the frame", "Residual of each frame")


@_styled
def patch_confidence(
    positions_px: NDArray[np.float64], confidence: NDArray[np.floating], pixel_m: Pixel | None = None
) -> bytes:
    """Scan positions (position, 2) coloured by how far each patch's neighbours agree with it, 0 to 1, worst on top."""
    order = np.argsort(-confidence)
    return _by_position(positions_px, confidence, order, pixel_m, "Confidence of the patch", "Agreement of patches")


def _by_position(
    positions_px: NDArray[np.float64],
    values: NDArray[np.floating],
    order: NDArray[np.intp],
    pixel_m: Pixel | None,
    label: str,
    title: str,
) -> bytes:
    figure, (axes,) = _figure(1, 6.0, 5.0)
    y, x, unit = in_unit(positions_px, pixel_m)
    low, high = colour_limits(values, 0.02)
    size = _marker_size(len(positions_px))
    shown = axes.scatter(x[order], y[order], size, values[order], cmap="viridis", vmin=low, vmax=high, lw=0)
    figure.colorbar(shown, ax=axes, label=label, shrink=0.85, extend="both")
    _position_axes(axes, unit)
    axes.set_title(title)
    return _png(figure)


@_styled
def position_shifts(
    recorded_px: NDArray[np.float64], offsets_px: NDArray[np.floating], pixel_m: Pixel | None = None
) -> bytes:
    """Corrections of the positions, (position, 2) = (y, x), as arrows on the scan."""
    figure, (axes,) = _figure(1, 6.0, 5.0)
    (y, x, unit), (to_y, to_x, _) = in_unit(recorded_px, pixel_m), in_unit(recorded_px + offsets_px, pixel_m)
    length = np.linalg.norm(offsets_px, axis=1)
    arrows = axes.quiver(x, y, to_x - x, to_y - y, length, angles="xy", scale_units="xy", scale=1, width=0.003)
    figure.colorbar(arrows, ax=axes, label="Correction (object pixels)", shrink=0.85)
    _position_axes(axes, unit)
    axes.set_title(f"Corrections, mean {length.mean():.2f} px")
    return _png(figure)


@_styled
def coverage(light: NDArray[np.floating], region: Region, pixel_m: Pixel | None = None) -> bytes:
    """Light that each object pixel saw (y, x), of its maximum, with the outline of the scored region."""
    figure, (axes,) = _figure(1, 6.0, 5.2)
    share = light / max(float(light.max()), 1e-30)
    shown = axes.imshow(share, cmap=_map(_LIGHT_MAP), vmin=0, vmax=1)
    if region.any() and not region.all():
        axes.contour(region, levels=[0.5], colors="white", linewidths=1)
    _bar(figure, axes, shown, "Summed light (of its maximum)")
    _scale_bar(axes, light.shape, pixel_m)
    _bare(axes)
    axes.set_title("Coverage")
    return _png(figure)


@_styled
def history(losses: Mapping[str, Sequence[float]], r_factors: Mapping[str, Sequence[float]]) -> bytes:
    """Loss and R-factor by epoch, a line for each name ("training", "validation", "rpie" …); epochs count from 1."""
    panels = [
        (title, curves)
        for title, curves in (("Loss", losses), ("R-factor", r_factors))
        if any(len(values) for values in curves.values())
    ]
    if not panels:
        raise ValueError("there is no loss and no R-factor to draw; leave this figure out")
    figure, drawn = _figure(len(panels), 4.6, 3.3)
    for axes, (title, curves) in zip(drawn, panels, strict=True):
        for name, values in curves.items():
            axes.plot(np.arange(1, len(values) + 1), values, label=name, marker="o" if len(values) < 3 else None)
        everything = np.concatenate([np.asarray(v, float) for v in curves.values()])
        if everything.min() > 0 and everything.max() > 10 * everything.min():
            axes.set_yscale("log")
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(title)
        axes.legend()
        _open(axes)
    return _png(figure)


@_styled
def fourier_ring_correlation(curve: RingCorrelation) -> bytes:
    """FRC curve with its two thresholds and the resolution that each gives."""
    figure, (axes,) = _figure(1, 6.4, 3.8)
    axes.plot(curve.frequency, curve.correlation, color=_LINES[0], label="correlation")
    axes.plot(curve.frequency, curve.half_bit, color=_LINES[1], lw=1.3, ls="--", label="half-bit threshold")
    axes.axhline(ONE_SEVENTH, color=_FAINT, lw=1.2, ls=":", label="1/7")
    resolution = curve.resolution_px()
    if resolution is not None:
        axes.axvline(0.5 / resolution, color=_LINES[1], lw=0.8)
        metres = curve.resolution_m()
        words = f"{resolution:.2f} px" if metres is None else f"{resolution:.2f} px = {length_words(metres)}"
        limit = " (sampling limit)" if resolution == 1 else ""
        axes.annotate(
            f"half period {words}{limit} ",
            (0.5 / resolution, 1.03),
            ha="right" if resolution < 2 else "left",
            va="bottom",
            color=_LINES[1],
        )
    axes.set(xlim=(0, 0.5), ylim=(min(-0.05, float(curve.correlation.min())), 1.15))
    axes.set_xlabel("Spatial frequency (cycles per pixel; 0.5 is the sampling limit)")
    axes.set_ylabel("Correlation")
    figure.legend(loc="outside lower center", ncols=3)
    axes.set_title("Fourier ring correlation")
    _open(axes)
    return _png(figure)


@_styled
def truth_comparison(
    aligned: NDArray[np.complexfloating],
    truth: NDArray[np.complexfloating],
    region: Region,
    pixel_m: Pixel | None = None,
) -> bytes:
    """Truth, aligned image and their difference, (y, x): phase above, amplitude below, on the truth's own ranges."""
    figure = Figure(figsize=(10.2, 6.4), layout="constrained")
    panels = figure.subplots(2, 3)
    phase, difference = smooth_phase(truth, region), phase_difference(aligned, truth)
    amplitude, true_amplitude = np.abs(aligned), np.abs(truth)
    rows = (
        ("phase", "rad", phase, phase + difference, difference, _PHASE_MAP),
        ("amplitude", "", true_amplitude, amplitude, amplitude - true_amplitude, _AMPLITUDE_MAP),
    )
    for axes, (word, unit, ideal, found, error, color_map) in zip(panels, rows, strict=True):
        limits = colour_limits(ideal[region], 0.001)
        bound = max(float(np.quantile(np.abs(error[region]), 0.99)), 1e-9)
        label = word.capitalize() + (f" ({unit})" if unit else "")
        _show(figure, axes[0], ideal, region, pixel_m, color_map, limits, None)
        _show(figure, axes[1], found, region, pixel_m, color_map, limits, label)
        _show(figure, axes[2], error, region, pixel_m, _SIGNED_MAP, (-bound, bound), f"Error{label[len(word) :]}")
        rms = float(np.sqrt(np.mean(error[region] ** 2)))
        titles = f"True {word}", f"Reconstructed {word}", f"Difference, RMS {rms:.3g} {unit}".rstrip()
        for panel, title in zip(axes, titles, strict=True):
            panel.set_title(title)
    return _png(figure)


@_styled
def draw_scan(scan: Scan, path: Path) -> None:
    """Draw what a scan holds, before any work: mean of up to 64 of its patterns, positions, probe; into a PNG file."""
    some = np.unique(np.linspace(0, scan.n_positions - 1, 64).astype(np.int64))
    mean = scan.frames.read(some).astype(np.float64).mean(axis=0)
    good = np.ones(mean.shape, bool) if scan.mask is None else scan.mask
    pixel_m = scan.geometry.object_pixel(scan.patch_size)
    figure, panels = _figure(2 if scan.probe is None else 3, 4.2, 3.8)
    _draw_counts(figure, panels[0], np.where(good, mean, np.nan))
    panels[0].set_title(f"Mean of {len(some)} patterns")
    _bare(panels[0])
    y, x, unit = in_unit(scan.positions_px, pixel_m)
    panels[1].plot(x, y, color=_OUTSIDE, lw=0.8, zorder=0)
    panels[1].scatter(x, y, _marker_size(len(x)) / 3, np.arange(len(x)), cmap="viridis", lw=0)
    _position_axes(panels[1], unit)
    panels[1].set_title(f"{scan.n_positions} positions, dark to light in time")
    if scan.probe is not None:
        panels[2].imshow(complex_colours(scan.probe[0]))
        _scale_bar(panels[2], scan.probe[0].shape, pixel_m)
        _phase_wheel(panels[2])
        panels[2].set_title(f"Probe, {len(scan.probe)} mode{'s' if len(scan.probe) > 1 else ''}")
        _bare(panels[2])
    with whole_file(path) as partial:
        partial.write_bytes(_png(figure))


def _figure(n_panels: int, width_in: float, height_in: float) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, at most three in a row."""
    columns = min(n_panels, 3)
    rows = -(-n_panels // columns)
    figure = Figure(figsize=(width_in * columns, height_in * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in grid[n_panels:]:
        spare.set_axis_off()
    return figure, list(grid[:n_panels])


def _inside(values: NDArray[np.floating], region: Region) -> NDArray[np.floating]:
    """The values cropped to the region, NaN where they are not in it."""
    rows, columns = (slice(int(w.min()), int(w.max()) + 1) for w in np.nonzero(region))
    return np.where(region, values, np.nan)[rows, columns]


def _png(figure: Figure, dpi: int = _DPI) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def _map(name: str) -> mpl.colors.Colormap:
    return mpl.colormaps[name].with_extremes(bad=_OUTSIDE)


def _shown_phase(
    flat: NDArray[np.complexfloating], region: Region
) -> tuple[NDArray[np.float64], str, tuple[float, float]]:
    """Phase, colour map and limits: sequential for weak phases, cyclic where the phase runs round the circle."""
    phase = smooth_phase(flat, region)
    limits = colour_limits(phase[region])
    wraps = limits[1] - limits[0] > 0.9 * 2 * np.pi
    return phase, _WRAPPED_PHASE_MAP if wraps else _PHASE_MAP, (-np.pi, np.pi) if wraps else limits


def _show(
    figure: Figure,
    axes: Axes,
    values: NDArray[np.floating],
    region: Region,
    pixel_m: Pixel | None,
    color_map: str,
    limits: tuple[float, float],
    label: str | None,
) -> None:
    """An image cropped to the scanned region, grey outside it, with a scale bar and a colour bar."""
    inside = _inside(values, region)
    shown = axes.imshow(inside, cmap=_map(color_map), norm=Normalize(*limits))
    if label is not None:
        _bar(figure, axes, shown, label)
    _scale_bar(axes, inside.shape, pixel_m)
    _bare(axes)


def _draw_counts(figure: Figure, axes: Axes, counts: NDArray[np.floating]) -> None:
    top = max(float(np.nanmax(counts)), 1e-12)
    low = max(top * 1e-6, float(np.nanquantile(counts[counts > 0], 0.02)) if (counts > 0).any() else top * 1e-6)
    shown = axes.imshow(np.maximum(counts, low), cmap=_map(_LIGHT_MAP), norm=LogNorm(low, max(top, 1.01 * low)))
    _bar(figure, axes, shown, "Counts")


def _bar(figure: Figure, axes: Axes, shown: Any, label: str) -> None:
    figure.colorbar(shown, ax=axes, label=label, shrink=0.85, pad=0.02)


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])


def _open(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=_OUTSIDE, lw=0.8)
    axes.set_axisbelow(True)


def _marker_size(n: int) -> float:
    return float(np.clip(20000 / n, 2, 60))


def _position_axes(axes: Axes, unit: str) -> None:
    axes.set_aspect("equal")
    axes.invert_yaxis()  # rows count downwards, as in the images
    axes.set_xlabel(f"x ({unit})")
    axes.set_ylabel(f"y ({unit})")
    axes.spines[["top", "right"]].set_visible(False)


def _scale_bar(axes: Axes, shape: tuple[int, ...], pixel_m: Pixel | None) -> None:
    """A bar of a round length, about a fifth of the width, in metres when the pixel size is known, else in pixels."""
    height, width = shape
    length_px, words = round_length(width / 5, pixel_m)
    x, y = width * 0.04, height * 0.94
    edge, middle = [withStroke(linewidth=4.5, foreground=_INK)], x + length_px / 2
    axes.plot([x, x + length_px], [y, y], color="white", lw=3, solid_capstyle="butt", path_effects=edge)
    text = axes.text(middle, y - height * 0.015, words, color="white", ha="center", va="bottom", fontsize=8)
    text.set_path_effects([withStroke(linewidth=2, foreground=_INK)])
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _phase_wheel(axes: Axes) -> None:
    """A small key in the corner: the colour of each phase."""
    side = np.linspace(-1, 1, 121)
    y, x = side[:, None], side[None, :]
    radius = np.hypot(y, x)
    colors = phase_colours(np.arctan2(-y, x))
    ring = ((radius < 1) & (radius > 0.55)).astype(float)
    key = axes.inset_axes((0.78, 0.78, 0.15, 0.15))
    key.imshow(np.dstack([colors, ring]))
    key.set_axis_off()
    for angle, word in ((0, "0"), (np.pi / 2, "π/2"), (np.pi, "π"), (-np.pi / 2, "−π/2")):
        key.text(
            60 + 88 * np.cos(angle), 60 - 82 * np.sin(angle), word, color="white", fontsize=6, ha="center", va="center"
        )
