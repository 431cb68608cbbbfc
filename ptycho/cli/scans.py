"""Verbs about scans: simulate, convert, inspect."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptycho.cli.arguments import AsJson, DataKeysSet, ScanPath
from ptycho.cli.console import next_step, say, show_json, show_table
from ptycho.cli.simulate_options import with_simulate_options
from ptycho.errors import PackageError, RequestError

if TYPE_CHECKING:
    from ptycho.data.formats.contents import Contents
    from ptycho.data.formats.start import Start
    from ptycho.data.scan import Scan

# Named by a string, because simulating needs torch and asking for help does not.
SIMULATE_MODULE = "ptycho_torch.simulate"
# Frames that `inspect` reads to tell what counts are like; a scan may have a million.
_SAMPLED_FRAMES = 64


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command."""
    app.command()(with_simulate_options(simulate))
    app.command()(convert)
    app.command()(inspect)


def simulate(output: Path, force: bool, options: dict[str, Any]) -> None:
    """Make a scan with known truth.

    An object, a probe, a scan path and photon noise, written in our HDF5 layout.
    """
    from ptycho.config.simulate import SimulateConfig
    from ptycho.data.formats.hdf5 import write_scan

    _refuse_existing(output, force)
    config = SimulateConfig(**options)
    try:
        module = import_module(SIMULATE_MODULE)
    except (ImportError, RuntimeError) as error:
        raise PackageError(
            f'Simulating needs torch: {error} Install it with: pip install "ptychopinn[torch]"'
        ) from error
    scan: Scan = module.simulate_scan(config)
    write_scan(scan, output)
    say(
        f"Wrote {output}: {scan.n_positions} frames of {scan.patch_size} × {scan.patch_size},"
        f" {config.object} object, {config.photons:g} photons per frame, with its truth."
    )
    next_step(f"ptycho init {output}, or ptycho inspect {output}")


def convert(
    source: ScanPath,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The file to write.", show_default=False)],
    layout: Annotated[
        str, typer.Option("--format", help="What to write: ptychopinn (our HDF5), cxi, npz, ptychodus.")
    ] = "ptychopinn",
    said: DataKeysSet = None,
    crop_px: Annotated[
        int | None, typer.Option(help="Keep only this many detector pixels around the centre.", show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the scan, instead of the file's.")] = None,
    note: Annotated[
        list[str] | None, typer.Option(metavar="KEY=TEXT", help="A fact to keep with the data, such as its licence.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUTPUT when it exists.")] = False,
) -> None:
    """Write a scan in our HDF5 layout, as CXI, as NPZ or as ptychodus keeps it.

    Whatever a job's [data] can say about a scan can be said here: --set mask=bad.npy --set energy_eV=8000
    """
    from ptycho.data.convert import WRITERS, convert_scan
    from ptycho.jobs.resolve import stated_data

    if layout not in WRITERS:
        raise RequestError(f"--format {layout}: must be one of {', '.join(WRITERS)}.")
    _refuse_existing(output, force)
    data = stated_data(source, [*(said or ()), *([] if crop_px is None else [f"crop_px={crop_px}"])])
    done = convert_scan(
        source,
        output,
        layout=layout,  # type: ignore[arg-type]  # looked up just now
        overrides=data.read,
        preparation=data.preparation,
        name=name,
        notes=dict(map(_note, note or ())),
    )
    scan = done.scan
    say(f"Wrote {output}: {scan.n_positions} frames of {scan.patch_size} × {scan.patch_size} from {source}.")
    for assumption in scan.assumptions:
        say(f"Assumed: {assumption}")
    next_step(f"ptycho inspect {output}, or ptycho init {output}")


def _note(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise RequestError(f"--note {text}: must be KEY=TEXT, for example --note licence=CC-BY-4.0")
    return key, value


def _refuse_existing(output: Path, force: bool) -> None:
    if output.exists() and not force:
        raise RequestError(f"{output} exists already. Choose another name, or replace it with --force.")
    if not output.absolute().parent.is_dir():
        raise RequestError(f"There is no folder {output.absolute().parent}. Make it first, or choose another name.")


def inspect(
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A scan of any known format, or a reconstruction.", show_default=False),
    ],
    said: DataKeysSet = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Also draw the scan into this PNG file: its path, its mean pattern, its probe.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a file holds.

    Also what its reader had to assume: read it before believing an image.
    """
    from ptycho.data.formats import files_of
    from ptycho.data.formats.contents import look_into
    from ptycho.data.formats.start import start_in
    from ptycho.data.trial import try_apart
    from ptycho.jobs.resolve import open_job_scan, stated_data

    data = stated_data(source, said or ())
    try_apart(files_of(source, data.read), lambda: start_in(source))
    if (start := start_in(source)) is not None:
        _show(_start_facts(source, start), as_json)
        if not as_json:
            next_step(f'in a job\'s [data]: start = "{source}"')
        return
    scan = open_job_scan(data)
    facts = {"format": _format_name(look_into(source), data.read.keys is not None), **_facts(scan)}
    if picture:
        import_module("ptycho.report.figures").draw_scan(scan, picture)
    _show(facts, as_json)
    if as_json:
        return
    if picture:
        say(f"Drew {picture}.")
    next_step(f"ptycho init {source}")


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(facts)
        return
    show_table(("what", "found"), [(key, _text(value)) for key, value in facts.items() if key != "assumptions"])
    for assumption in facts["assumptions"]:
        say(f"Assumed: {assumption}")


def _format_name(contents: Contents, by_keys: bool) -> str:
    from ptycho.data.formats import format_of
    from ptycho.data.formats.table import BY_KEYS

    row = BY_KEYS if by_keys else format_of(contents)
    return row.name if row else ""


def _start_facts(path: Path, start: Start) -> dict[str, Any]:
    return {
        "path": str(path),
        "format": "a reconstruction, without frames",
        "probe_modes": int(start.probe.shape[0]),
        "probe_size": int(start.probe.shape[-1]),
        "object_shape": None if start.object is None else list(start.object.shape),
        "n_positions": None if start.positions_px is None else len(start.positions_px),
        "energy_eV": start.geometry.energy_eV,
        "distance_m": start.geometry.distance_m,
        "object_pixel_m": start.geometry.object_pixel_m,
        "assumptions": list(start.notes),
    }


def _facts(scan: Scan) -> dict[str, Any]:
    import numpy as np

    n, size = scan.n_positions, scan.patch_size
    sample = np.unique(np.linspace(0, n - 1, min(n, _SAMPLED_FRAMES)).astype(np.int64))
    frames = np.asarray(scan.frames.read(sample), dtype=np.float64)
    low, high = scan.positions_px.min(axis=0), scan.positions_px.max(axis=0)
    geometry = scan.geometry
    return {
        "path": str(scan.path) if scan.path else None,
        "name": scan.name,
        "n_positions": n,
        "patch_size": size,
        "stored_type": str(scan.frames.dtype),
        "mean_counts_per_frame": float(frames.sum(axis=(1, 2)).mean()),
        "largest_count": float(frames.max()),
        "sampled_frames": len(sample),
        "positions_y_px": [float(low[0]), float(high[0])],
        "positions_x_px": [float(low[1]), float(high[1])],
        "object_shape": list(scan.grid.shape),
        "probe_modes": None if scan.probe is None else int(scan.probe.shape[0]),
        "good_pixels": 1.0 if scan.mask is None else float(scan.mask.mean()),
        "energy_eV": geometry.energy_eV,
        "distance_m": geometry.distance_m,
        "detector_pixel_m": geometry.detector_pixel_m,
        "object_pixel_m": geometry.object_pixel(size),
        "propagation": "near field" if geometry.is_near_field else "far field",
        "has_object_start": scan.object_start is not None,
        "has_truth": scan.truth is not None,
        "assumptions": list(scan.assumptions),
        "provenance": scan.provenance,
    }


def _text(value: object) -> object:
    if isinstance(value, list | tuple):
        return ", ".join(f"{part:.6g}" if isinstance(part, float) else str(part) for part in value)
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_brief(part)}" for key, part in value.items()) or None
    return value


def _brief(part: object) -> object:
    return f"{len(part)} values, see --json" if isinstance(part, dict | list) else part
