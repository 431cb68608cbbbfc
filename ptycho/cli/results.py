"""Verbs about results: evaluate, report."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ptycho.cli.arguments import AsJson, RunPath
from ptycho.cli.console import next_step, say, show_json, show_table
from ptycho.errors import NotReadyError, RequestError

if TYPE_CHECKING:
    from ptycho.jobs.run_folder import RunFolder


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command."""
    app.command()(evaluate)
    app.command()(report)


def _ready_folder(path: Path | None) -> RunFolder:
    """The folder of a run whose image exists."""
    from ptycho.jobs.resolved_job import ResolvedJob
    from ptycho.jobs.run_folder import RunFolder

    folder = RunFolder.open(path) if path else RunFolder.newest(Path("runs"))
    job, stages = ResolvedJob.read(folder.resolved_path), folder.read_state()["stages"]
    if "evaluate" not in job.stages:
        raise RequestError(f"{folder.path} trained a network for other runs and made no image.")
    missing = [name for name in job.stages if name != "evaluate" and stages.get(name, {}).get("status") != "done"]
    if missing:
        raise NotReadyError(
            f"{folder.path} has not done {', '.join(missing)} yet. Go on with: ptycho resume {folder.path}"
        )
    return folder


def _evaluate_again(path: Path | None, *, quiet: bool = False) -> RunFolder:
    """Repeat a run's last stage, in this process."""
    from ptycho.cli.live import following
    from ptycho.jobs import lock
    from ptycho.jobs.launcher import start_here

    folder = _ready_folder(path)
    lock.acquire(folder)
    try:
        state = folder.read_state()
        state["stages"].pop("evaluate", None)
        folder.write_state(state)
    finally:
        lock.release(folder)
    with nullcontext() if quiet else following(folder):
        start_here(folder)
    return folder


def evaluate(path: RunPath = None, as_json: AsJson = False) -> None:
    """Measure a run's image again.

    Residual and resolution, and the error where the scan has its truth.
    """
    folder = _evaluate_again(path, quiet=as_json)
    numbers = folder.read_state().get("result", {})
    if as_json:
        show_json(numbers)
        return
    show_table(("measure", "value"), list(numbers.items()))
    next_step(f"open {folder.report_path}")


def report(path: RunPath = None) -> None:
    """Write the report of a run again."""
    folder = _evaluate_again(path)
    say(f"Wrote {folder.report_path} and the figures in {folder.figures}.")
    next_step(f"open {folder.report_path}")
