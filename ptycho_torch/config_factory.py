"""The configuration factory: from a data file and overrides to payloads in which everything is decided.

Precedence, highest first: overrides; what the data file or the model archive says; the execution configuration that was
handed in; a profile (the defaults of a program's own arguments); the defaults of the client's classes; the canonical
defaults. The last two cannot differ, because the former are taken from the latter.
"""

from __future__ import annotations

import json
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from ptycho import params
from ptycho.config.config import (
    InferenceConfig,
    ModelConfig,
    PyTorchExecutionConfig,
    TrainingConfig,
    update_legacy_dict,
    validate_inference_config,
    validate_training_config,
)
from ptycho.config.synthetic import SYNTHETIC
from ptycho.config.validation import field_problems, refuse
from ptycho.data.formats.npz_archive import NpzArchive
from ptycho.errors import DataError
from ptycho.metadata import MetadataManager
from ptycho_torch import config_params as client
from ptycho_torch.config_bridge import canonical_config, client_config, read_overrides, settings_of

ARCHIVE_NAME = "wts.h5.zip"
MANIFEST_NAME = "manifest.json"

# Older programs expect this size from `infer_probe_size` where there is nothing to see.
_SIZE_WITHOUT_PROBE = 64
_MANIFEST_LIMIT_BYTES = 2**20
# What a damaged, encrypted or foreign archive can raise; NotImplementedError is a RuntimeError.
_UNREADABLE = (OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, TypeError, ValueError, RuntimeError)

_TRAINING = (
    ModelConfig, TrainingConfig, PyTorchExecutionConfig,
    client.DataConfig, client.ModelConfig, client.TrainingConfig, client.InferenceConfig,
)  # fmt: skip
_INFERENCE = (ModelConfig, InferenceConfig, PyTorchExecutionConfig, client.DataConfig, client.InferenceConfig)

# What the audit trail always shows; other execution settings are shown where they are not the default.
_TRAINING_KNOBS = (
    "accelerator", "deterministic", "num_workers", "enable_progress_bar", "learning_rate", "scheduler", "accum_steps",
    "logger_backend",
)  # fmt: skip
_INFERENCE_KNOBS = ("accelerator", "num_workers", "inference_batch_size")

# Settings that the trail also shows under the client's name when they were given under any.
_TRAIL_ALIASES = {"nepochs": (client.TrainingConfig, "epochs"), "neighbor_count": (client.DataConfig, "K"),
                  "model_type": (client.ModelConfig, "mode")}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainingPayload:
    """Everything that a training needs to know, decided.

    Training reads `execution_config` for learning rate, scheduler, gradient clipping, accumulation and all runtime
    settings, and `tf_training_config` (with its model) for the rest. Where a setting stands in several of the objects
    they all hold the same value, so that reading another one makes no difference.

    overrides_applied: the audit trail: the caller's overrides, inferred values with their source (`N_source`,
                       `nphotons_source`), and the execution settings with the values that are used
    """

    tf_training_config: TrainingConfig
    pt_data_config: client.DataConfig
    pt_model_config: client.ModelConfig
    pt_training_config: client.TrainingConfig
    pt_inference_config: client.InferenceConfig
    execution_config: PyTorchExecutionConfig
    overrides_applied: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class InferencePayload:
    """Everything that applying a trained network needs to know, decided.

    Inference reads `execution_config` for all runtime settings and `tf_inference_config` (with its model) for the rest.

    overrides_applied: the audit trail, as in TrainingPayload
    """

    tf_inference_config: InferenceConfig
    pt_data_config: client.DataConfig
    pt_inference_config: client.InferenceConfig
    execution_config: PyTorchExecutionConfig
    overrides_applied: dict[str, Any]


def create_training_payload(
    train_data_file: str | Path | None,
    output_dir: str | Path,
    overrides: Mapping[str, Any] | None = None,
    execution_config: PyTorchExecutionConfig | None = None,
    profile: Mapping[str, Any] | None = None,
) -> TrainingPayload:
    """Decide every setting of a training and fill the legacy dictionary.

    train_data_file: None where training is on no scan; N is then required
    overrides: settings by canonical or client name; n_groups is required
    profile:   the defaults of a program's own arguments, by the same names
    Raises FileNotFoundError when a data file is missing, ValueError for every other wrong request, DataError when the
    file cannot be read.
    """
    data_file = None if train_data_file is None else _existing(train_data_file, "Training data file")
    places = {"train_data_file": data_file, "output_dir": Path(output_dir)}
    given = _given(overrides, _TRAINING, places)
    own = read_overrides(profile, _TRAINING)
    settings = _defaults(_TRAINING) | own | _execution_settings(execution_config) | given | places
    if settings["test_data_file"] is not None:
        _existing(settings["test_data_file"], "Test data file")

    inferred: dict[str, Any] = {}
    if "N" in given:
        inferred["N_source"] = "override"
    else:
        settings["N"] = _required_probe_size(data_file)
        inferred["N_source"] = "probe"
    settings["nphotons"], inferred["nphotons_source"] = _nphotons(data_file, given)
    inferred |= _enough_neighbours(settings, own | given)

    training = canonical_config(TrainingConfig, settings, model=canonical_config(ModelConfig, settings))
    validate_training_config(training)
    execution = _execution(settings)
    payload = TrainingPayload(
        tf_training_config=training,
        pt_data_config=_checked(client.DataConfig, settings),
        pt_model_config=_checked(client.ModelConfig, settings),
        pt_training_config=_checked(client.TrainingConfig, settings),
        pt_inference_config=_checked(client.InferenceConfig, settings),
        execution_config=execution,
        overrides_applied=_trail(overrides, given, settings)
        | {"N": settings["N"], "nphotons": settings["nphotons"]}
        | inferred
        | _knobs(execution, _TRAINING_KNOBS),
    )
    populate_legacy_params(training, force=True)
    return payload


def create_inference_payload(
    model_path: str | Path,
    test_data_file: str | Path,
    output_dir: str | Path,
    overrides: Mapping[str, Any] | None = None,
    execution_config: PyTorchExecutionConfig | None = None,
) -> InferencePayload:
    """Decide every setting of an inference and fill the legacy dictionary.

    N, gridsize and architecture come from the model archive where it can be read; a broken archive is the loader's
    error. A model for frames of any size takes N from the data file.
    overrides: settings by canonical or client name; n_groups is required
    Raises FileNotFoundError when the model's folder or the data file is missing, ValueError for every other wrong
    request, DataError when the data file cannot be read.
    """
    model_dir = Path(model_path)
    if not model_dir.is_dir():
        raise FileNotFoundError(f"Model directory not found: {model_dir}")
    if not (model_dir / ARCHIVE_NAME).is_file() and not (model_dir / MANIFEST_NAME).is_file():
        raise ValueError(f"Model archive not found: {model_dir / ARCHIVE_NAME}. Name the folder that training wrote.")
    data_file = _existing(test_data_file, "Test data file")
    places = {"model_path": model_dir, "test_data_file": data_file, "output_dir": Path(output_dir)}
    given = _given(overrides, _INFERENCE, places)
    archived = _archived_model(model_dir)
    settings = _defaults(_INFERENCE) | _execution_settings(execution_config) | archived | given | places

    inferred: dict[str, Any] = {name: settings[name] for name in archived} | {"N_source": "archive"}
    if "N" in given:
        inferred["N_source"] = "override"
    elif "N" not in archived:
        size = _probe_size(data_file)
        settings["N"], inferred["N_source"] = (size, "probe") if size else (settings["N"], "default")
    inferred |= _enough_neighbours(settings, given)

    inference = canonical_config(InferenceConfig, settings, model=canonical_config(ModelConfig, settings))
    validate_inference_config(inference)
    execution = _execution(settings)
    payload = InferencePayload(
        tf_inference_config=inference,
        pt_data_config=_checked(client.DataConfig, settings),
        pt_inference_config=_checked(client.InferenceConfig, settings),
        execution_config=execution,
        overrides_applied=_trail(overrides, given, settings)
        | inferred
        | {"N": settings["N"]}
        | _knobs(execution, _INFERENCE_KNOBS),
    )
    populate_legacy_params(inference, force=True)
    return payload


def populate_legacy_params(config: TrainingConfig | InferenceConfig, force: bool = False) -> None:
    """Write a configuration into the legacy dictionary, once.

    A dictionary that is filled already is left alone, with a UserWarning, unless `force`.
    Raises TypeError for anything but a canonical training or inference configuration.
    """
    if not isinstance(config, TrainingConfig | InferenceConfig):
        raise TypeError(f"{type(config).__name__} is no TrainingConfig or InferenceConfig of ptycho.config.config.")
    if params.cfg and not force:
        warnings.warn(
            "The legacy dictionary ptycho.params.cfg was already filled and is left as it is; use force=True to"
            " overwrite it.",
            UserWarning,
            stacklevel=2,
        )
        return
    update_legacy_dict(params.cfg, config)


def infer_probe_size(path: str | Path) -> int:
    """N, the last axis of the file's probe; only its shape is read.

    A missing file or probe gives 64 with a UserWarning, which older programs rely on. Raises DataError when the file is
    there and cannot be read.
    """
    found = _probe_size(Path(path)) if Path(path).is_file() else None
    if found is None:
        warnings.warn(
            f"{path}: no probe to take N from; N = {_SIZE_WITHOUT_PROBE} is assumed. Set N.", UserWarning, stacklevel=2
        )
    return found or _SIZE_WITHOUT_PROBE


def _existing(path: str | Path, what: str) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{what} not found: {path}")
    return Path(path)


def _given(
    overrides: Mapping[str, Any] | None, targets: tuple[type[Any], ...], places: Mapping[str, Path | None]
) -> dict[str, Any]:
    """The overrides as settings, which name n_groups and do not contradict the arguments."""
    given = read_overrides(overrides, targets)
    for name, path in places.items():
        if name in given and given[name] != path:
            raise ValueError(f"{name} = {str(given[name])!r} contradicts the argument {str(path)!r}; give one of them.")
    if given.get("n_groups") is None:
        raise ValueError("n_groups is required and has no default: give overrides={'n_groups': <number of groups>}.")
    return given


def _defaults(targets: tuple[type[Any], ...]) -> dict[str, Any]:
    """Setting → default, of every setting that has one under its own name."""
    found: dict[str, Any] = {}
    for target in reversed(targets):
        known = settings_of(target)
        found |= {f.name: f.default for f in fields(target) if f.name in known and f.default is not MISSING}
    return found


def _execution_settings(config: PyTorchExecutionConfig | None) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(config)} if config is not None else {}


def _execution(settings: dict[str, Any]) -> PyTorchExecutionConfig:
    """The runtime settings; "auto" becomes the device in the settings too."""
    execution = canonical_config(PyTorchExecutionConfig, settings)
    settings["accelerator"] = execution.accelerator
    return execution


def _checked(config: type[Any], settings: Mapping[str, Any]) -> Any:
    """A client class filled from settings. Any: the class is the caller's argument. Raises ValueError."""
    made = client_config(config, settings)
    refuse(field_problems(made), f"The client's {config.__name__}")
    return made


def _nphotons(path: Path | None, given: Mapping[str, Any]) -> tuple[float, str]:
    if "nphotons" in given:
        return given["nphotons"], "override"
    metadata = MetadataManager.load_metadata(path) if path is not None and _is_npz(path) else None
    stated = MetadataManager.get_nphotons(metadata, default=0.0)
    return (stated, "metadata") if stated else (TrainingConfig.nphotons, "tf_default")


def _enough_neighbours(settings: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Raise a neighbor_count that nobody asked for to the group's size; what was inferred, for the trail."""
    gridsize = settings["gridsize"]
    if "neighbor_count" in given or not isinstance(gridsize, int) or settings["neighbor_count"] >= gridsize**2:
        return {}
    settings["neighbor_count"] = gridsize**2
    return {"neighbor_count": gridsize**2}


def _trail(
    overrides: Mapping[str, Any] | None, given: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The caller's overrides, and the client's names of those that have two."""
    trail = dict(overrides or {})
    for setting, (config, name) in _TRAIL_ALIASES.items():
        if setting in given:
            trail[name] = getattr(client_config(config, settings), name)
    return trail


def _knobs(execution: PyTorchExecutionConfig, always: tuple[str, ...]) -> dict[str, Any]:
    values = {field.name: (getattr(execution, field.name), field.default) for field in fields(execution)}
    return {name: value for name, (value, default) in values.items() if name in always or value != default}


def _required_probe_size(path: Path | None) -> int:
    if path is None:
        raise ValueError("N is required where there is no data file: give overrides={'N': <pixels>}.")
    size = _probe_size(path)
    if size is None:
        raise ValueError(f"N is required: {path} has no probe to take it from. Give overrides={{'N': <pixels>}}.")
    return size


def _probe_size(path: Path) -> int | None:
    """The last axis of the probe, None where the file has none; only shapes are read. Raises DataError."""
    if _is_npz(path):
        headers = NpzArchive(path).headers
        shape = next((headers[name].shape for name in ("probeGuess", "probe") if name in headers), None)
    else:
        shape = _hdf5_probe_shape(path)
    if shape is None:
        return None
    if len(shape) < 2 or shape[-1] != shape[-2] or 0 in shape:
        raise DataError(f"{path}: the probe has shape {shape}; (modes, N, N) or (N, N) was expected. Repair the file.")
    return shape[-1]


def _hdf5_probe_shape(path: Path) -> tuple[int, ...] | None:
    import h5py

    if not h5py.is_hdf5(path):
        raise DataError(f"{path}: neither an NPZ nor an HDF5 file. Convert it with: ptycho convert.")
    try:
        with h5py.File(path) as file:
            probe = file.get("probe")
            return tuple(probe.shape) if isinstance(probe, h5py.Dataset) else None
    except (OSError, RuntimeError, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({error}); the file is damaged. Copy it again.") from error


def _is_npz(path: Path) -> bool:
    """Whether a file is an NPZ archive, plain or bz2-compressed, by its first bytes."""
    with path.open("rb") as file:
        return file.read(4).startswith((b"PK\x03\x04", b"PK\x05\x06", b"BZh"))


def _archived_model(model_dir: Path) -> dict[str, Any]:
    """N (not of a model for any size), gridsize and architecture of a model archive; empty where it cannot be read."""
    archive, unpacked = model_dir / ARCHIVE_NAME, model_dir / MANIFEST_NAME
    try:
        if archive.is_file():
            with zipfile.ZipFile(archive) as stored, stored.open(MANIFEST_NAME) as file:
                text = file.read(_MANIFEST_LIMIT_BYTES)
        else:
            text = unpacked.read_bytes()
        config = json.loads(text)["config"]
        told = {name: config[name] for name in ("N", "gridsize", "architecture") if name in config}
        if (config.get("card") or {}).get("trained_on") == SYNTHETIC:
            told.pop("N", None)
    except _UNREADABLE:
        return {}
    wrong = {problem.split(" ")[0] for problem in field_problems(ModelConfig(**told))}
    return {name: value for name, value in told.items() if name not in wrong}
