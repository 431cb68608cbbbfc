"""What `ptycho check` finds of a scan's axes: whether its positions run the way its frames say."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ptycho.cli.console import say, warn
from ptycho.errors import DataError

if TYPE_CHECKING:
    from ptycho.data.orientation import AxesVerdict
    from ptycho.data.scan import Scan
    from ptycho.jobs.resolved_job import JobData

# Named by a string, because it needs torch and checking a spec does not.
AXES_MODULE = "ptycho_torch.axes_check"


def compare_axes(scan: Scan) -> AxesVerdict | str:
    """The verdict on a scan, or the sentence that says why there is none."""
    if find_spec("torch") is None:
        return "not compared, which needs torch"
    try:
        verdict: AxesVerdict = import_module(AXES_MODULE).check_axes(scan)
    except DataError as error:
        return f"not compared: {error}"
    return verdict


def axes_facts(verdict: AxesVerdict | str | None, data: JobData) -> dict[str, object] | None:
    """The verdict for programs; None where nothing was compared."""
    if verdict is None or isinstance(verdict, str):
        return None
    return {
        "r_factors": verdict.r_factors,
        "is_likely_wrong": verdict.is_likely_wrong,
        "is_confirmed": verdict.is_confirmed,
        **dict(_remedies(verdict, data)),
    }


def say_axes(verdict: AxesVerdict | str, data: JobData) -> None:
    """The verdict for people, with the lines that help."""
    if isinstance(verdict, str):
        say(f"Axes: {verdict}.")
        return
    say(f"Axes, on {verdict.n_frames} frames: {verdict.sentence}.")
    if verdict.is_likely_wrong:
        positions, frames = (f'{key} = "{axes}"' for key, axes in _remedies(verdict, data))
        warn(
            "positions and frames disagree, and the image would be wrong. In [data] of the spec, write\n"
            f"  {positions}\nif the positions were recorded so, or\n  {frames}\nif the detector was read out so."
        )


def _remedies(verdict: AxesVerdict, data: JobData) -> tuple[tuple[str, str], tuple[str, str]]:
    """Key → value of the two statements that each put it right, on top of what the job states already."""
    from ptycho.data.orientation import composed, inverse

    positions = composed(data.read.position_axes or "yx", verdict.best)
    return ("position_axes", positions), (
        "frame_axes",
        composed(data.read.frame_axes or "yx", inverse(verdict.best)),
    )
