"""From a configuration to the numerical library that it names: PyTorch, the only one there is."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from ptycho import params
from ptycho.config.config import InferenceConfig, TrainingConfig, update_legacy_dict

_WORKFLOWS = "ptycho_torch.workflows.components"
_INSTALL = 'Install it with: pip install "ptychopinn[torch]" (see https://pytorch.org for the build for your GPU).'


def run_cdi_example_with_backend(
    train_data: Any, test_data: Any, config: TrainingConfig, *args: Any, **kwargs: Any
) -> tuple[Any, Any, dict[str, Any]]:
    """Train, then reconstruct the test data: (amplitude, phase, results); no image where nothing was stitched.

    train_data, test_data: what the backend's own function takes; Any, because the backend is loaded only here
    Fills the legacy dictionary first; results["backend"] says what computed. Raises as `load_backend`.
    """
    workflows = _prepare(config)
    amplitude, phase, results = workflows.run_cdi_example(train_data, test_data, config, *args, **kwargs)
    return amplitude, phase, {**results, "backend": config.backend}


def train_cdi_model_with_backend(
    train_data: Any, test_data: Any, config: TrainingConfig, *args: Any, **kwargs: Any
) -> dict[str, Any]:
    """Train: the results, in which "backend" says what computed. Arguments and errors as above."""
    results = _prepare(config).train_cdi_model(train_data, test_data, config, *args, **kwargs)
    return {**results, "backend": config.backend}


def load_inference_bundle_with_backend(
    bundle_dir: str | Path, config: InferenceConfig | TrainingConfig, *args: Any, **kwargs: Any
) -> tuple[Any, Any]:
    """A trained model and its configuration from a folder with a model archive. Errors as above."""
    model, found = _prepare(config).load_inference_bundle(Path(bundle_dir), *args, **kwargs)
    return model, found


def load_backend(backend: str) -> Any:
    """The module with a backend's workflows.

    Raises ValueError for a backend that does not exist here, RuntimeError when PyTorch is not installed.
    """
    if backend == "tensorflow":
        raise ValueError("backend = 'tensorflow': TensorFlow is not part of this package; set backend = 'pytorch'.")
    if backend != "pytorch":
        raise ValueError(f"backend = {backend!r}: there is no such backend; set backend = 'pytorch'.")
    try:
        return import_module(_WORKFLOWS)
    except ImportError as error:
        if (error.name or "").split(".")[0] in ("ptycho", "ptycho_torch"):
            raise
        message = f"PyTorch backend selected, but {error.name} cannot be imported ({error}). {_INSTALL}"
        raise RuntimeError(message) from error
    except RuntimeError as error:
        # What importing ptycho_torch raises without torch, or with one that is too old.
        raise RuntimeError(f"PyTorch backend selected, but it cannot be loaded: {error}") from error


def _prepare(config: TrainingConfig | InferenceConfig) -> Any:
    """The backend's workflows; the legacy dictionary is filled before, because older data code reads it."""
    update_legacy_dict(params.cfg, config)
    return load_backend(config.backend)
