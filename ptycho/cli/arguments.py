"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SpecPath = Annotated[Path, typer.Argument(metavar="SPEC", help="The job spec, a TOML file.", show_default=False)]
ScanPath = Annotated[Path, typer.Argument(metavar="SCAN", help="A scan file of any known format.", show_default=False)]
RunPath = Annotated[
    Path | None,
    typer.Argument(metavar="RUN", help="The run folder; the newest in ./runs when left out.", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="TABLE.KEY=VALUE",
        help="Set a value of the spec, as TOML or plain text; may be given often.",
        show_default=False,
    ),
]
DataKeysSet = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Say something about the file, as a key of [data] in a job: energy_eV=8000; may be given often.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON with stable keys, for programs.")]
