"""The engine that a configuration names."""

from __future__ import annotations

from dataclasses import replace

from ptycho.config.refine import EngineName, RefineConfig
from ptycho_torch.engines.gradient import Gradient
from ptycho_torch.engines.lsqml import LsqMl
from ptycho_torch.engines.pie import Pie
from ptycho_torch.engines.problem import Problem
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
# What came closest to the truth soonest (docs/performance.md). With hardly any light momentum within an epoch repeats
# noise: at a quarter of a photon per pixel rpie ends 3 % nearer the truth, at 2.5 photons 4 % farther.
_AUTO: EngineName = "mpie"
_AUTO_DARK: EngineName = "rpie"
_DARK_PHOTONS_PER_PX = 0.8
# Slices share a residual in ways that no fixed step fits: there step lengths pay (docs/performance.md).
_AUTO_THICK: EngineName = "lsqml"


def choose_engine(config: RefineConfig, problem: Problem) -> tuple[type[SweepingEngine], RefineConfig]:
    """The class of the engine that [refine] engine names, and the configuration with that engine's own name.

    "auto" goes by slices and photons per pixel. Raises ValueError for a configuration without an engine.
    """
    if config.engine == "auto":
        is_dark = problem.mean_photons / problem.patch_size**2 < _DARK_PHOTONS_PER_PX
        config = replace(config, engine=_AUTO_THICK if config.slices > 1 else _AUTO_DARK if is_dark else _AUTO)
    if config.engine not in _ENGINES:
        raise ValueError(f"engine = {config.engine!r}: must be one of {', '.join([*_ENGINES, 'auto'])}")
    return _ENGINES[config.engine], config
