"""The verb doctor: whether this machine can do the work, before a queue finds out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ptycho.cli.arguments import AsJson
from ptycho.cli.console import next_step, say, show_json, show_table


def add_to(app: typer.Typer) -> None:
    """Add this verb to the command."""
    app.command()(doctor)


def doctor(
    folder: Annotated[Path, typer.Option(help="Where run folders will be made.")] = Path("runs"),
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Exit with 1 when anything is missing, not only what is needed; inside an image, anything of its own.",
        ),
    ] = False,
    image: Annotated[
        Path | None, typer.Option(help="An image to compare this environment with.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Examine what this machine has.

    Python, packages, torch, GPUs, MPI, HDF5, Slurm, Apptainer, image and disk. Exits with 1 when no job can work here.
    """
    from ptycho.cli.machine import examine
    from ptycho.jobs.container_image import this_image

    findings = examine(folder, image)
    if as_json:
        show_json([asdict(finding) for finding in findings])
    else:
        show_table(("what", "state", "found"), [(f.name, f.state, f.detail) for f in findings])
    is_inside = this_image() is not None
    wrong = [finding for finding in findings if finding.counts(strict=strict, inside_image=is_inside)]
    if not as_json:
        for finding in findings:
            if finding.advice:
                say(f"{finding.name}: {finding.advice}")
        next_step(
            "repair what is wrong, then ptycho doctor" if wrong else "ptycho simulate scan.h5, or ptycho init SCAN"
        )
    if wrong:
        raise typer.Exit(1)
