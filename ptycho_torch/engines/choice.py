"""The engine that a configuration names."""

from __future__ import annotations

from dataclasses import replace

from ptycho.config.refine import EngineName, RefineConfig
from ptycho_torch.engines.gradient import Gradient
from ptycho_torch.engines.lsqml import LsqMl
from ptycho_torch.engines.pie import Pie
from ptycho_torch.engines.projections import Projections
from ptycho_torch.engines.sweeping import SweepingEngine

_ENGINES: dict[str, type[SweepingEngine]] = {
    "rpie": Pie,
    "epie": Pie,
    "mpie": Pie,
    "lsqml": LsqMl,
    "dm": Projections,
    "raar": Projections,
    "gradient": Gradient,
}
# What was fastest and came closest to the truth at every dose and on every object tried (docs/performance.md). Its
# steps follow the dose and the number of frames.
_AUTO: EngineName = "mpie"


def choose_engine(config: RefineConfig) -> tuple[type[SweepingEngine], RefineConfig]:
    """The class of the engine that [refine] engine names, and the configuration with that engine's own name.

    Raises ValueError for a configuration without an engine.
    """
    if config.engine == "auto":
        config = replace(config, engine=_AUTO)
    if config.engine not in _ENGINES:
        raise ValueError(f"engine = {config.engine!r}: must be one of {', '.join([*_ENGINES, 'auto'])}")
    return _ENGINES[config.engine], config
