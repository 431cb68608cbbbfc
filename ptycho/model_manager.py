"""Saving the model that this process has trained or loaded last, as older programs ask for it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from ptycho import params
from ptycho.errors import ModelError

# Older programs save without naming a model: theirs is a global, so the last one has to be remembered.
_last: list[Any] = []


def remember(model: Any) -> None:
    """Take this as the model that `save` saves, and put its intensity scale into the legacy dictionary."""
    _last[:] = [model]
    params.set("intensity_scale", model.intensity_scale)


def save(output_path: str | Path) -> Path:
    """Write `wts.h5.zip` into a folder. Raises ModelError when this process has neither trained nor loaded a model."""
    if not _last:
        raise ModelError("There is no model to save: train one or load one first.")
    path: Path = import_module("ptycho_torch.pinn.bundle").save_bundle(_last[0], Path(output_path))
    return path
