"""The dispatch's PyTorch side, from scan to image and back from the archive."""

import numpy as np
import pytest

from ptycho import params
from ptycho.config.config import InferenceConfig, ModelConfig, TrainingConfig
from ptycho.config.simulate import SimulateConfig
from ptycho.workflows.backend_selector import load_inference_bundle_with_backend, run_cdi_example_with_backend
from ptycho_torch.simulate import simulate_scan


@pytest.fixture(autouse=True)
def _clean_dictionary():
    before = dict(params.cfg)
    yield
    params.cfg.clear()
    params.cfg.update(before)


def test_training_an_example_gives_an_image_on_the_scans_grid_and_an_archive_that_loads(tmp_path):
    scan = simulate_scan(SimulateConfig(n_positions=64, patch_size=32, step_px=4, jitter_px=1))
    model = ModelConfig(N=32, n_filters_scale=1)
    config = TrainingConfig(model=model, nepochs=1, n_groups=64, output_dir=tmp_path / "model")

    amplitude, phase, results = run_cdi_example_with_backend(scan, scan, config)

    assert amplitude.shape == phase.shape == scan.grid.shape
    assert results["backend"] == "pytorch"
    # The gauge: the probe has the photons that were counted, so the object's amplitude lies around 1.
    assert np.median(amplitude[results["coverage"] > 0]) == pytest.approx(1, abs=0.1)
    inference = InferenceConfig(model=ModelConfig(N=32), model_path=tmp_path / "model", test_data_file=tmp_path)
    loaded, found = load_inference_bundle_with_backend(tmp_path / "model", inference)
    assert found["N"] == 32
    assert loaded.window == results["model"].window
