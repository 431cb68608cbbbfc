"""What figures share: style, panels, scale bars, colour keys."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from ptycho.evaluation.metrics import smooth_phase
from ptycho.report.colour import colour_limits, phase_colours
from ptycho.report.lengths import Pixel, round_length

_DPI = 160
INK, FAINT, OUTSIDE = "#1b2430", "#5d6875", "#e9edf1"
# Okabe & Ito's palette, which stays distinct for every kind of colour vision.
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": "#a9b3bd",
    "axes.linewidth": 0.8,
    "axes.grid": False,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "axes.prop_cycle": cycler(color=LINES),
    "image.interpolation": "antialiased",
    "savefig.facecolor": "white",
}
PHASE_MAP, WRAPPED_PHASE_MAP, SIGNED_MAP = "cividis", "twilight", "RdBu_r"
AMPLITUDE_MAP, LIGHT_MAP = "gray", "magma"

Region = NDArray[np.bool_]
P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """The function with our style set while it draws, and the caller's afterwards."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(cast("Any", _STYLE)):
            return draw(*args, **kwargs)

    return styled


def new_figure(n_panels: int, width_in: float, height_in: float) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, at most three in a row."""
    columns = min(n_panels, 3)
    rows = -(-n_panels // columns)
    figure = Figure(figsize=(width_in * columns, height_in * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in grid[n_panels:]:
        spare.set_axis_off()
    return figure, list(grid[:n_panels])


def inside(values: NDArray[np.floating], region: Region) -> NDArray[np.floating]:
    """The values cropped to the region, NaN where they are not in it."""
    rows, columns = (slice(int(w.min()), int(w.max()) + 1) for w in np.nonzero(region))
    return np.where(region, values, np.nan)[rows, columns]


def png(figure: Figure, dpi: int = _DPI) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def colour_map(name: str) -> mpl.colors.Colormap:
    """The colour map of that name, with its own grey for what lies outside."""
    return mpl.colormaps[name].with_extremes(bad=OUTSIDE)


def shown_phase(
    flat: NDArray[np.complexfloating], region: Region
) -> tuple[NDArray[np.float64], str, tuple[float, float]]:
    """Phase, colour map and limits: sequential for weak phases, cyclic where the phase runs round the circle."""
    phase = smooth_phase(flat, region)
    limits = colour_limits(phase[region])
    wraps = limits[1] - limits[0] > 0.9 * 2 * np.pi
    return phase, WRAPPED_PHASE_MAP if wraps else PHASE_MAP, (-np.pi, np.pi) if wraps else limits


def show(
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
    cropped = inside(values, region)
    shown = axes.imshow(cropped, cmap=colour_map(color_map), norm=Normalize(*limits))
    if label is not None:
        colour_bar(figure, axes, shown, label)
    scale_bar(axes, cropped.shape, pixel_m)
    bare(axes)


def draw_counts(figure: Figure, axes: Axes, counts: NDArray[np.floating]) -> None:
    """Counts on a logarithmic scale, with a colour bar."""
    top = max(float(np.nanmax(counts)), 1e-12)
    low = max(top * 1e-6, float(np.nanquantile(counts[counts > 0], 0.02)) if (counts > 0).any() else top * 1e-6)
    shown = axes.imshow(np.maximum(counts, low), cmap=colour_map(LIGHT_MAP), norm=LogNorm(low, max(top, 1.01 * low)))
    colour_bar(figure, axes, shown, "Counts")


def colour_bar(figure: Figure, axes: Axes, shown: Any, label: str) -> None:
    """A colour bar beside the axes."""
    figure.colorbar(shown, ax=axes, label=label, shrink=0.85, pad=0.02)


def bare(axes: Axes) -> None:
    """Take the ticks away."""
    axes.set(xticks=[], yticks=[])


def open_axes(axes: Axes) -> None:
    """Axes without top and right, on a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=OUTSIDE, lw=0.8)
    axes.set_axisbelow(True)


def marker_size(n: int) -> float:
    """Area of a marker, so that n of them fill a panel without hiding one another."""
    return float(np.clip(20000 / n, 2, 60))


def position_axes(axes: Axes, unit: str) -> None:
    """Axes of positions, rows downwards."""
    axes.set_aspect("equal")
    axes.invert_yaxis()  # rows count downwards, as in the images
    axes.set_xlabel(f"x ({unit})")
    axes.set_ylabel(f"y ({unit})")
    axes.spines[["top", "right"]].set_visible(False)


def scale_bar(axes: Axes, shape: tuple[int, ...], pixel_m: Pixel | None) -> None:
    """A bar of a round length, about a fifth of the width, in metres when the pixel size is known, else in pixels."""
    height, width = shape
    length_px, words = round_length(width / 5, pixel_m)
    x, y = width * 0.04, height * 0.94
    edge, middle = [withStroke(linewidth=4.5, foreground=INK)], x + length_px / 2
    axes.plot([x, x + length_px], [y, y], color="white", lw=3, solid_capstyle="butt", path_effects=edge)
    text = axes.text(middle, y - height * 0.015, words, color="white", ha="center", va="bottom", fontsize=8)
    text.set_path_effects([withStroke(linewidth=2, foreground=INK)])
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def phase_wheel(axes: Axes) -> None:
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
