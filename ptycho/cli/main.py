"""The command `ptycho`: its verbs, and the one place where errors become sentences and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from ptycho.cli import doctor, logs, results, runs, scans, series, specs, watching
from ptycho.cli.console import complain
from ptycho.errors import PtychoError, SpecError

app = typer.Typer(
    name="ptycho",
    help="Ptychography: one job spec in, one trustworthy reconstruction out.\n\n"
    "Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 3 not ready, 130 cancelled.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# In the order in which a newcomer needs them.
for family in (specs, scans, runs, watching, logs, series, results, doctor):
    family.add_to(app)


@app.callback()
def ptycho(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=lambda wanted: _show_version(wanted)),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; works after a verb too.")
    ] = False,
) -> None:
    """Options that come before the verb."""


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        typer.echo(f"ptycho {version('ptychopinn')}")
    except PackageNotFoundError:
        typer.echo("ptycho (not installed; running from a source tree)")
    raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit. A mistake of the user's costs one sentence, never a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        app([argument for argument in given if argument != "--debug"], prog_name="ptycho")
    except KeyboardInterrupt:
        sys.exit(130)
    except PtychoError as error:
        if debug:
            raise
        complain(_sentences(error))
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        complain(
            f"{type(error).__name__}: {error}\nThis is unexpected. Run the command again with --debug to see more."
        )
        sys.exit(1)


def _sentences(error: PtychoError) -> str:
    if isinstance(error, SpecError) and len(error.problems) > 1:
        return "\n".join([f"{len(error.problems)} problems in the spec:", *(f"  {line}" for line in error.problems)])
    return str(error)


if __name__ == "__main__":
    main()
