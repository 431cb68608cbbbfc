"""A job with every value filled in: what the ranks work from, and what repeats a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ptycho.config.config import PyTorchExecutionConfig, TrainingConfig
from ptycho.config.refine import RefineConfig
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.errors import RequestError
from ptycho.jobs.engines import NETWORK, stages_of
from ptycho.jobs.tables import ContainerTable


@dataclass(frozen=True, kw_only=True)
class JobData:
    """The scan of a job, all paths absolute; see the [data] table for the keys."""

    scan: Path
    crop_px: int | None = None
    mask: Path | None = None
    validation_fraction: float = 0.0
    read: ReadOverrides = field(default_factory=ReadOverrides)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Where the job runs, every number known; see the [resources] table for the keys."""

    executor: str
    site: str | None = None
    nodes: int
    ranks_per_node: int
    gpus_per_node: int
    cpus_per_rank: int | None = None
    memory_gb: float | None = None
    time_limit_min: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    exclusive: bool = False
    mail_user: str | None = None
    mail_type: list[str] | None = None
    max_requeues: int = 20
    max_parallel_scans: int | None = None
    warning_s: int = 120
    setup: list[str] | None = None
    extra_sbatch: list[str] | None = None

    @property
    def n_ranks(self) -> int:
        return self.nodes * self.ranks_per_node


@dataclass(frozen=True, kw_only=True)
class ResolvedJob:
    """Everything that a run needs to know, read-only.

    bundle:  the model archive to apply instead of training one
    train_only: stop when the network is trained; others apply it
    sources: dotted path → where its value came from: "spec", "override", "site" (the site profile), "data" (the scan
             file), "bundle" (the model archive), "execution" (this machine or the execution settings) or "default"
    overrides_applied: the configuration factory's own audit trail
    """

    name: str
    engine: str
    seed: int
    data: JobData
    training: TrainingConfig
    bundle: Path | None
    train_only: bool = False
    refine: RefineConfig
    execution: PyTorchExecutionConfig
    resources: Resources
    container: ContainerTable
    output_dir: Path
    sources: dict[str, str] = field(default_factory=dict)
    overrides_applied: dict[str, Any] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of the run, in order."""
        if self.train_only:
            return ("train",)
        return stages_of(self.engine, self.refine.engine, has_bundle=self.bundle is not None)

    @property
    def uses_network(self) -> bool:
        """Whether a network makes the first image."""
        return self.engine == NETWORK

    def to_json(self) -> str:
        """The text of resolved.json."""
        return _adapter().dump_json(self, indent=1).decode() + "\n"

    @classmethod
    def from_json(cls, text: str) -> ResolvedJob:
        """The job that `to_json` wrote. Raises RequestError for anything else."""
        try:
            return _adapter().validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise RequestError(
                f"resolved.json does not describe a job of this version ({place}: {first['msg']}). Start a new run."
            ) from error

    @classmethod
    def read(cls, path: Path) -> ResolvedJob:
        """The job of a run folder. Raises RequestError when resolved.json is missing or broken."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RequestError(f"Cannot read {path}: {error.strerror or error}.") from error

    def values(self) -> dict[str, Mapping[str, Any]]:
        """Table → key → value as plain JSON-like data, under the names of the spec."""
        tables: dict[str, Any] = _adapter().dump_python(self, mode="json")
        training = tables["training"]
        model = training.pop("model") | {"bundle": tables["bundle"]}
        read = tables["data"].pop("read")
        return {
            "job": {key: tables[key] for key in ("name", "engine", "seed")},
            "data": tables["data"] | read,
            "model": model,
            "training": training,
            "refine": tables["refine"],
            "execution": tables["execution"],
            "resources": tables["resources"],
            "container": tables["container"],
            "output": {"dir": tables["output_dir"]},
        }


@cache
def _adapter() -> TypeAdapter[ResolvedJob]:
    return TypeAdapter(ResolvedJob)
