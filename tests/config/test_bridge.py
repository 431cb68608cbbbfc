"""The client's vocabulary and the canonical one: one meaning, two names."""

import dataclasses
import pickle
from pathlib import Path

import pytest

from ptycho.config import config as canonical
from ptycho_torch import config_params as client
from ptycho_torch.config_bridge import (
    TRANSLATIONS,
    client_config,
    read_overrides,
    settings_of,
    to_execution_config,
    to_inference_config,
    to_model_config,
    to_training_config,
)

DATA = {
    "N": 128, "C": 4, "normalize": "Group", "neighbor_function": "Min_dist", "scan_pattern": "Rectangular",
    "probe_normalize": False, "x_bounds": (0.2, 0.8), "y_bounds": (0.2, 0.8), "min_neighbor_distance": 1.0,
    "max_neighbor_distance": 4.0, "K_quadrant": 20, "n_subsample": 3, "probe_scale": 2.0, "K": 6,
    "grid_size": (2, 2), "probe_ramp_removal": True, "data_scaling": "Max", "phase_subtraction": False,
}  # fmt: skip
MODEL = {
    "mode": "Supervised", "object_big": False, "probe_big": False, "loss_function": "MAE", "amp_activation": "silu",
    "cbam_encoder": False, "decoder_last_amp_channels": 4, "use_shared_decoder": True,
    "intensity_scale_trainable": False, "intensity_scale": 5.0, "max_position_jitter": 3, "num_datasets": 2,
    "C_model": 4, "C_forward": 4, "amp_loss": "Total_Variation", "phase_loss": "Mean_Deviation",
    "amp_loss_coeff": 0.5, "phase_loss_coeff": 0.5, "n_filters_scale": 4, "probe_mask": None, "eca_decoder": True,
    "batch_norm": True, "edge_pad": 5, "decoder_last_c_outer_fraction": 0.25, "cbam_bottleneck": True,
    "cbam_decoder": True, "spatial_decoder": True, "decoder_spatial_kernel": 3, "eca_encoder": True, "offset": 4,
    "probe_reference_coeff": 0.1, "amplitude_variance_loss": True, "amplitude_variance_coeff": 0.1,
}  # fmt: skip
TRAINING = {
    "epochs": 3, "batch_size": 8, "learning_rate": 2e-3, "n_devices": 1, "num_workers": 4, "accum_steps": 2,
    "epochs_fine_tune": 1, "fine_tune_gamma": 0.2, "gradient_clip_val": 0.0, "nll": True, "device": "cuda",
    "strategy": "ddp_spawn", "framework": "Lightning", "orchestrator": "Lightning", "scheduler": "Cosine",
    "warmup_epochs": 2, "min_lr_ratio": 0.2, "notes": "a", "model_name": "b", "enable_staged_finetuning": True,
    "finetune_stage1_epochs": 1, "finetune_stage2_epochs": 1, "finetune_stage3_epochs": 1,
    "finetune_stage1_lr_decoder": 0.1, "finetune_stage2_lr_encoder_top": 0.1, "finetune_stage2_lr_decoder": 0.1,
    "finetune_stage2_lr_phase_head": 0.1, "finetune_stage3_lr_encoder_bottom": 0.1,
    "finetune_stage3_lr_encoder_top": 0.1, "finetune_stage3_lr_decoder": 0.1, "finetune_stage3_lr_phase_head": 0.1,
    "finetune_skip_stage3": False, "finetune_early_stop_patience": 1, "finetune_val_split": 0.1,
}  # fmt: skip
INFERENCE = {"batch_size": 9, "middle_trim": 8, "experiment_number": 1, "patch_weighting": "uniform",
             "pad_eval": False, "window": 5}  # fmt: skip
CLIENT = [(client.DataConfig, DATA, 18), (client.ModelConfig, MODEL, 33), (client.TrainingConfig, TRAINING, 34),
          (client.InferenceConfig, INFERENCE, 6), (client.DatagenConfig, {}, 0)]  # fmt: skip


def values(config):
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


@pytest.mark.parametrize(("config", "keywords", "n"), CLIENT, ids=lambda part: getattr(part, "__name__", ""))
def test_a_client_class_takes_exactly_the_keywords_that_the_client_passes(config, keywords, n):
    made = config(**keywords)
    assert len(keywords) == n
    assert values(made) == keywords
    assert pickle.loads(pickle.dumps(made)) == made
    assert config() == config()


def test_client_objects_are_mutable():
    training = client.TrainingConfig(**TRAINING)
    training.n_devices = 2
    assert training.n_devices == 2


def test_defaults_of_the_two_vocabularies_agree():
    canonical_defaults = {
        field.name: field.default
        for config in (canonical.ModelConfig, canonical.TrainingConfig, canonical.PyTorchExecutionConfig)
        for field in dataclasses.fields(config)
    }
    runtime = {"inference_batch_size", "middle_trim", "pad_eval"}  # the client's inference differs; execution wins
    for row in TRANSLATIONS:
        if row.setting not in runtime:
            assert row.to_setting(getattr(row.config(), row.name)) == canonical_defaults[row.setting], row.name


def test_one_word_that_means_two_things_is_no_setting_of_the_client():
    canonical_names = {f.name for f in dataclasses.fields(canonical.TrainingConfig)}
    shared = {f.name for f in dataclasses.fields(client.DataConfig)} & canonical_names
    assert shared == {"n_subsample"}
    assert "n_subsample" not in settings_of(client.DataConfig)
    assert client_config(client.DataConfig, {"n_subsample": 99}).n_subsample == client.DataConfig.n_subsample


def test_a_client_model_becomes_a_canonical_one():
    model = to_model_config(client.DataConfig(**DATA), client.ModelConfig(**MODEL))
    expected = {"N": 128, "gridsize": 2, "model_type": "supervised", "amp_activation": "swish", "n_filters_scale": 4,
                "object_big": False, "probe_big": False, "probe_mask": False, "probe_scale": 2.0}  # fmt: skip
    assert {name: getattr(model, name) for name in expected} == expected
    canonical.validate_model_config(model)


def test_a_client_mask_means_that_there_is_one():
    mask = object()
    assert to_model_config(client.DataConfig(), client.ModelConfig(probe_mask=mask)).probe_mask is True
    assert client_config(client.ModelConfig, {"probe_mask": True}).probe_mask is True
    assert client_config(client.ModelConfig, {"probe_mask": False}).probe_mask is None


def test_a_client_training_becomes_a_canonical_one():
    model = canonical.ModelConfig(N=128, gridsize=2)
    training = to_training_config(
        model, client.DataConfig(**DATA), client.ModelConfig(**MODEL), client.TrainingConfig(**TRAINING),
        overrides={"n_groups": 40, "train_data_file": "a.npz", "nphotons": 5e5},
    )  # fmt: skip
    expected = {
        "model": model, "nepochs": 3, "batch_size": 8, "nll_weight": 1.0, "torch_loss_mode": "mae",
        "scheduler": "WarmupCosine", "lr_warmup_epochs": 2, "lr_min_ratio": 0.2, "gradient_clip_val": None,
        "neighbor_count": 6, "intensity_scale_trainable": False, "n_subsample": None, "n_groups": 40,
        "train_data_file": Path("a.npz"), "nphotons": 5e5,
    }  # fmt: skip
    assert {name: getattr(training, name) for name in expected} == expected
    canonical.validate_training_config(training)


def test_a_client_inference_needs_the_paths_that_it_does_not_hold():
    data, inference = client.DataConfig(**DATA), client.InferenceConfig()
    made = to_inference_config(
        canonical.ModelConfig(), data, inference, {"model_path": Path("m"), "test_data_file": "t.npz"}
    )
    assert (made.model_path, made.test_data_file, made.neighbor_count) == (Path("m"), Path("t.npz"), 6)
    with pytest.raises(ValueError, match="test_data_file is required"):
        to_inference_config(canonical.ModelConfig(), data, inference, {"model_path": Path("m")})


def test_a_client_training_on_cuda_and_spawn_runs_wherever_it_is():
    execution = to_execution_config(client.TrainingConfig(**TRAINING), {"accelerator": "cpu"})
    expected = {"accelerator": "cpu", "strategy": "auto", "learning_rate": 2e-3, "accum_steps": 2, "num_workers": 4,
                "devices": 1, "scheduler": "WarmupCosine", "gradient_clip_val": None}  # fmt: skip
    assert {name: getattr(execution, name) for name in expected} == expected
    assert to_execution_config(client.TrainingConfig(**TRAINING)).accelerator in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("data", "model", "sentence"),
    [({"grid_size": (2, 1)}, {}, r"grid_size = \(2, 1\): must be \(g, g\)"),
     ({"grid_size": (2, 2), "C": 9}, {}, r"C = 9 contradicts grid_size"),
     ({"grid_size": (2, 2), "C": 4}, {}, r"C_model = 1 contradicts grid_size.* 4 was expected"),
     ({"C": 5}, {}, "C = 5: must be gridsize × gridsize")],
)  # fmt: skip
def test_contradicting_group_sizes_are_refused(data, model, sentence):
    with pytest.raises(ValueError, match=sentence):
        to_model_config(client.DataConfig(**data), client.ModelConfig(**model))


@pytest.mark.parametrize("gridsize", [1, 2, 3])
def test_a_gridsize_sets_every_name_of_it(gridsize):
    data = client_config(client.DataConfig, {"gridsize": gridsize})
    model = client_config(client.ModelConfig, {"gridsize": gridsize})
    assert data.grid_size == (gridsize, gridsize)
    assert data.C == model.C_model == model.C_forward == gridsize**2
    assert to_model_config(data, model).gridsize == gridsize


@pytest.mark.parametrize(
    ("name", "value", "setting", "expected"),
    [("gridsize", 3, "gridsize", 3), ("grid_size", (3, 3), "gridsize", 3), ("grid_size", [3, 3], "gridsize", 3),
     ("C", 9, "gridsize", 3), ("max_epochs", 5, "nepochs", 5), ("epochs", 5, "nepochs", 5),
     ("nepochs", 5, "nepochs", 5),
     ("K", 7, "neighbor_count", 7), ("mode", "Supervised", "model_type", "supervised"),
     ("model_type", "supervised", "model_type", "supervised"), ("amp_activation", "silu", "amp_activation", "swish"),
     ("scheduler", "Cosine", "scheduler", "WarmupCosine"), ("nll", False, "nll_weight", 0.0),
     ("loss_function", "MAE", "torch_loss_mode", "mae"), ("device", "cpu", "accelerator", "cpu"),
     ("batch_size", 4, "batch_size", 4), ("cbam_encoder", False, "cbam_encoder", False),
     ("output_dir", "here", "output_dir", Path("here")), ("gradient_clip_val", 0, "gradient_clip_val", None)],
)  # fmt: skip
def test_overrides_are_understood_in_both_vocabularies(name, value, setting, expected):
    targets = [canonical.ModelConfig, canonical.TrainingConfig, canonical.PyTorchExecutionConfig,
               client.DataConfig, client.ModelConfig, client.TrainingConfig, client.InferenceConfig]  # fmt: skip
    assert read_overrides({name: value}, targets) == {setting: expected}


def test_batch_size_is_inference_s_where_nothing_is_trained():
    assert read_overrides({"batch_size": 4}, [canonical.PyTorchExecutionConfig]) == {"inference_batch_size": 4}


@pytest.mark.parametrize(
    ("name", "closest"), [("bach_size", "batch_size"), ("gridsiz", "gridsize"), ("epoch", "epochs"), ("qqqq", "")]
)
def test_an_unknown_override_is_refused_with_the_closest_name(name, closest):
    with pytest.raises(ValueError, match=f"override '{name}': there is no such setting. Did you mean '{closest}"):
        read_overrides({name: 1}, [canonical.ModelConfig, canonical.TrainingConfig])


def test_all_wrong_overrides_are_told_at_once():
    with pytest.raises(ValueError, match="gridsiz") as caught:
        read_overrides({"gridsiz": 1, "C": 5, "K": 1, "neighbor_count": 2},
                       [canonical.ModelConfig, canonical.TrainingConfig])  # fmt: skip
    assert "C = 5" in str(caught.value)
    assert "K = 1 and neighbor_count = 2: two names of one setting" in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [{"gridsize": 2, "grid_size": (2, 2), "C": 4}, {"nepochs": 3, "max_epochs": 3}, {"K": 4, "neighbor_count": None},
     {"model_type": "pinn", "mode": "Unsupervised"}],
)  # fmt: skip
def test_two_names_with_one_value_agree(overrides):
    found = read_overrides(overrides, [canonical.ModelConfig, canonical.TrainingConfig])
    assert len(found) == 1
    assert None not in found.values()


def test_an_override_of_another_class_is_unknown():
    with pytest.raises(ValueError, match="'learning_rate': there is no such setting"):
        to_model_config(client.DataConfig(), client.ModelConfig(), {"learning_rate": 1e-3})
