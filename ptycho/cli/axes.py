"""What `ptycho check --axes` finds: whether a scan's positions run the way its frames say."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ptycho.cli.console import say
from ptycho.errors import PackageError

if TYPE_CHECKING:
    from ptycho.data.orientation import AxesVerdict
    from ptycho.data.scan import Scan
    from ptycho.jobs.resolved_job import ResolvedJob

# Named by a string, because it needs torch and checking a spec does not.
AXES_MODULE = "ptycho_torch.axes_check"


def compare_axes(scan: Scan) -> AxesVerdict:
    """The verdict on a scan. Raises PackageError without torch, DataError where nothing can be told."""
    try:
        module = import_module(AXES_MODULE)
    except (ImportError, RuntimeError) as error:
        raise PackageError(f'Comparing axes needs torch: {error} pip install "ptychopinn[torch]"') from error
    verdict: AxesVerdict = module.check_axes(scan)
    return verdict


def axes_facts(verdict: AxesVerdict, job: ResolvedJob) -> dict[str, object]:
    """The verdict for programs."""
    return {
        "r_factors": verdict.r_factors,
        "is_likely_wrong": verdict.is_likely_wrong,
        "position_axes": _better_axes(verdict, job),
    }


def _better_axes(verdict: AxesVerdict, job: ResolvedJob) -> str:
    from ptycho.data.orientation import composed

    return composed(job.data.read.position_axes or "yx", verdict.best)


def say_axes(verdict: AxesVerdict, job: ResolvedJob) -> None:
    """The verdict for people, with the key that helps."""
    say(f"Axes, on {verdict.n_frames} frames: {verdict.sentence}.")
    if verdict.is_likely_wrong:
        say(
            f'Warning: positions and frames disagree. Set data.position_axes = "{_better_axes(verdict, job)}", or turn'
            " the frames instead: data.frame_axes."
        )
