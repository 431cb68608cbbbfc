"""The model bundle: a trained model in one zip archive, `wts.h5.zip`, JSON and safetensors inside."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ptycho.config.config import ModelConfig, validate_model_config
from ptycho.errors import ModelError
from ptycho.whole_file import whole_file
from ptycho_torch.pinn.card import ModelCard
from ptycho_torch.pinn.network import PtychoNetwork
from ptycho_torch.pinn.trained import TrainedModel

ARCHIVE_NAME = "wts.h5.zip"
MANIFEST_NAME = "manifest.json"
WEIGHTS_NAME = "weights.safetensors"
# The first is the generator alone, the second the whole map from counts to patches; both come from the same weights.
MODELS = ("autoencoder", "diffraction_to_obj")
VERSION = "1"

# A bundle is a few MB. What claims to be far larger is broken or was made to fill the memory.
LARGEST_MANIFEST = 16 * 2**20
LARGEST_WEIGHTS = 4 * 2**30
_FOREIGN_SUFFIXES = (".dill", ".pkl", ".pickle", ".keras", ".h5", ".pb")


def save_bundle(model: TrainedModel, directory: Path) -> Path:
    """Write the model to `wts.h5.zip` in a directory, whole or not at all. Returns the archive's path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ARCHIVE_NAME
    facts, weights = to_parts(model)
    manifest = json.dumps(facts, indent=1)
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, content in ((MANIFEST_NAME, manifest.encode()), (WEIGHTS_NAME, save(weights))):
            # A fixed time stamp: the same model gives the same bytes.
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


def load_bundle(path: Path) -> TrainedModel:
    """The model in an archive, in a directory that holds `wts.h5.zip`, or in a directory of its unpacked contents.

    Raises ModelError when there is none, or when it is broken or from another program. Nothing is unpickled.
    """
    manifest_bytes, weights_bytes = _read_members(path)
    try:
        manifest, weights = json.loads(manifest_bytes), load(weights_bytes)
    except (ValueError, SafetensorError) as error:
        raise _unusable(path, error) from error
    return from_parts(manifest, weights, path)


def to_parts(model: TrainedModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A model as JSON-like facts and as tensors on the CPU, from which `from_parts` makes it again, exactly."""
    weights = {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()}
    return _manifest(model), weights


def from_parts(manifest: dict[str, Any], weights: dict[str, Tensor], source: Path) -> TrainedModel:
    """The model of these parts. source: the file they are from. Raises ModelError when they make no model."""
    try:
        config = _model_config(manifest["config"]["model"])
        network = _empty_network(config, weights, float(manifest["config"]["mean_photons"]))
        network.load_state_dict(weights)
        network.window = int(manifest["config"]["window"])
        metrics, history = manifest["config"]["metrics"], manifest["config"]["history"]
        card = manifest["config"].get("card")
        known = None if card is None else ModelCard.from_json(card)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _unusable(source, error) from error
    return TrainedModel(network.eval(), metrics, history, known)


def _unusable(path: Path, error: Exception) -> ModelError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ModelError(f"{path} holds no usable model ({reason}); train it again or copy it again.")


def _manifest(model: TrainedModel) -> dict[str, Any]:
    config = model.config
    return {
        "models": list(MODELS),
        "version": VERSION,
        "backend": "pytorch",
        "config": {
            "N": config.N,
            "gridsize": config.gridsize,
            "architecture": config.architecture,
            "model": asdict(config),
            "mean_photons": model.network.mean_photons,
            "window": model.window,
            "metrics": model.metrics,
            "history": model.history,
            "card": None if model.card is None else asdict(model.card),
        },
    }


def _model_config(values: dict[str, Any]) -> ModelConfig:
    known = {field.name for field in fields(ModelConfig)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"unknown model options {', '.join(unknown)}")
    config = ModelConfig(**values)
    validate_model_config(config)
    return config


def _empty_network(config: ModelConfig, weights: dict[str, Tensor], mean_photons: float) -> PtychoNetwork:
    """A network of the right shapes around the stored probe, which the stored weights then overwrite."""
    probe = torch.view_as_complex(weights["probe_parts"].contiguous()).numpy()
    mask = weights.get("mask")
    good = None if mask is None else np.fft.fftshift(mask.numpy() > 0)
    return PtychoNetwork(config, probe, mean_photons, good)


def _read_members(path: Path) -> tuple[bytes, bytes]:
    if path.is_dir() and (path / ARCHIVE_NAME).is_file():
        path = path / ARCHIVE_NAME
    if path.is_dir():
        return _read_unpacked(path)
    if not path.is_file():
        raise ModelError(f"{path} does not exist; give a {ARCHIVE_NAME} or the directory that holds one.")
    try:
        with zipfile.ZipFile(path) as archive:
            _require_ours(path, archive.namelist())
            return _read_member(archive, MANIFEST_NAME, LARGEST_MANIFEST), _read_member(
                archive, WEIGHTS_NAME, LARGEST_WEIGHTS
            )
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"{path} cannot be read as a model archive ({error}); copy it again.") from error


def _read_unpacked(directory: Path) -> tuple[bytes, bytes]:
    _require_ours(directory, [str(found.relative_to(directory)) for found in directory.rglob("*") if found.is_file()])
    try:
        for name, largest in ((MANIFEST_NAME, LARGEST_MANIFEST), (WEIGHTS_NAME, LARGEST_WEIGHTS)):
            if (directory / name).stat().st_size > largest:
                raise ModelError(f"{directory / name} is larger than {largest} bytes: not a model of ours.")
        return (directory / MANIFEST_NAME).read_bytes(), (directory / WEIGHTS_NAME).read_bytes()
    except OSError as error:
        raise ModelError(f"{directory} cannot be read ({error.strerror}); check its files and permissions.") from error


def _require_ours(path: Path, names: list[str]) -> None:
    foreign = next((name for name in names if name.endswith(_FOREIGN_SUFFIXES)), None)
    if MANIFEST_NAME in names and WEIGHTS_NAME in names and foreign is None:
        return
    if foreign is not None:
        raise ModelError(
            f"{path} holds {foreign}, a model of another program in a format that can run code when loaded;"
            " it is not opened. Train a model with this program."
        )
    raise ModelError(f"{path} holds no model: {MANIFEST_NAME} and {WEIGHTS_NAME} are expected. Train a model first.")


def _read_member(archive: zipfile.ZipFile, name: str, largest: int) -> bytes:
    """A member's bytes, never more than `largest`, whatever its header says."""
    with archive.open(name) as member:
        content = member.read(largest + 1)
    if len(content) > largest:
        raise ModelError(f"{archive.filename}: {name} is larger than {largest} bytes: not a model of ours.")
    return content
