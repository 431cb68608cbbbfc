"""The probe guess of older programs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptycho import params


def set_probe_guess(X_train: Any, probe_guess: Any) -> None:
    """Put the probe (y, x) or (mode, y, x) into the legacy dictionary; what we compute with is the scan's own.

    X_train: once the patterns from which a probe could be guessed; must be None, because a probe is never guessed here
    """
    if X_train is not None or probe_guess is None:
        raise ValueError("set_probe_guess: a probe is never guessed from patterns; give it as the second argument.")
    params.set("probe", np.asarray(probe_guess))
