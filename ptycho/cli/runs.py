"""Verbs that do the work: run, submit, resume, reconstruct."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptycho.cli.arguments import Overrides, RunPath, SpecPath
from ptycho.cli.console import complain, duration, next_step, say
from ptycho.errors import CancelledError, PtychoError, RequestError, WorkError

if TYPE_CHECKING:
    from ptycho.jobs.resolved_job import ResolvedJob
    from ptycho.jobs.run_folder import RunFolder
    from ptycho.jobs.spec import JobSpec
    from ptycho.parallel import Ranks

# Ranks notice the failure of another within a second and give themselves three more.
_OTHERS_END_WITHIN_S = 8.0


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command."""
    app.command()(run)
    app.command()(submit)
    app.command()(resume)
    app.command()(reconstruct)


def run(spec: SpecPath, overrides: Overrides = None) -> None:
    """Run a job and follow it to its end.

    Ctrl-C stops it with its state saved. Started by mpirun or srun, the processes that these made are the ranks.
    """
    from ptycho.jobs.spec import load_spec

    def load() -> JobSpec:
        return load_spec(spec, overrides or ())

    # Started by mpirun, rank 0 alone reads the spec, so that what is wrong with it is said once.
    if not _is_launched() and (loaded := load()).is_series:
        from ptycho.cli.series import run_series

        run_series(loaded, overrides or ())
        return
    _run(load, overrides or [])


def reconstruct(
    scan: Annotated[Path, typer.Argument(metavar="SCAN", help="The scan to reconstruct.", show_default=False)],
    model: Annotated[
        Path | None,
        typer.Option(
            help="A trained model: wts.h5.zip, its folder, or the run that trained it. Left out: the linear inverse of"
            " the forward model, which needs no training.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Reconstruct a scan without training: by a trained model or by the linear inverse, then refined.

    A run without training; --set refine.engine=none keeps the network's image as it is.
    """
    from ptycho.jobs.engines import LINEAR
    from ptycho.jobs.spec import parse_spec

    first = f'architecture = "{LINEAR}"' if model is None else f"bundle = {_quoted(model)}"
    text = f"[data]\nscan = {_quoted(scan)}\n\n[model]\n{first}\n"
    _run(lambda: parse_spec(text, overrides=overrides or ()), overrides or [])


def _quoted(path: Path) -> str:
    # A TOML literal string takes everything as it is, except its own quote.
    text = str(path.absolute())
    if "'" in text:
        raise RequestError(f"{text}: a path with a single quote cannot be written into a spec. Rename it.")
    return f"'{text}'"


def submit(
    spec: SpecPath,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the batch script and each rank's share; start and write nothing.")
    ] = False,
) -> None:
    """Start a job and return at once.

    As processes of their own on this machine, or through Slurm, as resources.executor says.
    """
    if dry_run:
        from ptycho.cli.dry_run import show_dry_run

        show_dry_run(spec, overrides or ())
        return
    from ptycho.jobs.launcher import start
    from ptycho.jobs.new_run import new_run
    from ptycho.jobs.spec import load_spec

    loaded = load_spec(spec, overrides or ())
    if loaded.resources.executor == "here":
        raise RequestError('submit needs resources.executor = "local" or "slurm"; "here" means: ptycho run.')
    if loaded.is_series:
        from ptycho.cli.series import submit_series

        submit_series(loaded, overrides or ())
        return
    folder, job, _ = new_run(loaded, overrides or ())
    submitted = start(folder, job)
    kind = "Slurm job" if job.resources.executor == "slurm" else "process"
    say(f"Started {folder.path} as {kind} {submitted.job_id} with {job.resources.n_ranks} ranks.")
    next_step(f"ptycho status {folder.path}, ptycho logs --follow {folder.path}")


def resume(path: RunPath = None) -> None:
    """Go on with an interrupted run.

    It failed, was stopped or was killed; it goes on at the stage and epoch whose state was saved last. Of a series of
    scans, whatever is not finished is started again.
    """
    from ptycho.jobs import lock
    from ptycho.jobs.launcher import settle
    from ptycho.jobs.resolved_job import ResolvedJob
    from ptycho.jobs.series import SeriesFolder, find_folder

    folder = find_folder(path)
    if isinstance(folder, SeriesFolder):
        from ptycho.cli.series import resume_series

        resume_series(folder)
        return
    job = ResolvedJob.read(folder.resolved_path)
    ranks = _launched_ranks()
    if ranks is None and lock.owner(folder) is None:
        settle(folder)
    if folder.read_state()["status"] == "finished":
        if ranks is None or ranks.rank == 0:
            say(f"{folder.path} is finished already.")
            next_step(f"ptycho status {folder.path}")
        return
    _follow(folder, job, ranks)


def _run(load: Callable[[], JobSpec], overrides: list[str]) -> None:
    """Make the run folder and do the run; under mpirun, rank 0 makes it and the others hear of it."""
    ranks = _launched_ranks()
    made: tuple[str, RunFolder | str, int] | None = None
    if ranks is None or ranks.rank == 0:
        try:
            made = _new_folder(load, overrides, ranks)
        except Exception as error:
            if ranks is not None:
                # The other ranks wait for rank 0's word, whatever went wrong here.
                ranks.broadcast(("refused", str(error), error.exit_code if isinstance(error, PtychoError) else 1))
            raise
    if ranks is not None:
        made = ranks.broadcast(made)
    assert made is not None
    kind, folder, code = made
    if kind == "refused" or isinstance(folder, str):
        raise typer.Exit(code)
    from ptycho.jobs.resolved_job import ResolvedJob

    _follow(folder, ResolvedJob.read(folder.resolved_path), ranks)


def _new_folder(load: Callable[[], JobSpec], overrides: list[str], ranks: Ranks | None) -> tuple[str, RunFolder, int]:
    from ptycho.jobs.new_run import new_run
    from ptycho.jobs.new_series import refuse_under_mpi

    spec = load()
    if spec.is_series:
        refuse_under_mpi(ranks.size if ranks else 1)
    folder, job, scan = new_run(spec, overrides, launched_ranks=ranks.size if ranks else None)
    n = job.resources.n_ranks
    say(f"{job.name}: {scan.n_positions} frames of {scan.patch_size} × {scan.patch_size}, engine {job.engine},"
        f" {n} rank{'s' if n > 1 else ''} ({job.resources.executor}), in {folder.path}")  # fmt: skip
    for assumption in scan.assumptions:
        say(f"Assumed: {assumption}")
    return "made", folder, 0


def _is_launched() -> bool:
    """Whether mpirun or srun started several processes, of which this is one."""
    from ptycho.parallel import launcher_sizes

    return max(launcher_sizes(os.environ).values(), default=1) > 1


def _launched_ranks() -> Ranks | None:
    """The ranks that mpirun or srun started, or None when this process is alone."""
    if not _is_launched():
        return None
    from ptycho.jobs.rank_environment import launcher_ranks_per_node, thread_variables
    from ptycho.parallel import find_ranks

    # Before torch is loaded, because it reads them once.
    os.environ.update(thread_variables(launcher_ranks_per_node(os.environ) or 1, os.environ))
    return find_ranks()


def _follow(folder: RunFolder, job: ResolvedJob, ranks: Ranks | None) -> None:
    """Do a run to its end, showing how it goes; raise when it does not end well."""
    from ptycho.cli.live import Follower, following
    from ptycho.jobs.launcher import ClusterWait, start, start_here, wait

    if ranks is not None:
        with _ended_for_all(ranks), following(folder, plain=True) if ranks.rank == 0 else nullcontext():
            start_here(folder, ranks)
        if ranks.rank == 0:
            _tell_result(folder)
        return
    if job.resources.executor == "here":
        with following(folder):
            start_here(folder)
        _tell_result(folder)
        return
    submitted = start(folder, job)
    on_cluster = job.resources.executor == "slurm"
    if on_cluster:
        say(f"Submitted Slurm job {submitted.job_id}. Ctrl-C stops it; to leave it alone, use: ptycho submit")
    follower = Follower(folder)
    try:
        status = wait(folder, ClusterWait(folder) if on_cluster else submitted, follower.look)
    finally:
        follower.close()
    _raise_unless_finished(folder, status)
    _tell_result(folder)


@contextmanager
def _ended_for_all(ranks: Ranks) -> Iterator[None]:
    """While inside, the failure of this rank ends the others too.

    Left alone, MPI would wait at this process's exit for ranks that wait for it. They look at the run folder and end
    by themselves; where that is out of reach, this process's hard end makes the launcher end them.
    """
    try:
        yield
    except CancelledError:
        raise
    except Exception as error:  # noqa: BLE001  # the process ends here, whatever went wrong
        complain(f"Rank {ranks.rank}: {error}")
        sys.stderr.flush()
        time.sleep(_OTHERS_END_WITHIN_S)
        os._exit(error.exit_code if isinstance(error, PtychoError) else 1)


def _raise_unless_finished(folder: RunFolder, status: str) -> None:
    error: dict[str, Any] = folder.read_state().get("error") or {}
    sentence = error.get("message") or f"The run ended with status {status}."
    if status == "cancelled":
        raise CancelledError(sentence)
    if status != "finished":
        raise WorkError(f"{sentence}\nMore: ptycho logs {folder.path}. After a repair: ptycho resume {folder.path}")


def _tell_result(folder: RunFolder) -> None:
    from ptycho.jobs.events import format_number

    state = folder.read_state()
    seconds = sum(entry.get("seconds", 0) for entry in state["stages"].values())
    reached = ", ".join(f"{key} {format_number(value)}" for key, value in state.get("result", {}).items())
    say(f"Finished in {duration(seconds)}" + (f": {reached}." if reached else "."))
    for what, path in (("Image", folder.result_path), ("Report", folder.report_path)):
        if path.exists():
            say(f"{what}: {path}")
    next_step(f"open {folder.report_path}" if folder.report_path.exists() else f"ptycho status {folder.path}")
