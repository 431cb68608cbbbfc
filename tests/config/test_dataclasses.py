"""The configuration that clients build: what it holds, what it refuses and when."""

import copy
import dataclasses
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from ptycho.config.config import (
    InferenceConfig,
    ModelConfig,
    PyTorchExecutionConfig,
    TrainingConfig,
    validate_inference_config,
    validate_model_config,
    validate_training_config,
)
from ptycho.config.execution import resolve_accelerator


def inference_config(**values):
    return InferenceConfig(**{"model": ModelConfig(), "model_path": Path("m"), "test_data_file": Path("t"), **values})


CONFIGS = [
    ModelConfig(),
    TrainingConfig(model=ModelConfig(N=32)),
    inference_config(n_groups=3),
    PyTorchExecutionConfig(accelerator="cpu"),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_a_configuration_survives_pickling_copying_and_rebuilding(config):
    assert pickle.loads(pickle.dumps(config)) == config
    assert copy.deepcopy(config) == config
    assert dataclasses.replace(config) == config
    assert {field.name for field in dataclasses.fields(config)} == set(dataclasses.asdict(config))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_every_option_explains_itself(config):
    required = {"model", "model_path", "test_data_file"}
    silent = {f.name for f in dataclasses.fields(config) if not f.metadata.get("help")}
    assert silent <= required


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ModelConfig, {"N": 64, "gridsize": 1, "model_type": "pinn", "architecture": "cnn", "n_filters_scale": 2,
                       "amp_activation": "sigmoid", "object_big": True, "probe_mask": False, "probe_scale": 4.0}),
        (TrainingConfig, {"batch_size": 16, "nepochs": 50, "nll_weight": 1.0, "mae_weight": 0.0, "nphotons": 1e9,
                          "neighbor_count": 4, "backend": "pytorch", "torch_loss_mode": "poisson",
                          "scheduler": "Default", "output_dir": Path("training_outputs"), "plateau_min_lr": 5e-5}),
        (InferenceConfig, {"n_groups": None, "debug": False, "output_dir": Path("inference_outputs")}),
        (PyTorchExecutionConfig, {"accelerator": "auto", "devices": 1, "deterministic": True, "learning_rate": 1e-3,
                                  "early_stop_patience": 100, "logger_backend": "csv", "middle_trim": 0}),
    ],
)  # fmt: skip
def test_defaults_are_those_that_clients_know(config, expected):
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    assert {name: defaults[name] for name in expected} == expected


def test_a_model_is_built_before_its_size_is_known():
    config = TrainingConfig(model=ModelConfig(N=0))
    with pytest.raises(ValueError, match=r"model\.N = 0"):
        validate_training_config(config)
    config.model.N = 64
    validate_training_config(config)


def test_unset_n_groups_becomes_512_for_training_and_stays_unset_for_inference():
    assert TrainingConfig(model=ModelConfig()).n_groups == 512
    assert inference_config().n_groups is None


@pytest.mark.parametrize("build", [lambda **v: TrainingConfig(model=ModelConfig(), **v), inference_config])
def test_n_images_is_a_deprecated_name_of_n_groups(build):
    with pytest.warns(DeprecationWarning, match="use n_groups") as caught:
        config = build(n_images=77)
    assert caught[0].filename == __file__
    assert config == build(n_groups=77)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dataclasses.replace(config, n_groups=5).n_groups == 5
        assert pickle.loads(pickle.dumps(config)) == config


def test_n_images_that_contradicts_n_groups_is_refused():
    with pytest.warns(DeprecationWarning):
        config = TrainingConfig(model=ModelConfig(), n_groups=5, n_images=6)
    with pytest.raises(ValueError, match="n_images = 6: contradicts n_groups = 5"):
        validate_training_config(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [("N", 0), ("N", 64.0), ("N", True), ("gridsize", 0), ("model_type", "magic"), ("architecture", "cmn"),
     ("probe_scale", 0.0), ("probe_mask", None), ("gaussian_smoothing_sigma", -1.0), ("probe_mask_diameter", 0.0)],
)  # fmt: skip
def test_a_model_value_that_cannot_work_is_named(field, value):
    config = ModelConfig(**{field: value})
    with pytest.raises(ValueError, match=f"^{field} = {value!r}: must be "):
        validate_model_config(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [("batch_size", 0), ("nepochs", -1), ("nphotons", float("inf")), ("nphotons", "1e9"), ("backend", "jax"),
     ("neighbor_count", 0), ("scheduler", "Cosine"), ("adam_beta1", 1.0), ("plateau_factor", 1.0),
     ("lr_min_ratio", 1.5), ("output_dir", 3), ("n_groups", 0), ("subsample_seed", -1)],
)  # fmt: skip
def test_a_training_value_that_cannot_work_is_named(field, value):
    config = TrainingConfig(**{"model": ModelConfig(), field: value})
    with pytest.raises(ValueError, match=f"^{field} = {value!r}: must be "):
        validate_training_config(config)


def test_all_problems_are_told_at_once():
    config = TrainingConfig(model=ModelConfig(N=0, architecture="cmn"), batch_size=0, backend="torch")
    with pytest.raises(ValueError, match="invalid") as caught:
        validate_training_config(config)
    for part in ("model.N = 0", "model.architecture = 'cmn'", "Did you mean 'cnn'?", "batch_size = 0", "'torch'"):
        assert part in str(caught.value)


def test_a_group_needs_enough_neighbours():
    wide = ModelConfig(gridsize=3)
    with pytest.raises(ValueError, match=r"neighbor_count = 4: .* at least 8"):
        validate_training_config(TrainingConfig(model=wide))
    with pytest.raises(ValueError, match=r"neighbor_pool_size = 7: .* at least 8"):
        validate_inference_config(inference_config(model=wide, neighbor_count=8, neighbor_pool_size=7))
    validate_inference_config(inference_config(model=wide, neighbor_count=8))


def test_a_training_without_any_loss_is_refused():
    with pytest.raises(ValueError, match="every loss weight is 0"):
        validate_training_config(TrainingConfig(model=ModelConfig(), nll_weight=0.0))


def test_an_n_groups_that_was_taken_away_is_refused():
    config = TrainingConfig(model=ModelConfig())
    config.n_groups = None
    with pytest.raises(ValueError, match="n_groups = None"):
        validate_training_config(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [("accelerator", "gpus"), ("devices", 0), ("devices", "all"), ("strategy", "dpp"), ("deterministic", "wran"),
     ("precision", "64"), ("gradient_clip_val", -1.0), ("accum_steps", 0), ("num_workers", -1),
     ("learning_rate", 0.0), ("learning_rate", float("nan")), ("checkpoint_save_top_k", -2),
     ("checkpoint_mode", "best"), ("early_stop_patience", 0), ("logger_backend", "cvs"),
     ("inference_batch_size", 0), ("middle_trim", -1), ("pad_eval", 1)],
)  # fmt: skip
def test_an_execution_value_that_cannot_work_is_refused_when_built(field, value):
    with pytest.raises(ValueError, match=f"{field} = {value!r}: must be "):
        PyTorchExecutionConfig(**{"accelerator": "cpu", field: value})


def test_a_tpu_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"accelerator = 'tpu': .*complex"):
        PyTorchExecutionConfig(accelerator="tpu")


@pytest.mark.parametrize(("field", "value"), [("persistent_workers", True), ("prefetch_factor", 2)])
def test_worker_settings_need_workers(field, value):
    with pytest.raises(ValueError, match=f"{field} = {value}: .*num_workers"):
        PyTorchExecutionConfig(accelerator="cpu", **{field: value})
    assert getattr(PyTorchExecutionConfig(accelerator="cpu", num_workers=1, **{field: value}), field) == value


def test_auto_becomes_a_device_that_this_machine_has():
    import torch

    expected = "cuda" if torch.cuda.device_count() else "cpu"
    assert PyTorchExecutionConfig().accelerator == expected
    assert [resolve_accelerator(name) for name in ("cpu", "gpu", "cuda", "mps")] == ["cpu", "gpu", "cuda", "mps"]


def loaded_modules(statement):
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_configuration_loads_nothing_heavy():
    heavy = {"torch", "lightning", "numpy", "pydantic", "h5py", "scipy", "matplotlib"}
    assert not loaded_modules("import ptycho.config.config, ptycho.params") & heavy


def test_auto_means_cpu_without_torch():
    blocked = "import sys; sys.modules['torch'] = None; import importlib.util as u; u.find_spec = lambda name: None\n"
    code = "from ptycho.config.config import PyTorchExecutionConfig as E; assert E().accelerator == 'cpu'"
    loaded_modules(blocked + code)


def test_a_machine_without_gpu_files_is_told_without_loading_torch():
    code = (
        "import ptycho.config.execution as e; e._GPU_DEVICE_FILES = ()\n"
        "assert e.PyTorchExecutionConfig().accelerator == 'cpu'"
    )
    if sys.platform == "linux":
        assert "torch" not in loaded_modules(code)
