"""The two vocabularies of one configuration: the client's names and values, and the canonical ones.

A *setting* is what both talk about; it is called by its canonical name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from math import isqrt
from pathlib import Path
from typing import Any, TypeVar

from ptycho.config.config import InferenceConfig, ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho_torch import config_params as client

T = TypeVar("T")


@dataclass(frozen=True)
class Translation:
    """A setting that a client class holds under its own name or in its own values.

    to_setting leaves canonical values as they are, so it may be applied to either.
    """

    config: type[Any]
    name: str
    setting: str
    to_setting: Callable[[Any], Any] = lambda value: value
    to_client: Callable[[Any], Any] = lambda value: value


def _by_table(table: Mapping[Any, Any]) -> dict[str, Callable[[Any], Any]]:
    """Both directions of a table of client value → canonical value; other values pass, for validation to judge."""
    back = {canonical: name for name, canonical in table.items()}
    return {
        "to_setting": lambda value: table.get(value, value) if isinstance(value, str) else value,
        "to_client": lambda value: back.get(value, value),
    }


def _gridsize_of(grid_size: Any) -> Any:
    if isinstance(grid_size, int):
        return grid_size
    if not isinstance(grid_size, tuple | list) or len(grid_size) != 2 or grid_size[0] != grid_size[1]:
        raise ValueError(f"grid_size = {grid_size!r}: must be (g, g); a group is as high as it is wide.")
    return grid_size[0]


def _gridsize_of_count(name: str) -> Callable[[Any], Any]:
    def gridsize(count: Any) -> int:
        if not isinstance(count, int) or count < 1 or isqrt(count) ** 2 != count:
            raise ValueError(f"{name} = {count!r}: must be gridsize × gridsize, such as 1, 4 or 9.")
        return isqrt(count)

    return gridsize


def _square(gridsize: int) -> int:
    return gridsize**2


TRANSLATIONS = (
    Translation(client.DataConfig, "N", "N"),
    Translation(client.DataConfig, "grid_size", "gridsize", _gridsize_of, lambda gridsize: (gridsize, gridsize)),
    Translation(client.DataConfig, "C", "gridsize", _gridsize_of_count("C"), _square),
    Translation(client.DataConfig, "K", "neighbor_count"),
    Translation(client.DataConfig, "probe_scale", "probe_scale"),
    Translation(client.ModelConfig, "C_model", "gridsize", _gridsize_of_count("C_model"), _square),
    Translation(client.ModelConfig, "C_forward", "gridsize", _gridsize_of_count("C_forward"), _square),
    Translation(
        client.ModelConfig, "mode", "model_type", **_by_table({"Unsupervised": "pinn", "Supervised": "supervised"})
    ),
    Translation(client.ModelConfig, "object_big", "object_big"),
    Translation(client.ModelConfig, "probe_big", "probe_big"),
    Translation(client.ModelConfig, "n_filters_scale", "n_filters_scale"),
    Translation(client.ModelConfig, "amp_activation", "amp_activation", **_by_table({"silu": "swish"})),
    Translation(client.ModelConfig, "intensity_scale_trainable", "intensity_scale_trainable"),
    Translation(
        client.ModelConfig, "loss_function", "torch_loss_mode", **_by_table({"Poisson": "poisson", "MAE": "mae"})
    ),
    # The client's mask is an array or nothing; the canonical setting says whether there is one.
    Translation(
        client.ModelConfig,
        "probe_mask",
        "probe_mask",
        lambda mask: mask if isinstance(mask, bool) else mask is not None,
        lambda masked: True if masked else None,
    ),
    Translation(client.TrainingConfig, "epochs", "nepochs"),
    Translation(client.TrainingConfig, "batch_size", "batch_size"),
    Translation(
        client.TrainingConfig,
        "nll",
        "nll_weight",
        lambda weight: float(weight) if isinstance(weight, bool) else weight,
        lambda weight: weight > 0,
    ),
    # The client's 0 means that nothing is clipped, which is None here.
    Translation(
        client.TrainingConfig, "gradient_clip_val", "gradient_clip_val", lambda limit: None if limit == 0 else limit
    ),
    Translation(client.TrainingConfig, "scheduler", "scheduler", **_by_table({"Cosine": "WarmupCosine"})),
    Translation(client.TrainingConfig, "warmup_epochs", "lr_warmup_epochs"),
    Translation(client.TrainingConfig, "min_lr_ratio", "lr_min_ratio"),
    Translation(client.TrainingConfig, "learning_rate", "learning_rate"),
    Translation(client.TrainingConfig, "accum_steps", "accum_steps"),
    Translation(client.TrainingConfig, "num_workers", "num_workers"),
    Translation(client.TrainingConfig, "device", "accelerator"),
    Translation(client.TrainingConfig, "n_devices", "devices"),
    Translation(client.TrainingConfig, "strategy", "strategy"),
    Translation(client.InferenceConfig, "batch_size", "inference_batch_size"),
    Translation(client.InferenceConfig, "middle_trim", "middle_trim"),
    Translation(client.InferenceConfig, "pad_eval", "pad_eval"),
)

# Further names of settings, in neither kind of class.
_OTHER_NAMES = {"max_epochs": "nepochs", "n_images": "n_groups"}

_PATHS = {"train_data_file", "test_data_file", "model_path", "output_dir"}

_CANONICAL = {
    field.name
    for config in (ModelConfig, TrainingConfig, InferenceConfig, PyTorchExecutionConfig)
    for field in fields(config)
}


def settings_of(config: type[Any]) -> set[str]:
    """The settings that a class holds, client or canonical.

    A client field that is neither translated nor shares a canonical name is a setting of its own; the client's
    n_subsample means something else than the canonical one, so it is none.
    """
    translated = {row.name: row.setting for row in TRANSLATIONS if row.config is config}
    if config.__module__ == client.__name__:
        own = {field.name for field in fields(config)} - translated.keys() - _CANONICAL
        return own | set(translated.values())
    return {field.name for field in fields(config)} - {"model", *_OTHER_NAMES}


def read_overrides(overrides: Mapping[str, Any] | None, targets: Iterable[type[Any]]) -> dict[str, Any]:
    """Setting → canonical value, from overrides in either vocabulary.

    targets: the classes whose settings may be overridden
    Raises ValueError, with every problem, for an unknown name and for two names of one setting that disagree.
    """
    known = set().union(*(settings_of(target) for target in targets))
    found: dict[str, tuple[str, Any]] = {}
    problems = []
    for name, value in (overrides or {}).items():
        row = _row(name, known)
        if row is None:
            problems.append(_unknown(name, known))
            continue
        setting, to_setting = row
        if name == "n_images" and value is not None:
            warnings.warn("The override n_images is deprecated; use n_groups.", DeprecationWarning, stacklevel=4)
        try:
            translated = Path(value) if setting in _PATHS and isinstance(value, str) else to_setting(value)
        except ValueError as error:
            problems.append(str(error))
            continue
        other, before = found.get(setting, (name, translated))
        if None not in (before, translated) and before != translated:
            problems.append(
                f"{other} = {(overrides or {})[other]!r} and {name} = {value!r}: two names of one setting with"
                " different values; give one of them."
            )
        if translated is not None or setting not in found:
            found[setting] = (name, translated)
    if problems:
        raise ValueError(" ".join(problems))
    return {setting: value for setting, (_, value) in found.items()}


def _row(name: str, known: set[str]) -> tuple[str, Callable[[Any], Any]] | None:
    """The setting that a name stands for, and how its value is translated."""
    if _OTHER_NAMES.get(name) in known:
        return _OTHER_NAMES[name], lambda value: value
    rows = [row for row in TRANSLATIONS if row.name == name and row.setting in known]
    # A canonical name wins over a client's other use of the same word: batch_size is the training's.
    rows.sort(key=lambda row: row.setting != name)
    if rows and (rows[0].setting == name or name not in known):
        return rows[0].setting, rows[0].to_setting
    return (name, lambda value: value) if name in known else None


def _unknown(name: str, known: set[str]) -> str:
    names = known | {row.name for row in TRANSLATIONS if row.setting in known}
    names |= {other for other, setting in _OTHER_NAMES.items() if setting in known}
    near = get_close_matches(str(name), sorted(names), n=1, cutoff=0.0)
    return f"override {name!r}: there is no such setting. Did you mean {near[0]!r}?"


def client_config(config: type[T], settings: Mapping[str, Any]) -> T:
    """A client class filled from settings; what they do not say keeps the class's default."""
    translated = {row.name: row for row in TRANSLATIONS if row.config is config}
    values = {}
    for field in fields(config):  # type: ignore[arg-type]
        row = translated.get(field.name)
        setting = row.setting if row else field.name
        if setting not in settings or (row is None and field.name in _CANONICAL):
            continue
        value = row.to_client(settings[setting]) if row else settings[setting]
        if value is not None or field.default in (None, MISSING):
            values[field.name] = value
    return config(**values)


def canonical_config(config: type[T], settings: Mapping[str, Any], **required: Any) -> T:
    """A canonical class filled from settings; what they do not say keeps the class's default."""
    return config(**required, **{name: settings[name] for name in settings_of(config) if name in settings})


def _settings_in(*configs: Any) -> dict[str, Any]:
    """The settings that client objects hold. Raises ValueError when two of their fields contradict each other."""
    found: dict[str, tuple[str, Any]] = {}
    for row in TRANSLATIONS:
        for config in configs:
            if isinstance(config, row.config):
                value = getattr(config, row.name)
                name, before = found.setdefault(row.setting, (row.name, row.to_setting(value)))
                if row.to_setting(value) != before:
                    raise ValueError(
                        f"{row.name} = {value!r} contradicts {name}, which says {row.setting} = {before!r};"
                        f" {row.to_client(before)!r} was expected."
                    )
    return {setting: value for setting, (_, value) in found.items()}


def to_model_config(
    data: client.DataConfig, model: client.ModelConfig, overrides: Mapping[str, Any] | None = None
) -> ModelConfig:
    """The canonical model that a client means. Raises ValueError for contradictions and unknown overrides."""
    settings = _settings_in(data, model) | read_overrides(overrides, [ModelConfig])
    return canonical_config(ModelConfig, settings)


def to_training_config(
    model: ModelConfig,
    data: client.DataConfig,
    pt_model: client.ModelConfig,
    training: client.TrainingConfig,
    overrides: Mapping[str, Any] | None = None,
) -> TrainingConfig:
    """The canonical training of a canonical model that a client means. Raises ValueError as `to_model_config`."""
    settings = _settings_in(data, pt_model, training) | read_overrides(overrides, [TrainingConfig])
    return canonical_config(TrainingConfig, settings, model=model)


def to_inference_config(
    model: ModelConfig,
    data: client.DataConfig,
    inference: client.InferenceConfig,
    overrides: Mapping[str, Any] | None = None,
) -> InferenceConfig:
    """The canonical inference with a canonical model that a client means.

    overrides: must name model_path and test_data_file, which no client class holds
    Raises ValueError as `to_model_config`, and when one of the paths is missing.
    """
    settings = _settings_in(data, inference) | read_overrides(overrides, [InferenceConfig])
    for name in ("model_path", "test_data_file"):
        if settings.get(name) is None:
            raise ValueError(f"{name} is required: give it in overrides, because no client configuration holds it.")
    return canonical_config(InferenceConfig, settings, model=model)


def to_execution_config(
    training: client.TrainingConfig, overrides: Mapping[str, Any] | None = None
) -> PyTorchExecutionConfig:
    """The runtime settings that a client's training means. Raises ValueError as `to_model_config`.

    The client writes device "cuda" and strategy "ddp_spawn" whatever machine it is on and however many processes there
    are, so the two mean "auto".
    """
    settings = _settings_in(training)
    settings |= {"accelerator": "auto"} if training.device == "cuda" else {}
    settings |= {"strategy": "auto"} if training.strategy == "ddp_spawn" else {}
    return canonical_config(PyTorchExecutionConfig, settings | read_overrides(overrides, [PyTorchExecutionConfig]))
