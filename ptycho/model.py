"""Where releases 1.1 and 1.2 of ptychodus look for the legacy dictionary."""

from __future__ import annotations

from typing import Any

from ptycho import params as legacy


def params() -> dict[str, Any]:
    """The legacy dictionary."""
    return legacy.cfg
