"""From a spec to a resolved job: the scan is opened and every value is filled in, with its source."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ptycho.config.config import DEFAULT_N_GROUPS, ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.config.refine import RefineConfig
from ptycho.config.simulate import SimulateConfig
from ptycho.config.synthetic import SYNTHETIC, SyntheticConfig
from ptycho.data.formats import open_scan
from ptycho.data.preparation import prepare
from ptycho.data.scan import Scan
from ptycho.errors import DataError, ModelError, PackageError, SpecError
from ptycho.jobs.binding import NOT_IN_TRAINING, TABLES
from ptycho.jobs.engines import LINEAR, NETWORK
from ptycho.jobs.job_container import resolve_container
from ptycho.jobs.resolved_job import JobContainer, JobData, ResolvedJob, Resources
from ptycho.jobs.scan_patterns import plain_name
from ptycho.jobs.spec import JobSpec, parse_spec

# The factory needs torch; named by a string, so that everything else here works without.
FACTORY_MODULE = "ptycho_torch.config_factory"
SIMULATION_MODULE = "ptycho_torch.simulate"
BUNDLE_NAME = "wts.h5.zip"
# What a job trains with where its spec does not say. The configuration classes keep the defaults that older programs
# expect; with those, a network on a scan with an inexact probe ends worse than a flat object. These were measured with
# benchmarks/network_from_scratch.py.
NETWORK_PROFILE = {"gridsize": 2, "batch_size": 4, "nepochs": 8, "probe_trainable": True, "lr_min_ratio": 0.02}
SYNTHETIC_PROFILE = {
    "architecture": "unrolled", "model_type": "supervised", "gridsize": 1, "batch_size": 48, "nepochs": 24,
    "optimizer": "adamw", "weight_decay": 1e-4, "lr_warmup_epochs": 1, "lr_min_ratio": 0.01,
}  # fmt: skip
NETWORK_EXECUTION = {"learning_rate": 2e-3, "scheduler": "WarmupCosine", "gradient_clip_val": 1.0}


def open_job_scan(data: JobData) -> Scan:
    """The scan of a job, cropped and masked as it asks; frames stay in the file. Raises DataError."""
    if data.simulated is not None:
        simulated: Scan = import_module(SIMULATION_MODULE).simulate_scan(data.simulated)
        return simulated
    assert data.scan is not None
    return prepare(open_scan(data.scan, data.read), **data.preparation)


def stated_data(scan: Path, statements: Sequence[str]) -> JobData:
    """The data of a job that says nothing but its scan and these keys of [data]; see `stated_spec`."""
    return job_data(stated_spec(scan, statements))


def stated_spec(scan: Path, statements: Sequence[str]) -> JobSpec:
    """The spec of a job that says nothing but its scan and these keys of [data], each "key=value".

    Raises SpecError or DataError as a spec with them would.
    """
    overrides = [text if text.startswith("data.") else f"data.{text}" for text in statements]
    return parse_spec("", overrides=[f"data.scan={json.dumps(str(scan))}", *overrides])


def resolve(spec: JobSpec, *, launched_ranks: int | None = None) -> tuple[ResolvedJob, Scan]:
    """The job with every value filled in, and its scan.

    launched_ranks: the number of processes that mpirun or srun has started already, whatever [resources] asks for
    Raises DataError, ModelError, PackageError or SpecError: whatever would fail later fails here, in a second.
    """
    data = job_data(spec)
    scan = open_job_scan(data)
    if scan.geometry.is_near_field and spec.job.engine == NETWORK:
        raise SpecError(
            [
                f'job.engine = "{NETWORK}": the network works in the far field, and this scan was taken'
                f" {scan.geometry.focus_distance_m:g} m behind a focus. Choose an iterative engine."
            ]
        )
    synthetic = _synthetic(spec)
    bundle = bundle_archive(spec.bundle)
    container = resolve_container(spec, data.scan)
    resources, resource_sources = _resources(spec, container, launched_ranks)
    execution = _execution(spec, resources, container)
    if spec.job.engine == NETWORK:
        training, execution, trail = _network_training(spec, data, scan, bundle, execution)
    else:
        training, trail = _plain_training(spec, data, scan), {}
    job = ResolvedJob(
        name=spec.job.name or (SYNTHETIC if data.scan is None else plain_name(data.scan)),
        engine=spec.job.engine,
        seed=spec.job.seed,
        data=data,
        training=training,
        bundle=bundle,
        fine_tune=spec.fine_tune,
        synthetic=synthetic,
        refine=_refine(spec),
        execution=execution,
        resources=resources,
        container=container,
        output_dir=Path(spec.output.dir).expanduser().absolute(),
        overrides_applied={key: _plain(value) for key, value in trail.items()},
    )
    derived = {"model.N": "data", **({} if spec.job.name else {"job.name": "data"}), **resource_sources}
    derived |= _factory_sources(spec, trail, bundle)
    if container.image:
        derived |= {f"container.{key}": "image" for key in ("image", "digest", "version", "commit", "gpu_option")}
    told = {path: source for path, source in spec.sources.items() if path not in resource_sources}
    return replace(job, sources=_sources(job, told, derived)), scan


def _synthetic(spec: JobSpec) -> SyntheticConfig | None:
    return SyntheticConfig(**spec.synthetic) if spec.data.source == SYNTHETIC else None


def job_data(spec: JobSpec) -> JobData:
    """The [data] table with absolute paths, and a simulated scan where it names none.

    Raises DataError when a file is not there.
    """
    table = spec.data
    simulated = None
    if table.scan is None:
        synthetic = _synthetic(spec)
        assert synthetic is not None  # parse_spec has refused a spec without
        simulated = SimulateConfig(patch_size=min(synthetic.patch_sizes))
    files = {
        name: None if getattr(table, name) is None else _existing(Path(getattr(table, name)), f"data.{name}")
        for name in ("scan", "mask", "dark", "positions", "start")
    }
    return JobData(
        scan=files["scan"],
        source=table.source,
        simulated=simulated,
        mask=files["mask"],
        dark=files["dark"],
        threshold_counts=table.threshold_counts,
        saturation_counts=table.saturation_counts,
        bin_px=table.bin_px,
        crop_px=table.crop_px,
        pad_px=table.pad_px,
        validation_fraction=table.validation_fraction,
        read=replace(table.read, positions=files["positions"], start=files["start"]),
    )


def _existing(path: Path, key: str) -> Path:
    try:
        is_there = path.exists()
    except PermissionError as error:
        raise DataError(f"{key} = {str(path)!r}: a folder on the way may not be entered; ask for access.") from error
    if not is_there:
        try:
            around = sorted(found.name for found in path.parent.iterdir() if found.is_file())[:5]
        except OSError:
            around = []
        hint = f" {path.parent} holds: {', '.join(around)}." if around else f" {path.parent} is empty or not there."
        raise DataError(f"{key} = {str(path)!r}: there is no such file.{hint}")
    return path.resolve()


def bundle_archive(path: Path | None) -> Path | None:
    """The archive that model.bundle means. Raises ModelError when there is none."""
    if path is None:
        return None
    places = (path / BUNDLE_NAME, path / "model" / BUNDLE_NAME) if path.is_dir() else (path,)
    archive = next((place for place in places if place.is_file()), None)
    if archive is None:
        raise ModelError(f"model.bundle = {str(path)!r}: there is no {BUNDLE_NAME}. Name the run that trained it.")
    if archive.name != BUNDLE_NAME:
        raise ModelError(f"model.bundle = {str(path)!r}: a model archive is called {BUNDLE_NAME}.")
    return archive.resolve()


def _resources(spec: JobSpec, container: JobContainer, launched_ranks: int | None) -> tuple[Resources, dict[str, str]]:
    table = spec.resources
    sources = {}
    gpus = table.gpus_per_node
    if gpus is None:
        has_none = table.executor == "slurm" or spec.execution.get("accelerator") == "cpu" or _is_for_cpus(container)
        gpus = 0 if has_none else len(visible_gpus())
        sources["resources.gpus_per_node"] = "execution"
    ranks = table.ranks_per_node
    if ranks is None:
        ranks = max(1, gpus) if table.executor != "here" else 1
        sources["resources.ranks_per_node"] = "execution"
    own: dict[str, Any] = {"ranks_per_node": ranks, "gpus_per_node": gpus}
    if launched_ranks is not None:
        own |= {"executor": "here", "nodes": 1, "ranks_per_node": launched_ranks}
        sources |= dict.fromkeys(("resources.executor", "resources.nodes", "resources.ranks_per_node"), "execution")
        return Resources(**{**asdict(table), **own}), sources
    if table.executor == "local" and table.nodes > 1:
        raise SpecError([f'resources.nodes = {table.nodes}: executor "local" is one machine. Use "slurm", or 1 node.'])
    if table.executor == "here" and table.nodes * ranks > 1:
        raise SpecError(
            [f'resources.ranks_per_node = {ranks}: executor "here" is one process. Use "local", or start with mpirun.']
        )
    return Resources(**{**asdict(table), **own}), sources


def visible_gpus() -> list[int]:
    """The GPUs that this process may use, found without loading torch or CUDA."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [int(part) for part in told.split(",") if part.strip().isdigit()]
    numbers = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    return sorted(int(number) for number in numbers if number.isdigit())


def _execution(spec: JobSpec, resources: Resources, container: JobContainer) -> PyTorchExecutionConfig:
    values = {**(NETWORK_EXECUTION if spec.job.engine == NETWORK else {}), **spec.execution}
    if values.get("accelerator", "auto") == "auto" and (resources.executor == "slurm" or _is_for_cpus(container)):
        # "auto" looks at the machine it is built on, and a login node says nothing about the nodes of the job.
        values["accelerator"] = "cuda" if resources.gpus_per_node else "cpu"
    execution = PyTorchExecutionConfig(**values)
    wanted = f"resources.gpus_per_node = {resources.gpus_per_node}" if resources.gpus_per_node else ""
    if execution.accelerator in ("gpu", "cuda"):
        wanted = wanted or f'execution.accelerator = "{execution.accelerator}"'
    if wanted and _is_for_cpus(container):
        raise SpecError(
            [f"{wanted}: torch in {container.image} is built for CPUs only. Build an image for GPUs"
             " (containers/README.md), or ask for none."]
        )  # fmt: skip
    return execution


def _is_for_cpus(container: JobContainer) -> bool:
    return container.image is not None and container.gpu_option is None


def _refine(spec: JobSpec) -> RefineConfig:
    engine = {} if spec.job.engine == NETWORK else {"engine": spec.job.engine}
    return RefineConfig(**{**spec.refine, **engine})


def _plain_training(spec: JobSpec, data: JobData, scan: Scan) -> TrainingConfig:
    """The training settings of a job that trains nothing: they carry the model's N and nothing else of weight."""
    model = ModelConfig(**{**spec.model, "N": scan.patch_size})
    return TrainingConfig(model=model, train_data_file=data.scan, **_with_groups(spec.training, scan))


def _with_groups(training: Mapping[str, Any], scan: Scan) -> dict[str, Any]:
    """The training keys with one group for each scan position where the user did not say how many."""
    return {"n_groups": scan.n_positions, **training}


def _network_training(
    spec: JobSpec, data: JobData, scan: Scan, bundle: Path | None, execution: PyTorchExecutionConfig
) -> tuple[TrainingConfig, PyTorchExecutionConfig, dict[str, Any]]:
    try:
        factory = import_module(FACTORY_MODULE)
    except (ImportError, RuntimeError) as error:
        raise PackageError(
            f'Engine "{NETWORK}" cannot be loaded: {error}'
            ' Install torch with: pip install "ptychopinn[torch]", or choose engine = "rpie".'
        ) from error
    is_synthetic = data.source == SYNTHETIC
    groups = {"n_groups": DEFAULT_N_GROUPS, **spec.training} if is_synthetic else _with_groups(spec.training, scan)
    overrides = {**spec.model, **groups, "N": scan.patch_size}
    profile = SYNTHETIC_PROFILE if is_synthetic else NETWORK_PROFILE
    if spec.model.get("architecture") == LINEAR:
        # A frame's neighbours add little to its own inverse, and cost nine times its time.
        profile = {**profile, "gridsize": 1}
    try:
        payload = factory.create_training_payload(
            data.scan, Path(spec.output.dir), overrides=overrides, execution_config=execution, profile=profile
        )
    except ValueError as error:
        raise SpecError([str(error)]) from error
    training: TrainingConfig = payload.tf_training_config
    trail = dict(payload.overrides_applied)
    if bundle is not None:
        training, trail = _with_bundle_model(factory, spec, data, bundle, training, trail)
    return training, payload.execution_config, trail


def _with_bundle_model(
    factory: Any, spec: JobSpec, data: JobData, bundle: Path, training: TrainingConfig, trail: dict[str, Any]
) -> tuple[TrainingConfig, dict[str, Any]]:
    """The training settings with the model that the archive holds; explicit keys that contradict it are its error."""
    try:
        payload = factory.create_inference_payload(
            bundle.parent, data.scan, Path(spec.output.dir), overrides={**spec.model, "n_groups": training.n_groups}
        )
    except ValueError as error:
        raise ModelError(str(error)) from error
    model: ModelConfig = payload.tf_inference_config.model
    if payload.overrides_applied["N_source"] != "archive":  # a model for frames of any size
        model = replace(model, N=training.model.N)
    if training.model.N != model.N:
        raise ModelError(
            f"The model in {bundle} takes frames of {model.N} × {model.N}, the scan has"
            f" {training.model.N} × {training.model.N}. Set data.crop_px = {model.N}, or train a model for this scan."
        )
    return replace(training, model=replace(model, model_type=training.model.model_type)), trail


def _factory_sources(spec: JobSpec, trail: Mapping[str, Any], bundle: Path | None) -> dict[str, str]:
    """Sources that only the factory knows."""
    sources = {"training.n_groups": "data"}
    if trail.get("nphotons_source") == "metadata":
        sources["training.nphotons"] = "data"
    if bundle is not None:
        sources |= dict.fromkeys((f"model.{field.name}" for field in fields(ModelConfig)), "bundle")
    execution_keys = {f"training.{key}": "execution" for key in spec.execution if key in TABLES["training"].defaults}
    return sources | execution_keys | {"execution.accelerator": "execution"}


def _sources(job: ResolvedJob, written: Mapping[str, str], derived: Mapping[str, str]) -> dict[str, str]:
    """Dotted path → source for every value that a user can set, and N."""
    hidden = {"training": NOT_IN_TRAINING, "model": frozenset[str]()}
    paths = [
        f"{table}.{key}"
        for table, values in job.values().items()
        for key in values
        if key not in hidden.get(table, frozenset())
    ]
    return {path: written.get(path) or derived.get(path) or "default" for path in paths}


def _plain(value: Any) -> Any:
    """A trail's value as JSON keeps it."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
