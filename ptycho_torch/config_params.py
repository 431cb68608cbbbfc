"""The configuration that the ptychodus application builds; `config_bridge` translates it.

Mutable, and not checked when built, because a client assigns fields later. Where a setting exists under another name in
`ptycho.config.config`, its default is taken from there, so that the two vocabularies cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ptycho.config import config as canonical

AuxiliaryLoss = Literal["None", "Total_Variation", "Mean_Deviation"] | None


@dataclass
class DataConfig:
    """How frames are grouped and normalised.

    C:         frames of a group, the product of grid_size (y, x)
    K:         nearest neighbours among which the frames of a group are chosen
    x_bounds, y_bounds: the part of the scanned area that is used, as fractions of its width and height
    n_subsample: groups made around one frame (the canonical n_subsample is another thing: frames drawn from the scan)
    min_neighbor_distance, max_neighbor_distance: object pixels
    """

    N: int = canonical.ModelConfig.N
    C: int = canonical.ModelConfig.gridsize**2
    normalize: Literal["Group", "Batch"] = "Batch"
    neighbor_function: Literal["Nearest", "Min_dist", "4_quadrant"] = "Nearest"
    scan_pattern: Literal["Isotropic", "Rectangular"] = "Isotropic"
    probe_normalize: bool = True
    x_bounds: tuple[float, float] = (0.1, 0.9)
    y_bounds: tuple[float, float] = (0.1, 0.9)
    min_neighbor_distance: float = 0.0
    max_neighbor_distance: float = 3.0
    K_quadrant: int = 30
    n_subsample: int = 7
    probe_scale: float = canonical.ModelConfig.probe_scale
    K: int = canonical.TrainingConfig.neighbor_count
    grid_size: tuple[int, int] = (canonical.ModelConfig.gridsize, canonical.ModelConfig.gridsize)
    probe_ramp_removal: bool = False
    data_scaling: Literal["Parseval", "Max"] = "Parseval"
    phase_subtraction: bool = True


@dataclass
class ModelConfig:
    """The network and its loss. C_model and C_forward: frames of a group, as the network and the physics see it."""

    mode: Literal["Unsupervised", "Supervised"] = "Unsupervised"
    object_big: bool = canonical.ModelConfig.object_big
    probe_big: bool = canonical.ModelConfig.probe_big
    loss_function: Literal["Poisson", "MAE"] = "Poisson"
    amp_activation: Literal["silu", "sigmoid", "softplus", "relu"] = "sigmoid"
    cbam_encoder: bool = True
    decoder_last_amp_channels: int = 1
    use_shared_decoder: bool = False
    intensity_scale_trainable: bool = canonical.TrainingConfig.intensity_scale_trainable
    intensity_scale: float = 10000.0
    max_position_jitter: int = 10
    num_datasets: int = 1
    C_model: int = canonical.ModelConfig.gridsize**2
    C_forward: int = canonical.ModelConfig.gridsize**2
    amp_loss: AuxiliaryLoss = None
    phase_loss: AuxiliaryLoss = None
    amp_loss_coeff: float = 1.0
    phase_loss_coeff: float = 1.0
    n_filters_scale: int = canonical.ModelConfig.n_filters_scale
    # A client may hand over its own mask, an array of whichever library it uses.
    probe_mask: Any = None
    eca_decoder: bool = False
    batch_norm: bool = False
    edge_pad: int = 10
    decoder_last_c_outer_fraction: float = 0.125
    cbam_bottleneck: bool = False
    cbam_decoder: bool = False
    spatial_decoder: bool = False
    decoder_spatial_kernel: int = 7
    eca_encoder: bool = False
    offset: int = 6
    probe_reference_coeff: float = 0.0
    amplitude_variance_loss: bool = False
    amplitude_variance_coeff: float = 0.01


@dataclass
class TrainingConfig:
    """How the network is trained, and on what."""

    epochs: int = canonical.TrainingConfig.nepochs
    batch_size: int = canonical.TrainingConfig.batch_size
    learning_rate: float = canonical.PyTorchExecutionConfig.learning_rate
    n_devices: int | Literal["auto"] = canonical.PyTorchExecutionConfig.devices
    num_workers: int = canonical.PyTorchExecutionConfig.num_workers
    accum_steps: int = canonical.PyTorchExecutionConfig.accum_steps
    epochs_fine_tune: int = 0
    fine_tune_gamma: float = 0.1
    gradient_clip_val: float | None = canonical.TrainingConfig.gradient_clip_val
    nll: bool = True
    device: str = canonical.PyTorchExecutionConfig.accelerator
    strategy: str = canonical.PyTorchExecutionConfig.strategy
    framework: str = "Lightning"
    orchestrator: str = "Lightning"
    scheduler: Literal["Default", "Exponential", "Cosine", "ReduceLROnPlateau"] = "Default"
    warmup_epochs: int = canonical.TrainingConfig.lr_warmup_epochs
    min_lr_ratio: float = canonical.TrainingConfig.lr_min_ratio
    notes: str = ""
    model_name: str = "PtychoPINNv2"
    enable_staged_finetuning: bool = False
    finetune_stage1_epochs: int = 7
    finetune_stage2_epochs: int = 7
    finetune_stage3_epochs: int = 5
    finetune_stage1_lr_decoder: float = 0.1
    finetune_stage2_lr_encoder_top: float = 0.01
    finetune_stage2_lr_decoder: float = 0.05
    finetune_stage2_lr_phase_head: float = 0.1
    finetune_stage3_lr_encoder_bottom: float = 0.005
    finetune_stage3_lr_encoder_top: float = 0.01
    finetune_stage3_lr_decoder: float = 0.02
    finetune_stage3_lr_phase_head: float = 0.05
    finetune_skip_stage3: bool = True
    finetune_early_stop_patience: int = 3
    finetune_val_split: float = 0.05


@dataclass
class InferenceConfig:
    """How a trained network is applied. middle_trim, window: pixels."""

    batch_size: int = 1000
    middle_trim: int = 32
    experiment_number: int = 0
    patch_weighting: Literal["probe", "uniform"] = "probe"
    pad_eval: bool = True
    window: int = 20


@dataclass
class DatagenConfig:
    """Settings of the client's data generator; it has none that reach us."""
