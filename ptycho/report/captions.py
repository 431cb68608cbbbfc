"""Titles and captions of the standard figures: one sentence each that says how to read it."""

from __future__ import annotations

# Keys are the names of the functions in ptycho.report.figures.
CAPTIONS: dict[str, tuple[str, str]] = {
    "object_phase": (
        "Object phase",
        "Phase that the sample adds to the wave, in the well-lit region; a linear ramp and a constant, which no"
        " diffraction pattern can tell, are taken out for display.",
    ),
    "object_amplitude": (
        "Object amplitude",
        "Part of the wave's amplitude that the sample lets through: 1 is vacuum, darker absorbs more.",
    ),
    "slice_phases": (
        "Slices",
        "Phase that each slice of the thick object adds, the one that the light meets first at the left; slow phase,"
        " which hardly changes on the way between them, may be shared out among slices in any way.",
    ),
    "probe_modes": (
        "Probe",
        "The wave that lit the sample: hue is its phase, brightness its amplitude; modes add their intensities.",
    ),
    "diffraction": (
        "Diffraction and residual",
        "Left, the mean pattern on a logarithmic scale; right, the model less the measurement: noise without pattern is"
        " good, rings or spots are light that the model does not explain. Grey pixels are masked.",
    ),
    "frame_residuals": (
        "Residual of each frame",
        "Every dot is a scan position, coloured by how badly its frame is explained: a group of bright dots points at a"
        " wrong position, a drift or a beam dump.",
    ),
    "position_shifts": (
        "Corrected positions",
        "Every arrow leads from a recorded position to the corrected one; right, the corrections by frame: a slow curve"
        " is a drift, scatter is an encoder's or a stage's jitter.",
    ),
    "patch_confidence": (
        "Agreement of patches",
        "How far the first image's overlapping patches agree on their phase, 1 at most: dark dots are patches that"
        " their neighbours contradict, and that counted less in the first image.",
    ),
    "coverage": (
        "Coverage",
        "Light that every part of the object saw, summed over the scan; only the outlined region is scored and shown.",
    ),
    "history": (
        "Convergence",
        "Loss and R-factor by epoch: curves that still fall at the end ask for more epochs, curves that rise for"
        " smaller steps.",
    ),
    "fourier_ring_correlation": (
        "Resolution",
        "Agreement of two images, each made from half of the scan, at each spatial frequency: detail is trustworthy"
        " left of where the curve falls below the threshold; slow errors common to both halves do not show here.",
    ),
    "truth_comparison": (
        "Against the truth",
        "The simulated object, the aligned result and their difference, on the truth's own colour scale.",
    ),
}
