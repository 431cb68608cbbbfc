"""Configurations as ptychodus 1.7 builds them, every keyword with the default that it sends."""

from pathlib import Path

from ptycho.config.config import InferenceConfig, ModelConfig, TrainingConfig


def tf_model(N=0, **changes):
    """The 11 keywords of table B.1, row 3."""
    keywords = {
        "gridsize": 1, "n_filters_scale": 2, "model_type": "pinn", "amp_activation": "sigmoid", "object_big": True,
        "probe_big": True, "probe_mask": False, "pad_object": True, "probe_scale": 4.0, "gaussian_smoothing_sigma": 0.0,
    }  # fmt: skip
    return ModelConfig(N=N, **(keywords | changes))


def tf_training(model, **changes):
    """The 14 keywords of row 4."""
    keywords = {
        "train_data_file": Path(), "test_data_file": None, "batch_size": 16, "nepochs": 50, "mae_weight": 0.0,
        "nll_weight": 1.0, "realspace_mae_weight": 0.0, "realspace_weight": 0.0, "nphotons": 1e6,
        "positions_provided": True, "probe_trainable": False, "intensity_scale_trainable": True, "output_dir": Path(),
    }  # fmt: skip
    return TrainingConfig(model=model, **(keywords | changes))


def tf_inference(model):
    """The 5 keywords of row 5."""
    return InferenceConfig(model=model, model_path=Path(), test_data_file=Path(), debug=False, output_dir=Path())


def torch_configs(**changes):
    """The five objects of table B.2; changes: fields of whichever class has one of that name."""
    from ptycho_torch.config_params import DataConfig, DatagenConfig, InferenceConfig, ModelConfig, TrainingConfig

    configs = (
        DataConfig(
            N=128, C=4, normalize="Batch", neighbor_function="Nearest", scan_pattern="Isotropic", probe_normalize=True,
            x_bounds=(0.1, 0.9), y_bounds=(0.1, 0.9), min_neighbor_distance=0.0, max_neighbor_distance=3.0,
            K_quadrant=30, n_subsample=7, probe_scale=4.0, K=6, grid_size=(2, 2), probe_ramp_removal=False,
            data_scaling="Parseval", phase_subtraction=True,
        ),
        ModelConfig(
            mode="Unsupervised", object_big=True, probe_big=True, loss_function="Poisson", amp_activation="silu",
            cbam_encoder=True, decoder_last_amp_channels=4, use_shared_decoder=False, intensity_scale_trainable=False,
            intensity_scale=10000.0, max_position_jitter=10, num_datasets=1, C_model=4, C_forward=4, amp_loss=None,
            phase_loss=None, amp_loss_coeff=1.0, phase_loss_coeff=1.0, n_filters_scale=2, probe_mask=None,
            eca_decoder=False, batch_norm=False, edge_pad=10, decoder_last_c_outer_fraction=0.125,
            cbam_bottleneck=False, cbam_decoder=False, spatial_decoder=False, decoder_spatial_kernel=7,
            eca_encoder=False, offset=6, probe_reference_coeff=0.0, amplitude_variance_loss=False,
            amplitude_variance_coeff=0.01,
        ),
        TrainingConfig(
            epochs=50, batch_size=16, learning_rate=1e-3, n_devices=1, num_workers=4, accum_steps=1,
            epochs_fine_tune=0, fine_tune_gamma=0.1, gradient_clip_val=None, nll=True, device="cuda",
            strategy="ddp_spawn", framework="Lightning", orchestrator="Lightning", scheduler="Default",
            warmup_epochs=0, min_lr_ratio=0.1, notes="", model_name="PtychoPINNv2", enable_staged_finetuning=False,
            finetune_stage1_epochs=7, finetune_stage2_epochs=7, finetune_stage3_epochs=5,
            finetune_stage1_lr_decoder=0.1, finetune_stage2_lr_encoder_top=0.01, finetune_stage2_lr_decoder=0.05,
            finetune_stage2_lr_phase_head=0.1, finetune_stage3_lr_encoder_bottom=0.005,
            finetune_stage3_lr_encoder_top=0.01, finetune_stage3_lr_decoder=0.02, finetune_stage3_lr_phase_head=0.05,
            finetune_skip_stage3=True, finetune_early_stop_patience=3, finetune_val_split=0.05,
        ),
        InferenceConfig(
            batch_size=1000, middle_trim=32, experiment_number=0, patch_weighting="probe", pad_eval=True, window=20
        ),
        DatagenConfig(),
    )  # fmt: skip
    for name, value in changes.items():
        (owner,) = (config for config in configs if hasattr(config, name))
        setattr(owner, name, value)
    return configs
