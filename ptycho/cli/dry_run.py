"""What `ptycho submit --dry-run` shows: batch script, each rank's share of the scan, and what it will need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ptycho.cli.console import counted, duration, next_step, say, show_table

if TYPE_CHECKING:
    from ptycho.data.scan import Scan
    from ptycho.jobs.resolved_job import ResolvedJob
    from ptycho.jobs.spec import JobSpec

# Of more ranks than this only the first and the last are shown: shares differ by one frame at most.
_SHOWN_RANKS = 16
_MB_PER_GB = 1000


def show_dry_run(spec: Path, overrides: Sequence[str]) -> None:
    """Resolve the job as `submit` would, and show what it would start. Raises what `submit` raises for a wrong spec."""
    from ptycho.jobs.spec import load_spec

    loaded = load_spec(spec, overrides)
    if loaded.is_series:
        _show_series(loaded)
    else:
        _show_run(loaded)
    given = "".join(f" --set {override}" for override in overrides)
    next_step(f"ptycho submit {spec}{given}")


def _show_run(spec: JobSpec) -> None:
    from ptycho.jobs.batch_script import Submission
    from ptycho.jobs.container import ranks_python
    from ptycho.jobs.resolve_inside import resolve_anywhere
    from ptycho.jobs.run_folder import RunFolder

    job, scan = resolve_anywhere(spec)
    folder = RunFolder(job.output_dir / f"{job.name}-DATE-TIME")
    if job.resources.executor == "slurm":
        place = folder.path / "submitit" / "1"
        say(Submission(runs=[folder], job=job, folder=place, python=ranks_python(folder.path, job)).text())
    else:
        say(f"{counted(job.resources.n_ranks, 'process')} on this machine, without a batch script.\n")
    _show_inside(folder.path, [job])
    _show_needs(job, scan)


def _show_inside(place: Path, jobs: Sequence[ResolvedJob]) -> None:
    from ptycho.jobs.container import inside_path, inside_text

    if jobs[0].container.is_entered:
        say(f"{inside_path(place)}, through which Python runs inside the image:\n")
        say(inside_text(place, jobs))


def _show_series(spec: JobSpec) -> None:
    from ptycho.cli.series import warn_of
    from ptycho.jobs.batch_script import Submission
    from ptycho.jobs.container import ranks_python
    from ptycho.jobs.new_series import resolve_series
    from ptycho.jobs.resolve import open_job_scan
    from ptycho.jobs.series import SeriesFolder

    resolved = resolve_series(spec)
    job, training = resolved.first_job, resolved.training
    folder = SeriesFolder(job.output_dir / f"{resolved.name}-DATE-TIME")
    at_once = job.resources.max_parallel_scans
    if job.resources.executor == "slurm":
        if training is not None:
            place = folder.training.path / "submitit" / "1"
            say("First, the training:\n")
            python = ranks_python(folder.training.path, training)
            say(Submission(runs=[folder.training], job=training, folder=place, python=python).text())
            say("Then, when it has succeeded, the scans:\n")
        runs = [folder.run(name) for name in resolved.jobs]
        array = Submission(
            runs=runs, job=job, folder=folder.submitit(1) / "scans", python=ranks_python(folder.path, job),
            name=resolved.name, at_once=at_once, dependency="afterok:TRAINING" if training else None,
        )  # fmt: skip
        say(array.text())
        _show_inside(folder.path, [*resolved.jobs.values()])
    else:
        say(
            f"{counted(len(resolved.jobs), 'run')} of {counted(job.resources.n_ranks, 'process')} on this machine,"
            f" {at_once or 1} at once.\n"
        )
    if training is not None:
        say(f"Training, on {training.data.scan}:")
        _show_needs(training, open_job_scan(training.data))
        say()
    largest = max(resolved.jobs.values(), key=lambda one: open_job_scan(one.data).n_positions)
    say(f"The scan with most frames, of {len(resolved.jobs)}: {largest.name}")
    _show_needs(largest, open_job_scan(largest.data))
    warn_of(resolved.broken, len(resolved.scans))


def _show_needs(job: ResolvedJob, scan: Scan) -> None:
    """Shares, memory and time."""
    from ptycho.jobs.estimates import memory_of, shares, time_of

    found = shares(job, scan)
    rows = [(one.rank, one.frames, one.halo, f"{memory_of(job, scan, one).total_mb:.0f} MB") for one in found]
    show_table(("rank", "frames", "halo", "memory"), rows if len(rows) <= _SHOWN_RANKS else [rows[0], rows[-1]])
    ranks = counted(job.resources.n_ranks, "rank")
    say(f"{scan.n_positions} frames of {scan.patch_size} × {scan.patch_size} on {ranks}.")
    most = max((memory_of(job, scan, one) for one in found), key=lambda needed: needed.total_mb)
    parts = {"program": most.program_mb, "frames": most.frames_mb, "canvas": most.canvas_mb}
    parts |= {"network": most.network_mb, "one step": most.step_mb}
    shown = ", ".join(f"{part} {needed_mb:.0f}" for part, needed_mb in parts.items())
    say(f"Memory: estimated {most.total_mb:.0f} MB for a rank: {shown}.")
    architecture = job.training.model.architecture
    if job.uses_network and architecture != "cnn":
        say(f'Network and step are those of architecture "cnn"; "{architecture}" was not measured and may need more.')
    node_mb = most.total_mb * job.resources.ranks_per_node
    asked = job.resources.memory_gb
    if asked is not None and node_mb > asked * _MB_PER_GB:
        say(
            f"That is {node_mb / _MB_PER_GB:.1f} GB for a node, and resources.memory_gb asks for {asked:g}. Ask for"
            " more, or use more nodes."
        )
    time = time_of(job, scan)
    if time is None:
        say(f"Time: unknown; {job.output_dir} holds no finished run of this kind and frame size to scale from.")
        return
    stages = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in time.seconds.items())
    say(f"Time: estimated {duration(time.total_s)} ({stages}), scaled from {time.run}.")
    limit = job.resources.time_limit_min
    if limit is not None and time.total_s > limit * 60:
        say("That is longer than resources.time_limit_min; the job goes on in further allocations.")
