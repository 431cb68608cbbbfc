"""What `ptycho submit --dry-run` shows: the batch script, the command and each rank's share of the scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ptycho.cli.console import next_step, say, show_table

if TYPE_CHECKING:
    from ptycho.data.scan import Scan

# Of more ranks than this only the first and the last are shown: shares differ by one frame at most.
_SHOWN_RANKS = 16


def show_dry_run(spec: Path, overrides: Sequence[str]) -> None:
    """Resolve the job as `submit` would, and show what it would start. Raises what `submit` raises for a wrong spec."""
    from ptycho.jobs.batch_script import script_text
    from ptycho.jobs.container import inside_text, ranks_python
    from ptycho.jobs.resolve_inside import resolve_anywhere
    from ptycho.jobs.run_folder import RunFolder
    from ptycho.jobs.spec import load_spec

    job, scan = resolve_anywhere(load_spec(spec, overrides))
    folder = RunFolder(job.output_dir / f"{job.name}-DATE-TIME")
    if job.resources.executor == "slurm":
        say(script_text(folder, job, folder.path / "submitit" / "1", ranks_python(folder, job)))
    else:
        say(f"{job.resources.n_ranks} processes on this machine, without a batch script.\n")
    if job.container.is_entered:
        say(f"{ranks_python(folder, job)} above means Python inside the image, through this script:\n")
        say(inside_text(folder, job))
    _show_shares(scan, job.resources.n_ranks)
    given = "".join(f" --set {override}" for override in overrides)
    next_step(f"ptycho submit {spec}{given}")


def _show_shares(scan: Scan, n_ranks: int) -> None:
    from ptycho.data.sharding import shard_bounds

    bounds = [shard_bounds(scan.n_positions, rank, n_ranks) for rank in range(n_ranks)]
    rows = [(rank, stop - start, f"{(stop - start) * scan.patch_size**2 * 4 / 1e6:.1f} MB")
            for rank, (start, stop) in enumerate(bounds)]  # fmt: skip
    shown = rows if n_ranks <= _SHOWN_RANKS else [rows[0], rows[-1]]
    show_table(("rank", "frames", "their memory"), shown)
    say(f"{scan.n_positions} frames of {scan.patch_size} × {scan.patch_size} on {n_ranks} ranks.")
