"""The legacy dictionary: how the fields of a configuration are called in `ptycho.params.cfg`."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

# The one table: field → legacy key. A field that is not here keeps its name.
LEGACY_KEYS = {
    "object_big": "object.big",
    "probe_big": "probe.big",
    "probe_mask": "probe.mask",
    "probe_trainable": "probe.trainable",
    "intensity_scale_trainable": "intensity_scale.trainable",
    "positions_provided": "positions.provided",
    "output_dir": "output_prefix",
    "train_data_file": "train_data_file_path",
    "test_data_file": "test_data_file_path",
}


def dataclass_to_legacy_dict(config: Any) -> dict[str, Any]:
    """The fields of a configuration under their legacy keys: `model` flattened, paths as text, None kept.

    Raises TypeError for anything that is not an instance of a dataclass.
    """
    if not is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"{config!r} is not a configuration: an instance of a configuration dataclass is needed.")
    values: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            values.update(dataclass_to_legacy_dict(value))
        else:
            values[LEGACY_KEYS.get(field.name, field.name)] = str(value) if isinstance(value, PurePath) else value
    return values


def update_legacy_dict(cfg: MutableMapping[str, Any], config: Any) -> None:
    """Write a configuration into a legacy dictionary, for older programs to read. None leaves a key as it is.

    Raises TypeError for runtime settings (PyTorchExecutionConfig), which never belong there, and for no configuration.
    """
    if getattr(config, "runtime_only", False):
        raise TypeError(f"{type(config).__name__} says how to run, not what: it is never written to the legacy dict.")
    cfg.update({key: value for key, value in dataclass_to_legacy_dict(config).items() if value is not None})
