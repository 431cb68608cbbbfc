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
from ptycho.config.simulate import SimulateConfig
from ptycho.config.synthetic import SyntheticConfig
from ptycho.data.formats.overrides import ReadOverrides
from ptycho.errors import RequestError
from ptycho.jobs.engines import LINEAR, NETWORK, stages_of


@dataclass(frozen=True, kw_only=True)
class JobData:
    """The scan of a job, all paths absolute; see the [data] table for the keys.

    simulated: the scan on which a network that was trained on random scenes is tried, where no scan is given
    """

    scan: Path | None
    source: str = "scan"
    simulated: SimulateConfig | None = None
    mask: Path | None = None
    dark: Path | None = None
    threshold_counts: float | None = None
    saturation_counts: float | None = None
    bin_px: int | None = None
    crop_px: int | None = None
    pad_px: int | None = None
    validation_fraction: float = 0.0
    read: ReadOverrides = field(default_factory=ReadOverrides)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the data are made of."""
        named = (self.scan, self.mask, self.dark, self.read.positions, self.read.start)
        return tuple(path for path in named if path is not None)

    @property
    def preparation(self) -> dict[str, Any]:
        """What is done with the frames after reading, as `ptycho.data.preparation.prepare` takes it."""
        names = ("threshold_counts", "saturation_counts", "bin_px", "crop_px", "pad_px")
        return {name: getattr(self, name) for name in names} | {"mask_path": self.mask, "dark_path": self.dark}


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
class JobContainer:
    """The image in which the ranks run; see the [container] table for image, binds, arguments and environment.

    digest:     SHA-256 of the image file; empty for an image that is a folder
    version:    of this program inside; commit: of its sources
    gpu_option: what shows GPUs inside: "--nv", "--rocm", or None where the image could not use one
    linked:     files elsewhere that the scan draws on
    is_entered: whether starting the ranks enters the image; False without one, and where everything is inside already
    """

    image: Path | None = None
    binds: list[str] | None = None
    arguments: list[str] | None = None
    environment: list[str] | None = None
    digest: str = ""
    version: str = ""
    commit: str = ""
    gpu_option: str | None = None
    linked: tuple[Path, ...] = ()
    is_entered: bool = False


@dataclass(frozen=True, kw_only=True)
class ResolvedJob:
    """Everything that a run needs to know, read-only.

    bundle:  the model archive to apply instead of training one, or to train on from
    fine_tune: whether training goes on from the bundle
    synthetic: the random scenes to train on; None: the scan
    train_only: stop when the network is trained; others apply it
    sources: dotted path → where its value came from: "spec", "override", "site" (the site profile), "data" (the scan
             file), "bundle" (the model archive), "image" (the container image), "execution" (this machine or the
             execution settings) or "default"
    overrides_applied: the configuration factory's own audit trail
    """

    name: str
    engine: str
    seed: int
    data: JobData
    training: TrainingConfig
    bundle: Path | None
    fine_tune: bool = False
    synthetic: SyntheticConfig | None = None
    train_only: bool = False
    refine: RefineConfig
    execution: PyTorchExecutionConfig
    resources: Resources
    container: JobContainer
    output_dir: Path
    sources: dict[str, str] = field(default_factory=dict)
    overrides_applied: dict[str, Any] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of the run, in order."""
        if self.train_only:
            return ("train",)
        is_trained_already = self.bundle is not None or self.uses_linear_inverse
        return stages_of(self.engine, self.refine.engine, trains=self.fine_tune or not is_trained_already)

    @property
    def uses_network(self) -> bool:
        """Whether a network makes the first image."""
        return self.engine == NETWORK

    @property
    def uses_linear_inverse(self) -> bool:
        """Whether the linear inverse makes the first image, with nothing to train."""
        return self.bundle is None and self.training.model.architecture == LINEAR

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
        model = training.pop("model") | {key: tables[key] for key in ("bundle", "fine_tune")}
        read = tables["data"].pop("read")
        tables["data"].pop("simulated")
        # What the reader is told about the crop follows from crop_px.
        read.pop("window_px")
        return {
            "job": {key: tables[key] for key in ("name", "engine", "seed")},
            "data": tables["data"] | read,
            "model": model,
            "training": training,
            "synthetic": tables["synthetic"] or {},
            "refine": tables["refine"],
            "execution": tables["execution"],
            "resources": tables["resources"],
            "container": tables["container"],
            "output": {"dir": tables["output_dir"]},
        }


@cache
def _adapter() -> TypeAdapter[ResolvedJob]:
    return TypeAdapter(ResolvedJob)
