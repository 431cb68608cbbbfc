"""The stages of a run, as the runner calls them: each takes a StageContext and leaves its work in the run folder.

They are imported when they are asked for: what one of them needs, a job without it does not load.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_ROOMS = {"train": "network", "reconstruct": "network", "refine": "refinement", "evaluate": "evaluation"}


def __getattr__(name: str) -> Any:
    """The function of a stage, by its name."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
