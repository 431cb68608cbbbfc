"""The legacy dictionary of older programs. We write to it and never read it ourselves."""

from __future__ import annotations

import warnings
from typing import Any

cfg: dict[str, Any] = {}

_sealed = False


def get(key: str) -> Any:
    """The value under a legacy key. Raises KeyError when nothing has set it."""
    return cfg[key]


def set(key: str, value: Any) -> None:  # noqa: A001  (the name is the interface of older programs)
    """Set a legacy key; warns after `seal`, because nothing that is running will notice the change."""
    if _sealed:
        warnings.warn(
            f"params.set({key!r}, {value!r}): the legacy dictionary is sealed; work in progress keeps the old value."
            " Call params.unseal() first when the change is meant for a later run.",
            UserWarning,
            stacklevel=2,
        )
    cfg[key] = value


def seal() -> None:
    """Make `set` warn from now on."""
    global _sealed
    _sealed = True


def unseal() -> None:
    """Let `set` work silently again."""
    global _sealed
    _sealed = False
