"""Figures of a run: arrays in, PNG out. Only they and their panels know matplotlib.

Figures are made without pyplot, on the Agg canvas: they need no display and leave no settings behind. The colour maps
can be read by colour-blind people and in grey.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ptycho.data.scan import Scan
from ptycho.evaluation.alignment import remove_ramp
from ptycho.evaluation.frc import ONE_SEVENTH, RingCorrelation
from ptycho.evaluation.metrics import phase_difference, smooth_phase
from ptycho.report.colour import colour_limits, complex_colours
from ptycho.report.lengths import Pixel, in_unit, length_words
from ptycho.report.panels import (
    AMPLITUDE_MAP,
    FAINT,
    LIGHT_MAP,
    LINES,
    OUTSIDE,
    PHASE_MAP,
    SIGNED_MAP,
    Region,
    bare,
    colour_bar,
    colour_map,
    draw_counts,
    inside,
    marker_size,
    new_figure,
    open_axes,
    phase_wheel,
    png,
    position_axes,
    scale_bar,
    show,
    shown_phase,
    styled,
)
from ptycho.whole_file import whole_file


@styled
def object_phase(image: NDArray[np.complexfloating], region: Region, pixel_m: Pixel | None = None) -> bytes:
    """The object's phase (y, x) in the scanned region, its ramp taken out. pixel_m: (height, width) or None."""
    figure, (axes,) = new_figure(1, 6.4, 5.6)
    phase, color_map, limits = shown_phase(remove_ramp(image, region).image, region)
    show(figure, axes, phase, region, pixel_m, color_map, limits, "Phase (rad)")
    axes.set_title("Object phase, linear ramp removed")
    return png(figure)


def thumbnail(image: NDArray[np.complexfloating], region: Region, width_px: int = 176) -> bytes:
    """The phase (y, x) of the scanned region as a square picture without axes, for tables of many runs."""
    phase, color_map, limits = shown_phase(remove_ramp(image, region).image, region)
    figure = Figure(figsize=(1, 1), facecolor=OUTSIDE)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(inside(phase, region), cmap=colour_map(color_map), norm=Normalize(*limits), interpolation="antialiased")
    axes.set_axis_off()
    return png(figure, dpi=width_px)


@styled
def object_amplitude(image: NDArray[np.complexfloating], region: Region, pixel_m: Pixel | None = None) -> bytes:
    """The object's amplitude (y, x) in the scanned region; 1 is vacuum."""
    figure, (axes,) = new_figure(1, 6.4, 5.6)
    amplitude = np.abs(image)
    show(figure, axes, amplitude, region, pixel_m, AMPLITUDE_MAP, colour_limits(amplitude[region]), "Amplitude")
    axes.set_title("Object amplitude")
    return png(figure)


@styled
def slice_phases(slices: NDArray[np.complexfloating], region: Region, pixel_m: Pixel | None = None) -> bytes:
    """Phases of the slices (slice, y, x) in the scanned region, their ramps taken out; of many, six evenly chosen."""
    chosen = np.unique(np.linspace(0, len(slices) - 1, 6).round().astype(int))
    figure, panels = new_figure(len(chosen), 3.9, 3.3)
    for number, axes in zip(chosen, panels, strict=True):
        phase, color_map, limits = shown_phase(remove_ramp(slices[number], region).image, region)
        show(figure, axes, phase, region, pixel_m, color_map, limits, "Phase (rad)")
        axes.set_title(f"Slice {number + 1} of {len(slices)}")
    return png(figure)


@styled
def probe_modes(probe: NDArray[np.complexfloating], pixel_m: Pixel | None = None) -> bytes:
    """The probe's modes (mode, y, x): hue is the phase, brightness the amplitude, each mode to its own maximum."""
    n_shown = min(len(probe), 6)
    power = (np.abs(probe) ** 2).sum((-2, -1))
    figure, panels = new_figure(n_shown, 4.2 if n_shown == 1 else 2.9, 3.9 if n_shown == 1 else 3.1)
    for number, (mode, axes) in enumerate(zip(probe, panels, strict=False), 1):
        axes.imshow(complex_colours(mode))
        scale_bar(axes, mode.shape, pixel_m)
        share = f"{power[number - 1] / power.sum():.1%} of the power"
        axes.set_title("Probe" if len(probe) == 1 else f"Mode {number}, {share}")
        bare(axes)
    phase_wheel(panels[-1])
    return png(figure)


@styled
def diffraction(
    mean_counts: NDArray[np.floating], mean_residual: NDArray[np.floating], mask: Region | None = None
) -> bytes:
    """Mean pattern (log) and mean residual √λ − √k, (y, x), zero frequency at N // 2. mask: True where good."""
    good = np.ones(mean_counts.shape, bool) if mask is None else mask
    counts, residual = np.where(good, mean_counts, np.nan), np.where(good, mean_residual, np.nan)
    figure, (left, right) = new_figure(2, 4.3, 3.7)
    draw_counts(figure, left, counts)
    left.set_title("Mean diffraction pattern")
    limit = max(float(np.nanquantile(np.abs(residual), 0.998)), 1e-12)
    shown = right.imshow(residual, cmap=colour_map(SIGNED_MAP), vmin=-limit, vmax=limit)
    colour_bar(figure, right, shown, "Model − measured (√counts)")
    right.set_title("Mean residual")
    for axes in (left, right):
        bare(axes)
    return png(figure)


@styled
def frame_residuals(
    positions_px: NDArray[np.float64], frame_r_factor: NDArray[np.floating], pixel_m: Pixel | None = None
) -> bytes:
    """Scan positions (position, 2) coloured by each frame's R-factor, the worst on top."""
    order = np.argsort(frame_r_factor)
    return _by_position(positions_px, frame_r_factor, order, pixel_m, "R-factor of the frame", "Residual of each frame")


@styled
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
    figure, (axes,) = new_figure(1, 6.0, 5.0)
    y, x, unit = in_unit(positions_px, pixel_m)
    low, high = colour_limits(values, 0.02)
    size = marker_size(len(positions_px))
    shown = axes.scatter(x[order], y[order], size, values[order], cmap="viridis", vmin=low, vmax=high, lw=0)
    figure.colorbar(shown, ax=axes, label=label, shrink=0.85, extend="both")
    position_axes(axes, unit)
    axes.set_title(title)
    return png(figure)


@styled
def position_shifts(
    recorded_px: NDArray[np.float64], offsets_px: NDArray[np.floating], pixel_m: Pixel | None = None
) -> bytes:
    """Corrections of the positions, (position, 2) = (y, x): arrows on the scan, and their parts frame by frame."""
    figure, (left, right) = new_figure(2, 5.2, 4.6)
    y, x, unit = in_unit(recorded_px, pixel_m)
    moved_y, moved_x, _ = in_unit(recorded_px + offsets_px, pixel_m)
    length = np.hypot(offsets_px[:, 0], offsets_px[:, 1])
    arrows = left.quiver(
        x, y, moved_x - x, moved_y - y, length, angles="xy", scale_units="xy", scale=1, cmap="viridis", width=0.003
    )
    figure.colorbar(arrows, ax=left, label="Correction (object pixels)", shrink=0.85)
    position_axes(left, unit)
    left.set_title(f"Corrections, mean {length.mean():.2f} px")
    for axis, name in enumerate("yx"):
        right.plot(offsets_px[:, axis], lw=0, marker=".", ms=3, label=name)
    right.set_xlabel("Frame")
    right.set_ylabel("Correction (object pixels)")
    right.set_title("By frame")
    right.legend()
    open_axes(right)
    return png(figure)


@styled
def coverage(light: NDArray[np.floating], region: Region, pixel_m: Pixel | None = None) -> bytes:
    """Light that each object pixel saw (y, x), of its maximum, with the outline of the scored region."""
    figure, (axes,) = new_figure(1, 6.0, 5.2)
    share = light / max(float(light.max()), 1e-30)
    shown = axes.imshow(share, cmap=colour_map(LIGHT_MAP), vmin=0, vmax=1)
    if region.any() and not region.all():
        axes.contour(region, levels=[0.5], colors="white", linewidths=1)
    colour_bar(figure, axes, shown, "Summed light (of its maximum)")
    scale_bar(axes, light.shape, pixel_m)
    bare(axes)
    axes.set_title("Coverage")
    return png(figure)


@styled
def history(losses: Mapping[str, Sequence[float]], r_factors: Mapping[str, Sequence[float]]) -> bytes:
    """Loss and R-factor by epoch, a line for each name ("training", "validation", "rpie" …); epochs count from 1."""
    panels = [
        (title, curves)
        for title, curves in (("Loss", losses), ("R-factor", r_factors))
        if any(len(values) for values in curves.values())
    ]
    if not panels:
        raise ValueError("there is no loss and no R-factor to draw; leave this figure out")
    figure, drawn = new_figure(len(panels), 4.6, 3.3)
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
        open_axes(axes)
    return png(figure)


@styled
def fourier_ring_correlation(curve: RingCorrelation) -> bytes:
    """FRC curve with its two thresholds and the resolution that each gives."""
    figure, (axes,) = new_figure(1, 6.4, 3.8)
    axes.plot(curve.frequency, curve.correlation, color=LINES[0], label="correlation")
    axes.plot(curve.frequency, curve.half_bit, color=LINES[1], lw=1.3, ls="--", label="half-bit threshold")
    axes.axhline(ONE_SEVENTH, color=FAINT, lw=1.2, ls=":", label="1/7")
    resolution = curve.resolution_px()
    if resolution is not None:
        axes.axvline(0.5 / resolution, color=LINES[1], lw=0.8)
        metres = curve.resolution_m()
        words = f"{resolution:.2f} px" if metres is None else f"{resolution:.2f} px = {length_words(metres)}"
        limit = " (sampling limit)" if resolution == 1 else ""
        axes.annotate(
            f"half period {words}{limit} ",
            (0.5 / resolution, 1.03),
            ha="right" if resolution < 2 else "left",
            va="bottom",
            color=LINES[1],
        )
    axes.set(xlim=(0, 0.5), ylim=(min(-0.05, float(curve.correlation.min())), 1.15))
    axes.set_xlabel("Spatial frequency (cycles per pixel; 0.5 is the sampling limit)")
    axes.set_ylabel("Correlation")
    figure.legend(loc="outside lower center", ncols=3)
    axes.set_title("Fourier ring correlation")
    open_axes(axes)
    return png(figure)


@styled
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
        ("phase", "rad", phase, phase + difference, difference, PHASE_MAP),
        ("amplitude", "", true_amplitude, amplitude, amplitude - true_amplitude, AMPLITUDE_MAP),
    )
    for axes, (word, unit, ideal, found, error, color_map) in zip(panels, rows, strict=True):
        limits = colour_limits(ideal[region], 0.001)
        bound = max(float(np.quantile(np.abs(error[region]), 0.99)), 1e-9)
        label = word.capitalize() + (f" ({unit})" if unit else "")
        show(figure, axes[0], ideal, region, pixel_m, color_map, limits, None)
        show(figure, axes[1], found, region, pixel_m, color_map, limits, label)
        show(figure, axes[2], error, region, pixel_m, SIGNED_MAP, (-bound, bound), f"Error{label[len(word) :]}")
        rms = float(np.sqrt(np.mean(error[region] ** 2)))
        titles = f"True {word}", f"Reconstructed {word}", f"Difference, RMS {rms:.3g} {unit}".rstrip()
        for panel, title in zip(axes, titles, strict=True):
            panel.set_title(title)
    return png(figure)


@styled
def draw_scan(scan: Scan, path: Path) -> None:
    """Draw what a scan holds, before any work: mean of up to 64 of its patterns, positions, probe; into a PNG file."""
    some = np.unique(np.linspace(0, scan.n_positions - 1, 64).astype(np.int64))
    mean = scan.frames.read(some).astype(np.float64).mean(axis=0)
    good = np.ones(mean.shape, bool) if scan.mask is None else scan.mask
    pixel_m = scan.geometry.object_pixel(scan.patch_size)
    figure, panels = new_figure(2 if scan.probe is None else 3, 4.2, 3.8)
    draw_counts(figure, panels[0], np.where(good, mean, np.nan))
    panels[0].set_title(f"Mean of {len(some)} patterns")
    bare(panels[0])
    y, x, unit = in_unit(scan.positions_px, pixel_m)
    panels[1].plot(x, y, color=OUTSIDE, lw=0.8, zorder=0)
    panels[1].scatter(x, y, marker_size(len(x)) / 3, np.arange(len(x)), cmap="viridis", lw=0)
    position_axes(panels[1], unit)
    panels[1].set_title(f"{scan.n_positions} positions, dark to light in time")
    if scan.probe is not None:
        panels[2].imshow(complex_colours(scan.probe[0]))
        scale_bar(panels[2], scan.probe[0].shape, pixel_m)
        phase_wheel(panels[2])
        panels[2].set_title(f"Probe, {len(scan.probe)} mode{'s' if len(scan.probe) > 1 else ''}")
        bare(panels[2])
    with whole_file(path) as partial:
        partial.write_bytes(png(figure))
