"""The client's model file, `.ckpt`: a trained model with the configuration it was trained with.

torch's own archive, written and read without pickled objects: tensors, numbers and texts alone.
"""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ptycho.errors import ModelError
from ptycho.whole_file import whole_file
from ptycho_torch import config_params as client
from ptycho_torch.pinn.bundle import from_parts, to_parts
from ptycho_torch.pinn.trained import TrainedModel

FORMAT = "ptychopinn-checkpoint"
SUFFIX = ".ckpt"

_CLASSES: dict[str, type[Any]] = {
    "data": client.DataConfig,
    "model": client.ModelConfig,
    "training": client.TrainingConfig,
    "inference": client.InferenceConfig,
}


@dataclass(frozen=True, kw_only=True)
class ClientConfigs:
    """The four configurations that a client's model is kept with."""

    data: client.DataConfig
    model: client.ModelConfig
    training: client.TrainingConfig
    inference: client.InferenceConfig


def write_checkpoint(path: Path, model: TrainedModel, configs: ClientConfigs) -> None:
    """Write the file whole or not at all. Raises WorkError when the disk refuses it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts, weights = to_parts(model)
    content = {
        "format": FORMAT,
        "manifest": facts,
        "configs": {name: asdict(getattr(configs, name)) for name in _CLASSES},
        "state_dict": weights,
    }
    with whole_file(path) as partial:
        torch.save(content, partial)


def read_checkpoint(path: Path) -> tuple[TrainedModel, ClientConfigs]:
    """The model and its configurations; nothing is unpickled. Raises ModelError for a missing or foreign file."""
    if not path.is_file():
        raise ModelError(f"{path} does not exist; give the {SUFFIX} file of a training.")
    try:
        # What is no zip archive torch would take for its older format, a bare pickle.
        if not zipfile.is_zipfile(path):
            raise EOFError("not a complete archive")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds objects of another program, which can run code when loaded; it is not opened."
            " Train a model with this program."
        ) from error
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{path} cannot be read as a model ({reason}); copy it again.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelError(f"{path} is no model of this program; train a model with it.")
    try:
        configs = ClientConfigs(**{name: kind(**content["configs"][name]) for name, kind in _CLASSES.items()})
        manifest, weights = content["manifest"], content["state_dict"]
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path} holds configurations that this version does not know ({error}).") from error
    return from_parts(manifest, weights, path), configs
