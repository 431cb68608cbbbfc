"""Dispatch to the backend: the legacy dictionary first, then the check, then the call."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ptycho import params
from ptycho.config.config import InferenceConfig, ModelConfig, TrainingConfig
from ptycho.workflows.backend_selector import (
    load_inference_bundle_with_backend,
    run_cdi_example_with_backend,
    train_cdi_model_with_backend,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _clean_dictionary():
    before = dict(params.cfg)
    params.cfg.clear()
    yield
    params.cfg.clear()
    params.cfg.update(before)


@pytest.fixture
def workflows(monkeypatch):
    """A small backend that answers with what it was given and what the legacy dictionary held."""
    module = ModuleType("ptycho_torch.workflows.components")
    module.run_cdi_example = lambda train, test, config, **more: (train, test, {"N": params.cfg["N"], **more})
    module.train_cdi_model = lambda train, test, config: {"loss": 0.5, "data": (train, test)}
    module.load_inference_bundle = lambda folder, **more: ("model", {"folder": folder, "N": params.cfg["N"], **more})
    monkeypatch.setitem(sys.modules, "ptycho_torch.workflows", ModuleType("ptycho_torch.workflows"))
    monkeypatch.setitem(sys.modules, "ptycho_torch.workflows.components", module)
    return module


def training(**values):
    return TrainingConfig(model=ModelConfig(N=32), **values)


def test_running_an_example_fills_the_dictionary_first_and_names_the_backend(workflows):
    amplitude, phase, results = run_cdi_example_with_backend("train", "test", training(), flip_x=True)
    assert (amplitude, phase) == ("train", "test")
    assert results == {"N": 32, "flip_x": True, "backend": "pytorch"}


def test_training_names_the_backend(workflows):
    results = train_cdi_model_with_backend("train", None, training())
    assert results == {"loss": 0.5, "data": ("train", None), "backend": "pytorch"}


def test_loading_a_bundle_fills_the_dictionary_first(workflows):
    config = InferenceConfig(model=ModelConfig(N=48), model_path=Path("m"), test_data_file=Path("t"))
    model, found = load_inference_bundle_with_backend("folder", config, model_name="autoencoder")
    assert model == "model"
    assert found == {"folder": Path("folder"), "N": 48, "model_name": "autoencoder"}


@pytest.mark.parametrize(
    "call",
    [
        lambda config: run_cdi_example_with_backend(None, None, config),
        lambda config: train_cdi_model_with_backend(None, None, config),
        lambda config: load_inference_bundle_with_backend("folder", config),
    ],
)
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "PyTorch", None])
def test_another_backend_is_refused_after_the_dictionary_was_filled(call, backend):
    with pytest.raises(ValueError, match=f"backend = {backend!r}: .*set backend = 'pytorch'"):
        call(training(backend=backend))
    assert params.cfg["N"] == 32


BLOCK_TORCH = """
import importlib.util, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name="torch")
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "torch" else find(name, package)
sys.meta_path.insert(0, Blocked())
"""


def said_without_torch(code):
    done = subprocess.run([sys.executable, "-c", BLOCK_TORCH + code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_ptycho_torch_without_torch_says_what_to_install():
    said = said_without_torch(
        "try:\n    import ptycho_torch\nexcept RuntimeError as error:\n    print(error)\nelse:\n    raise SystemExit(1)"
    )
    assert "PyTorch 2.2 or newer" in said
    assert "pip install" in said


def test_the_backend_without_torch_says_that_it_was_selected_and_how_to_install_it():
    said = said_without_torch(
        "from ptycho.config.config import ModelConfig, TrainingConfig\n"
        "from ptycho.workflows.backend_selector import train_cdi_model_with_backend as train\n"
        "try:\n    train(None, None, TrainingConfig(model=ModelConfig()))\n"
        "except RuntimeError as error:\n    print(error)\n"
    )
    assert said.startswith("PyTorch backend selected")
    assert "pip install" in said


def test_a_package_that_the_backend_lacks_is_named(monkeypatch):
    def without_lightning(name):
        raise ModuleNotFoundError("No module named 'lightning'", name="lightning")

    monkeypatch.setattr("ptycho.workflows.backend_selector.import_module", without_lightning)
    with pytest.raises(RuntimeError, match=r"PyTorch backend selected, but lightning .*pip install"):
        train_cdi_model_with_backend(None, None, training())


def test_a_fault_of_our_own_is_not_blamed_on_the_installation(monkeypatch):
    def broken(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("ptycho.workflows.backend_selector.import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="ptycho_torch"):
        train_cdi_model_with_backend(None, None, training())
