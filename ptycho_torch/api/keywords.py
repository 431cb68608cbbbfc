"""What ptychodus sends to `ptycho_torch`: which keywords have no effect here and why, and which are refused."""

from __future__ import annotations

from typing import Any

from ptycho.config.validation import refuse

_OTHER_NETWORK = "an option of another network's layers; ours is chosen by `n_filters_scale`"
_COUNTS = "patterns are used as the counts that they are, and the probe's power is matched to them"
_NEAREST = "a group is a pattern and some of its K nearest neighbours, however far they are"
_STAGED = "part of `enable_staged_finetuning`"
_NOTE = "a remark; it is kept in the checkpoint"

# Keyword → why it has no effect.
WITHOUT_EFFECT = {
    "DataConfig.N": "the size of the patterns is taken from the data",
    "DataConfig.normalize": _COUNTS,
    "DataConfig.scan_pattern": _NEAREST,
    "DataConfig.probe_normalize": _COUNTS,
    "DataConfig.min_neighbor_distance": _NEAREST,
    "DataConfig.max_neighbor_distance": _NEAREST,
    "DataConfig.K_quadrant": 'part of `neighbor_function = "4_quadrant"`',
    "DataConfig.probe_scale": "the probe's power is matched to the photons that were measured",
    "DataConfig.data_scaling": _COUNTS,
    "DataConfig.phase_subtraction": "the loss of supervised training leaves each patch's phase free",
    "ModelConfig.amp_activation": "the network adds a complex correction, so there is no amplitude to activate",
    "ModelConfig.cbam_encoder": _OTHER_NETWORK,
    "ModelConfig.decoder_last_amp_channels": _OTHER_NETWORK,
    "ModelConfig.use_shared_decoder": _OTHER_NETWORK,
    "ModelConfig.intensity_scale": "the intensity is measured from the patterns",
    "ModelConfig.max_position_jitter": "a group is as large as its members' positions ask for",
    "ModelConfig.amp_loss_coeff": "part of `amp_loss`",
    "ModelConfig.phase_loss_coeff": "part of `phase_loss`",
    "ModelConfig.eca_decoder": _OTHER_NETWORK,
    "ModelConfig.batch_norm": _OTHER_NETWORK,
    "ModelConfig.edge_pad": _OTHER_NETWORK,
    "ModelConfig.decoder_last_c_outer_fraction": _OTHER_NETWORK,
    "ModelConfig.cbam_bottleneck": _OTHER_NETWORK,
    "ModelConfig.cbam_decoder": _OTHER_NETWORK,
    "ModelConfig.spatial_decoder": _OTHER_NETWORK,
    "ModelConfig.decoder_spatial_kernel": _OTHER_NETWORK,
    "ModelConfig.eca_encoder": _OTHER_NETWORK,
    "ModelConfig.offset": _OTHER_NETWORK,
    "ModelConfig.amplitude_variance_coeff": "part of `amplitude_variance_loss`",
    "TrainingConfig.num_workers": "all patterns of a scan are in memory, where loading processes only cost time",
    "TrainingConfig.fine_tune_gamma": "part of `epochs_fine_tune`",
    "TrainingConfig.strategy": "there is one process",
    "TrainingConfig.notes": _NOTE,
    "TrainingConfig.model_name": _NOTE,
    "TrainingConfig.finetune_stage1_epochs": _STAGED,
    "TrainingConfig.finetune_stage2_epochs": _STAGED,
    "TrainingConfig.finetune_stage3_epochs": _STAGED,
    "TrainingConfig.finetune_stage1_lr_decoder": _STAGED,
    "TrainingConfig.finetune_stage2_lr_encoder_top": _STAGED,
    "TrainingConfig.finetune_stage2_lr_decoder": _STAGED,
    "TrainingConfig.finetune_stage2_lr_phase_head": _STAGED,
    "TrainingConfig.finetune_stage3_lr_encoder_bottom": _STAGED,
    "TrainingConfig.finetune_stage3_lr_encoder_top": _STAGED,
    "TrainingConfig.finetune_stage3_lr_decoder": _STAGED,
    "TrainingConfig.finetune_stage3_lr_phase_head": _STAGED,
    "TrainingConfig.finetune_skip_stage3": _STAGED,
    "TrainingConfig.finetune_early_stop_patience": _STAGED,
    "TrainingConfig.finetune_val_split": _STAGED,
    "InferenceConfig.experiment_number": "a reconstruction is of one scan",
    "InferenceConfig.pad_eval": "the image has exactly the pixels of the product's object",
    "InferenceConfig.window": "the image has exactly the pixels of the product's object",
}

# Keyword → the values that are followed, and why no others.
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "DataConfig.neighbor_function": (("Nearest",), "groups are made of nearest neighbours"),
    "DataConfig.probe_ramp_removal": ((False,), "a probe's ramp says where its light falls on the detector"),
    "ModelConfig.amp_loss": ((None, "None"), "there is no such loss here"),
    "ModelConfig.phase_loss": ((None, "None"), "there is no such loss here"),
    "ModelConfig.num_datasets": ((1,), "a network is trained on one scan"),
    "ModelConfig.probe_mask": ((None,), "a client's own mask is not applied; multiply the probe by it"),
    "ModelConfig.probe_reference_coeff": ((0, 0.0), "there is no such loss here"),
    "ModelConfig.amplitude_variance_loss": ((False,), "there is no such loss here"),
    "TrainingConfig.n_devices": ((1,), "a client's training runs on one device; use `ptycho run` for several"),
    "TrainingConfig.epochs_fine_tune": ((0,), "training has one stage; give `epochs` and a `scheduler`"),
    "TrainingConfig.enable_staged_finetuning": ((False,), "training has one stage"),
    "TrainingConfig.framework": (("Lightning",), "training runs in Lightning"),
    "TrainingConfig.orchestrator": (("Lightning",), "training runs in Lightning"),
}


def require_supported(*configs: Any) -> None:
    """Raise ValueError with every setting that cannot be followed. configs: client dataclasses."""
    problems = []
    for config in configs:
        for name, value in vars(config).items():
            values, reason = REFUSED.get(f"{type(config).__name__}.{name}", ((value,), ""))
            if not any(value is good or (type(value) is type(good) and value == good) for good in values):
                wanted = " or ".join(repr(good) for good in dict.fromkeys(values))
                problems.append(f"{name} = {value!r}: {reason}; set it to {wanted}.")
    refuse(problems, "The client's configuration")
