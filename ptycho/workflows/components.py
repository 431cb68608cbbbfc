"""Training, saving and reloading as older programs call them; what is computed is computed by the backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho import model_manager, params
from ptycho.config.config import PyTorchExecutionConfig, TrainingConfig, update_legacy_dict
from ptycho.raw_data import RawData
from ptycho.whole_file import whole_file
from ptycho.workflows.backend_selector import load_backend
from ptycho.workflows.keywords import require_supported

Image = NDArray[np.float32]


def run_cdi_example(
    train_data: RawData,
    test_data: RawData | None,
    config: TrainingConfig,
    execution_config: PyTorchExecutionConfig | None = None,
) -> tuple[Image | None, Image | None, dict[str, Any]]:
    """Train on one scan and reconstruct the other: amplitude and phase (y, x), None without one, and results.

    The trained model is what `ptycho.model_manager.save` saves afterwards. Raises ValueError for settings that cannot
    be followed, DataError and ModelError for data that do not fit.
    """
    require_supported(config)
    update_legacy_dict(params.cfg, config)
    test = None if test_data is None else test_data.scan
    backend = load_backend(config.backend)
    amplitude, phase, results = backend.run_client_example(train_data.scan, test, config, execution_config)
    model_manager.remember(results["model"])
    return amplitude, phase, {**results, "backend": config.backend}


def save_outputs(amplitude: Image | None, phase: Image | None, results: dict[str, Any], output_prefix: str) -> None:
    """Write reconstruction.npz (amplitude, phase; where there is an image) and training.json (metrics, history)."""
    folder = Path(output_prefix)
    folder.mkdir(parents=True, exist_ok=True)
    if amplitude is not None and phase is not None:
        with whole_file(folder / "reconstruction.npz") as partial, partial.open("wb") as file:
            np.savez_compressed(file, amplitude=amplitude, phase=phase)
    story = {name: results[name] for name in ("backend", "metrics", "history") if name in results}
    with whole_file(folder / "training.json") as partial:
        partial.write_text(json.dumps(story, indent=1) + "\n")


def load_inference_bundle(bundle_dir: str | Path) -> tuple[Any, dict[str, Any]]:
    """The model, with `predict`, and its configuration, from a folder with wts.h5.zip or with its unpacked contents.

    Fills `intensity_scale` of the legacy dictionary. Raises ModelError.
    """
    model, config = load_backend("pytorch").load_inference_bundle(Path(bundle_dir))
    model_manager.remember(model)
    return model, config
