"""The engine that a configuration names."""

from __future__ import annotations

from ptycho_torch.engines.auto import Auto
from ptycho_torch.engines.gradient import Gradient
from ptycho_torch.engines.lsqml import LsqMl
from ptycho_torch.engines.pie import Pie
from ptycho_torch.engines.projections import Projections
from ptycho_torch.engines.sweeping import SweepingEngine

_ENGINES: dict[str, type[SweepingEngine] | type[Auto]] = {
    "rpie": Pie,
    "epie": Pie,
    "mpie": Pie,
    "lsqml": LsqMl,
    "dm": Projections,
    "raar": Projections,
    "gradient": Gradient,
    "auto": Auto,
}


def engine_class(name: str) -> type[SweepingEngine] | type[Auto]:
    """The class of an engine by the name that [refine] engine gives it. Raises ValueError for another."""
    if name not in _ENGINES:
        raise ValueError(f"engine = {name!r}: must be one of {', '.join(_ENGINES)}")
    return _ENGINES[name]
