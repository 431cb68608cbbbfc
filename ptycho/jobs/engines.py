"""The engines that a job may name, and the stages that each of them needs."""

from __future__ import annotations

from typing import get_args, get_type_hints

from ptycho.config.refine import RefineConfig

NETWORK = "pinn"
NO_REFINEMENT = "none"
# model.architecture of the linear inverse, which has nothing to train.
LINEAR = "linear"


def iterative_engines() -> tuple[str, ...]:
    """The engines that refine an object and a probe, as RefineConfig lists them."""
    names: tuple[str, ...] = get_args(get_type_hints(RefineConfig)["engine"])
    return tuple(name for name in names if name != NO_REFINEMENT)


def job_engines() -> tuple[str, ...]:
    """What [job] engine may be."""
    return (NETWORK, *iterative_engines())


def stages_of(engine: str, refine_engine: str, *, trains: bool) -> tuple[str, ...]:
    """The stages of a job, in order. trains: whether its network is trained, and not only applied."""
    if engine != NETWORK:
        return ("refine", "evaluate")
    train = ("train",) if trains else ()
    refine = () if refine_engine == NO_REFINEMENT else ("refine",)
    return (*train, "reconstruct", *refine, "evaluate")
