"""Every keyword that ptychodus sends is followed, refused, or listed in docs/clients.md with the reason."""

from dataclasses import fields
from pathlib import Path

from ptycho.workflows import keywords as tf
from ptycho_torch.api import keywords as torch
from tests.clients.ptychodus_configs import tf_inference, tf_model, tf_training, torch_configs

DOCUMENT = Path(__file__).parents[2] / "docs" / "clients.md"

# What reaches training or inference; tests of the two libraries and of the bridge see that it does.
FOLLOWED_TF = {
    "ModelConfig": {
        "N", "gridsize", "n_filters_scale", "model_type", "object_big", "probe_big", "probe_mask",
        "gaussian_smoothing_sigma",
    },
    "TrainingConfig": {
        "model", "batch_size", "nepochs", "mae_weight", "nll_weight", "realspace_mae_weight", "realspace_weight",
        "probe_trainable", "intensity_scale_trainable",
    },
}  # fmt: skip
FOLLOWED_TORCH = {
    "DataConfig": {"C", "K", "grid_size", "n_subsample", "x_bounds", "y_bounds"},
    "ModelConfig": {
        "mode", "object_big", "probe_big", "loss_function", "intensity_scale_trainable", "C_model", "C_forward",
        "n_filters_scale",
    },
    "TrainingConfig": {
        "epochs", "batch_size", "learning_rate", "accum_steps", "gradient_clip_val", "nll", "device", "scheduler",
        "warmup_epochs", "min_lr_ratio",
    },
    "InferenceConfig": {"batch_size", "middle_trim", "patch_weighting"},
}  # fmt: skip
# Keywords of ptychodus alone; the canonical classes have further fields, which no client sends.
SENT_TF = {
    "ModelConfig": {
        "N", "gridsize", "n_filters_scale", "model_type", "amp_activation", "object_big", "probe_big", "probe_mask",
        "pad_object", "probe_scale", "gaussian_smoothing_sigma",
    },
    "TrainingConfig": {
        "model", "train_data_file", "test_data_file", "batch_size", "nepochs", "mae_weight", "nll_weight",
        "realspace_mae_weight", "realspace_weight", "nphotons", "positions_provided", "probe_trainable",
        "intensity_scale_trainable", "output_dir",
    },
    "InferenceConfig": {"model", "model_path", "test_data_file", "debug", "output_dir"},
}  # fmt: skip


def test_every_keyword_of_the_first_library_is_in_exactly_one_list():
    for config in (tf_model(), tf_training(tf_model()), tf_inference(tf_model())):
        name = type(config).__name__
        assert {field.name for field in fields(config)} >= SENT_TF[name]
        require_one_list(name, SENT_TF[name], tf, FOLLOWED_TF)


def test_every_keyword_of_the_second_library_is_in_exactly_one_list():
    for config in torch_configs():
        require_one_list(type(config).__name__, {field.name for field in fields(config)}, torch, FOLLOWED_TORCH)


def test_the_document_has_every_list():
    text = DOCUMENT.read_text()
    for table in tables().values():
        assert table in text


def require_one_list(config, keywords, module, followed):
    for keyword in keywords:
        name = f"{config}.{keyword}"
        places = [name in module.WITHOUT_EFFECT, name in module.REFUSED, keyword in followed.get(config, ())]
        assert sum(places) == 1, f"{name} is in {sum(places)} lists"


def tables():
    """Mark → rows of each table of the document, from the lists in the code."""
    values = {name: (value, why) for name, (value, why) in tf.REFUSED.items()}
    values |= {name: (repr(allowed[0]), why) for name, (allowed, why) in torch.REFUSED.items()}
    return {
        "WITHOUT_TF": rows(tf.WITHOUT_EFFECT),
        "WITHOUT_TORCH": rows(torch.WITHOUT_EFFECT),
        "REFUSED": "\n".join(f"| `{name}` | `{value}` | {why} |" for name, (value, why) in values.items()),
    }


def rows(reasons):
    return "\n".join(f"| `{name}` | {why} |" for name, why in reasons.items())
