"""What a finished run shows: result.h5, figures, report.html, from findings that the evaluate stage has measured."""

from __future__ import annotations

import json
import platform
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho.data.formats.product import Product, write_product
from ptycho.data.image import ObjectImage
from ptycho.data.scan import Scan
from ptycho.evaluation.alignment import align
from ptycho.evaluation.frc import RingCorrelation
from ptycho.evaluation.metrics import Scores, score
from ptycho.jobs.events import read_lines
from ptycho.jobs.resolved_job import ResolvedJob
from ptycho.jobs.run_folder import RunFolder
from ptycho.whole_file import whole_file

if TYPE_CHECKING:
    from ptycho.report.html import KeyNumber, ReportFigure

PACKAGES = ("ptychopinn", "torch", "lightning", "numpy", "scipy", "h5py", "submitit", "mpi4py")


@dataclass(frozen=True, kw_only=True)
class TruthComparison:
    """An image brought onto the simulated truth, (y, x) both, and its errors in the truth's well-lit region."""

    aligned: NDArray[np.complex64]
    truth: NDArray[np.complex64]
    region: NDArray[np.bool_]
    scores: Scores


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the evaluate stage measured.

    image:          the run's final image, with the probe that explains the counts with it
    network:        the network's own image, before refinement
    region:         (y, x) bool, well lit: where images are shown and scored
    frame_r_factor: (position,); mean_counts, mean_residual: (y, x) of the detector, zero frequency at N // 2
    flat_r_factor:  R-factor of a constant object under the scan's own probe or the final one, whichever is better
    """

    image: ObjectImage
    network: ObjectImage | None
    region: NDArray[np.bool_]
    r_factor: float
    frame_r_factor: NDArray[np.float32]
    mean_counts: NDArray[np.float32]
    mean_residual: NDArray[np.float32]
    flat_r_factor: float
    network_r_factor: float | None
    ring_correlation: RingCorrelation | None
    truth: TruthComparison | None
    network_truth: TruthComparison | None


def publish(folder: RunFolder, job: ResolvedJob, scan: Scan, findings: Findings) -> dict[str, float | None]:
    """Write result.h5, thumbnail.png, figures/*.png and report.html; returns the numbers that a run is known by."""
    numbers = headline(findings)
    rows = read_lines(folder.metrics_path)
    write_product(_product(job, scan, findings, rows, numbers), folder.result_path)
    # Drawing loads matplotlib; the result is on disk before that is tried.
    from ptycho.report.figures import thumbnail
    from ptycho.report.html import ReportData, Setting, write_report

    with whole_file(folder.thumbnail_path) as partial:
        partial.write_bytes(thumbnail(findings.image.object, findings.region))
    figures = _figures(scan, findings, rows)
    for figure in figures:
        with whole_file(folder.figures / f"{figure.name}.png") as partial:
            partial.write_bytes(figure.png)
    truth, correlation = findings.truth, findings.ring_correlation
    flat = None if truth is None else _flat_phase_error(truth.truth, truth.region)
    data = ReportData(
        title=job.name,
        summary=_summary(job, scan),
        n_frames=scan.n_positions,
        r_factor=findings.r_factor,
        flat_r_factor=findings.flat_r_factor,
        resolution_px=None if correlation is None else correlation.resolution_px(),
        resolution_m=None if correlation is None else correlation.resolution_m(),
        phase_rmse_rad=None if truth is None else truth.scores.phase_rmse_rad,
        flat_phase_rmse_rad=flat,
        amplitude_psnr_db=None if truth is None else truth.scores.amplitude_psnr_db,
        warnings=tuple(_warnings(findings)),
        key_numbers=tuple(_further_numbers(findings)),
        figures=tuple(figures),
        stage_times_s=_stage_times(folder),
        configuration=tuple(
            Setting(key=f"{table}.{key}", value=str(value), source=job.sources.get(f"{table}.{key}", "default"))
            for table, keys in job.values().items()
            for key, value in keys.items()
        ),
        assumptions=scan.assumptions,
        versions=_versions(),
        provenance=provenance(job, scan),
    )
    write_report(data, folder.report_path)
    return numbers


def _product(
    job: ResolvedJob,
    scan: Scan,
    findings: Findings,
    rows: list[dict[str, object]],
    numbers: dict[str, float | None],
) -> Product:
    """The result in ptychodus' layout; what that has no place for goes into further datasets."""
    image = findings.image
    assert image.probe is not None
    told = provenance(job, scan) | {key: str(value) for key, value in numbers.items() if value is not None}
    network = {} if findings.network is None else findings.network.per_frame
    return Product(
        name=job.name,
        object=image.object if image.slices is None else image.slices,
        grid=image.grid,
        probe=image.probe,
        layer_spacing_m=None if image.slices is None else np.full(len(image.slices) - 1, image.slice_spacing_m or 0.0),
        positions_px=scan.positions_px,
        geometry=scan.geometry,
        losses=np.array(_column(rows, "refine", "r_factor")),
        photons_per_frame=float((np.abs(image.probe) ** 2).sum()),
        comments="reconstructed by ptychopinn",
        extras={
            **({} if image.slices is None else {"object_product": image.object}),
            "coverage": image.coverage,
            "frame_r_factor": findings.frame_r_factor,
            **{f"frame_{key}": values for key, values in image.per_frame.items()},
            **{name: found for name in ("background", "variations") if (found := getattr(image, name)) is not None},
            **{f"frame_network_{key}": values for key, values in network.items()},
            "provenance": np.array(json.dumps(told), dtype=h5py.string_dtype()),
        },
    )


def _flat_phase_error(truth: NDArray[np.complex64], region: NDArray[np.bool_]) -> float:
    """Phase error of a constant object, aligned as every image is."""
    return score(align(np.ones_like(truth), truth, region).image, truth, region).phase_rmse_rad


def headline(findings: Findings) -> dict[str, float | None]:
    """The numbers that a run is known by; None where one could not be measured."""
    correlation, truth, network_truth = findings.ring_correlation, findings.truth, findings.network_truth
    return {
        "r_factor": findings.r_factor,
        "flat_r_factor": findings.flat_r_factor,
        "network_r_factor": findings.network_r_factor,
        "resolution_px": None if correlation is None else correlation.resolution_px(),
        "phase_rmse_rad": None if truth is None else truth.scores.phase_rmse_rad,
        "amplitude_psnr_db": None if truth is None else truth.scores.amplitude_psnr_db,
        "network_phase_rmse_rad": None if network_truth is None else network_truth.scores.phase_rmse_rad,
    }


def provenance(job: ResolvedJob, scan: Scan) -> dict[str, str]:
    """Where the result came from, in words."""
    told = {str(key): str(value) for key, value in scan.provenance.items()}
    return {
        "scan": "simulated" if job.data.scan is None else str(job.data.scan),
        **{f"scan {key}": value for key, value in told.items()},
        "engine": job.engine,
        "seed": str(job.seed),
        "ranks": str(job.resources.n_ranks),
        "host": socket.gethostname(),
        **_image_of(job),
    }


def _image_of(job: ResolvedJob) -> dict[str, str]:
    """The container image, in words; nothing outside of one."""
    container = job.container
    known = {
        "image": str(container.image or ""),
        "image sha256": container.digest,
        "image version": container.version,
        "image commit": container.commit,
    }
    return {key: value for key, value in known.items() if value}


def _figures(scan: Scan, findings: Findings, rows: list[dict[str, object]]) -> list[ReportFigure]:
    from ptycho.report import figures as draw
    from ptycho.report.html import ReportFigure

    pixel_m = scan.geometry.object_pixel(scan.patch_size)
    image, region = findings.image, findings.region
    assert image.probe is not None
    made = [
        ReportFigure.standard("object_phase", draw.object_phase(image.object, region, pixel_m)),
        ReportFigure.standard("object_amplitude", draw.object_amplitude(image.object, region, pixel_m)),
        ReportFigure.standard("probe_modes", draw.probe_modes(image.probe, pixel_m)),
    ]
    if image.slices is not None:
        made.insert(2, ReportFigure.standard("slice_phases", draw.slice_phases(image.slices, region, pixel_m)))
    if findings.truth is not None:
        compared = draw.truth_comparison(findings.truth.aligned, findings.truth.truth, findings.truth.region, pixel_m)
        made.append(ReportFigure.standard("truth_comparison", compared))
    if findings.network is not None and findings.network.object is not image.object:
        made.append(
            ReportFigure(
                name="network_phase",
                title="The network alone",
                png=draw.object_phase(findings.network.object, region, pixel_m),
                caption="One pass of the trained network, phases synchronised and stitched, before refinement.",
            )
        )
    if findings.network is not None and "confidence" in findings.network.per_frame:
        confidence = findings.network.per_frame["confidence"]
        made.append(
            ReportFigure.standard("patch_confidence", draw.patch_confidence(scan.positions_px, confidence, pixel_m))
        )
    losses, r_factors = _curves(rows)
    if losses or r_factors:
        made.append(ReportFigure.standard("history", draw.history(losses, r_factors)))
    made += [
        ReportFigure.standard("diffraction", draw.diffraction(findings.mean_counts, findings.mean_residual, scan.mask)),
        ReportFigure.standard(
            "frame_residuals", draw.frame_residuals(scan.positions_px, findings.frame_r_factor, pixel_m)
        ),
        ReportFigure.standard("coverage", draw.coverage(image.coverage, region, pixel_m)),
    ]
    offsets = image.per_frame.get("position_offset_px")
    if offsets is not None:
        recorded = scan.positions_px - offsets
        made.append(ReportFigure.standard("position_shifts", draw.position_shifts(recorded, offsets, pixel_m)))
    if findings.ring_correlation is not None:
        curve = draw.fourier_ring_correlation(findings.ring_correlation)
        made.append(ReportFigure.standard("fourier_ring_correlation", curve))
    return made


def _curves(rows: list[dict[str, object]]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Losses of the training and R-factors of the refinement by epoch, without the values that were not finite."""

    losses = {"training": _column(rows, "train", "loss"), "validation": _column(rows, "train", "val_loss")}
    r_factors = {"refinement": _column(rows, "refine", "r_factor")}
    return {k: v for k, v in losses.items() if v}, {k: v for k, v in r_factors.items() if v}


def _column(rows: list[dict[str, object]], stage: str, key: str) -> list[float]:
    """A number of every epoch of a stage; epochs that did not report it (or NaN) are left out."""
    values = (row.get(key) for row in rows if row["stage"] == stage)
    return [float(value) for value in values if isinstance(value, int | float)]


def _summary(job: ResolvedJob, scan: Scan) -> str:
    frames = f"{scan.n_positions:,} frames of {scan.patch_size} × {scan.patch_size} pixels"
    if not job.uses_network:
        return f"{frames}, reconstructed by the iterative engine {job.engine}."
    how = _first_image(job)
    after = "" if job.refine.engine == "none" else f", then {job.refine.engine} refined object and probe"
    return f"{frames}: {how}, its patches were stitched{after}."


def _first_image(job: ResolvedJob) -> str:
    if job.uses_linear_inverse:
        return "the forward model was inverted for each, to first order and without a network"
    if job.synthetic is not None:
        return "a network was trained on random scenes and applied"
    if job.bundle is not None:
        return "a trained network was applied" if not job.fine_tune else "a trained network was trained on with them"
    return "a physics-informed network was trained on them, no labels"


def _warnings(findings: Findings) -> Iterator[str]:
    worst = float(findings.frame_r_factor.max())
    typical = float(np.median(findings.frame_r_factor))
    n_bad = int((findings.frame_r_factor > 3 * typical).sum())
    if n_bad:
        yield (
            f"{n_bad} frames have a residual more than three times the median (worst {worst:.2f}, median"
            f" {typical:.2f}): look at their positions and at the frames themselves."
        )
    network_r = findings.network_r_factor
    if network_r is not None and network_r >= findings.flat_r_factor:
        yield (
            f"The network's own image explains the counts no better than a constant object (R-factor {network_r:.3f}"
            f" against {findings.flat_r_factor:.3f}); what you see comes from the refinement."
        )


def _further_numbers(findings: Findings) -> Iterator[KeyNumber]:
    from ptycho.report.html import KeyNumber

    if findings.network_r_factor is not None:
        yield KeyNumber(
            label="R-factor of the network alone",
            value=f"{findings.network_r_factor:.4f}",
            note="before refinement, with the probe that it was trained with",
        )
    if findings.truth is not None:
        yield KeyNumber(
            label="Amplitude PSNR on the contrast",
            value=f"{findings.truth.scores.contrast_psnr_db:.1f} dB",
            note=f"peak: the range of the truth, {findings.truth.scores.amplitude_range:.2f}",
        )
    if findings.network_truth is not None:
        yield KeyNumber(
            label="Phase error of the network alone",
            value=f"{findings.network_truth.scores.phase_rmse_rad:.4f} rad",
            note="after alignment to the truth",
        )


def _stage_times(folder: RunFolder) -> dict[str, float]:
    stages = folder.read_state()["stages"]
    return {name: float(stage["seconds"]) for name, stage in stages.items() if "seconds" in stage}


def _versions() -> dict[str, str]:
    found = {"Python": sys.version.split()[0], "System": platform.platform(terse=True)}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
