"""A new run: from a spec to a run folder in which everything is decided and nothing has begun."""

from __future__ import annotations

from collections.abc import Sequence

from ptycho.data.scan import Scan
from ptycho.jobs.launcher import check_programs
from ptycho.jobs.resolve_inside import resolve_anywhere
from ptycho.jobs.resolved_job import ResolvedJob
from ptycho.jobs.run_folder import RunFolder
from ptycho.jobs.spec import JobSpec


def new_run(
    spec: JobSpec, overrides: Sequence[str] = (), *, launched_ranks: int | None = None
) -> tuple[RunFolder, ResolvedJob, Scan]:
    """Resolve the spec and freeze it in a new run folder. Raises RequestError in its various kinds.

    overrides: what the user gave beside the spec, noted in the folder's copy of it
    """
    job, scan = resolve_anywhere(spec, launched_ranks=launched_ranks)
    check_programs(job)
    folder = RunFolder.create(
        job.output_dir, job.name, {"spec.toml": spec_copy(spec, overrides), "resolved.json": job.to_json()}
    )
    return folder, job, scan


def spec_copy(spec: JobSpec, overrides: Sequence[str]) -> str:
    """The spec as it was written, with a note where it came from and what was set beside it."""
    notes = [f"# A copy of {spec.path}. The values that were used: resolved.json" if spec.path else "# Made by ptycho."]
    notes += [f"# --set {override}" for override in overrides]
    return "\n".join(notes) + "\n" + spec.text
