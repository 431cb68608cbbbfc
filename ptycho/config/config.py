"""The configuration that clients build: model, training, inference; execution comes from `ptycho.config.execution`.

These classes are mutable and accept anything when built: a client builds ModelConfig(N=0) and assigns N when it has
seen the data. `validate_*` say whether a finished configuration makes sense; the configuration factory calls them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from ptycho.config.execution import ClipAlgorithm, PyTorchExecutionConfig, Scheduler
from ptycho.config.legacy import dataclass_to_legacy_dict, update_legacy_dict
from ptycho.config.option import Count, CountOrZero, NotNegative, Positive, option
from ptycho.config.validation import field_problems, refuse

__all__ = [
    "DEFAULT_N_GROUPS",
    "InferenceConfig",
    "ModelConfig",
    "PyTorchExecutionConfig",
    "TrainingConfig",
    "dataclass_to_legacy_dict",
    "update_legacy_dict",
    "validate_inference_config",
    "validate_model_config",
    "validate_training_config",
]

DEFAULT_N_GROUPS = 512

Backend = Literal["tensorflow", "pytorch"]
Share = Annotated[float, Ge(0), Le(1)]
Decay = Annotated[float, Ge(0), Lt(1)]


@dataclass
class ModelConfig:
    """The network."""

    N: Count = option(64, "Side of a diffraction pattern and of an object patch, in pixels.")
    gridsize: Count = option(1, "Frames are taken in groups of gridsize × gridsize neighbours; 1: each by itself.")
    n_filters_scale: Count = option(2, "Multiplier of the number of convolution filters.")
    model_type: Literal["pinn", "supervised"] = option("pinn", "Trained by physics alone, or on known objects.")
    architecture: Literal["cnn", "unrolled", "linear", "fno", "ffno", "fno_vanilla", "neuralop_uno"] = option(
        "cnn",
        'Name of the generator; "linear": none, the linear inverse of the forward model, which needs no training.',
    )
    fno_modes: Count = option(12, "Fourier modes kept by Fourier neural operators.")
    fno_width: Count = option(32, "Channels of Fourier neural operators; max_hidden_channels limits them too.")
    fno_blocks: Count = option(4, "Spectral blocks of Fourier neural operators.")
    fno_cnn_blocks: CountOrZero = option(2, 'Convolution blocks after the spectral ones; "fno_vanilla" has none.')
    learned_input_channels: Count = option(1, "Channels that a learned input layer makes of each pattern.")
    max_hidden_channels: Count | None = option(None, "Upper limit of the number of channels; unset: none.")
    resnet_width: Count | None = option(None, "Channels of residual blocks; unset: as the architecture has it.")
    fno_input_transform: Literal["none", "sqrt", "log1p", "instancenorm"] = option(
        "none", "What is done to the features that Fourier neural operators see, each with its sign."
    )
    generator_output_mode: Literal["real_imag", "amp_phase_logits", "amp_phase"] = option(
        "real_imag", "How the network expresses a complex patch."
    )
    amp_activation: Literal["sigmoid", "swish", "softplus", "relu"] = option(
        "sigmoid", "Activation of the amplitude where the network expresses amplitude and phase."
    )
    object_big: bool = option(True, "Assemble a group on a larger canvas, so that overlaps constrain it.")
    probe_big: bool = option(True, "Predict the whole patch instead of only its central half.")
    probe_mask: bool = option(False, "Limit the probe to a soft disk.")
    probe_mask_sigma: NotNegative = option(1.0, "Softness of that disk's edge, in pixels.")
    probe_mask_diameter: Positive | None = option(None, "Diameter of that disk, in pixels; unset: from N.")
    pad_object: bool = option(True, "Pad a patch to N where only its centre is predicted.")
    probe_scale: Positive = option(4.0, "Normalisation of the probe guess in older models.")
    gaussian_smoothing_sigma: NotNegative = option(0.0, "Smoothing of the prediction, in pixels; 0: none.")


@dataclass
class TrainingConfig:
    """How the network is trained."""

    model: ModelConfig
    train_data_file: Path | None = option(None, "The scan to train on.")
    test_data_file: Path | None = option(None, "A scan to validate on.")
    batch_size: Count = option(16, "Groups in one step, over all ranks.")
    nepochs: Count = option(50, "Passes over the training groups.")
    mae_weight: NotNegative = option(0.0, "Weight of the mean absolute error of the diffraction amplitude.")
    nll_weight: NotNegative = option(1.0, "Weight of the likelihood of the measured counts.")
    realspace_mae_weight: NotNegative = option(
        0.0, "Weight of the mean absolute error of the object, where it is known."
    )
    realspace_weight: NotNegative = option(0.0, "Weight of the real-space smoothness of the object.")
    nphotons: Positive = option(1e9, "Mean photons of one pattern, where the data are normalised amplitudes.")
    n_groups: Count | None = option(None, f"Groups drawn from the scan; unset: {DEFAULT_N_GROUPS}.")
    n_images: Count | None = option(None, "Deprecated name of n_groups.")
    n_subsample: Count | None = option(None, "Frames drawn before groups are made; unset: all.")
    subsample_seed: CountOrZero | None = option(None, "Seed of that draw.")
    neighbor_count: Count = option(4, "Nearest neighbours among which the frames of a group are chosen.")
    enable_oversampling: bool = option(False, "Make several groups around one frame.")
    neighbor_pool_size: Count | None = option(
        None, "Neighbours to choose from when oversampling; unset: neighbor_count."
    )
    positions_provided: bool = option(True, "Whether the scan positions are known; older programs set it.")
    probe_trainable: bool = option(False, "Train the probe along with the network.")
    intensity_scale_trainable: bool = option(True, "Train the overall intensity along with the network.")
    output_dir: Path = option(Path("training_outputs"), "Where results are written.")
    sequential_sampling: bool = option(False, "Draw groups in scan order instead of at random.")
    backend: Backend = option("pytorch", "The numerical library.")
    torch_loss_mode: Literal["poisson", "mae"] = option("poisson", "Likelihood, or amplitude error, as the loss.")
    gradient_clip_val: NotNegative | None = option(None, "Largest gradient; unset or 0: not clipped.")
    gradient_clip_algorithm: ClipAlgorithm = option("norm", "Clip the norm, each value, or adaptively (agc).")
    optimizer: Literal["adam", "adamw", "sgd"] = option("adam", "Optimiser.")
    momentum: Decay = option(0.9, "Momentum of sgd.")
    weight_decay: NotNegative = option(0.0, "Weight decay.")
    adam_beta1: Decay = option(0.9, "Decay of Adam's first moment.")
    adam_beta2: Decay = option(0.999, "Decay of Adam's second moment.")
    scheduler: Scheduler = option("Default", "How the learning rate changes; Default: it does not.")
    lr_warmup_epochs: CountOrZero = option(0, "Epochs of linear warm-up (WarmupCosine).")
    lr_min_ratio: Share = option(0.1, "Final learning rate over the first (WarmupCosine).")
    plateau_factor: Annotated[float, Gt(0), Lt(1)] = option(0.5, "Learning rate multiplier at a plateau.")
    plateau_patience: CountOrZero = option(2, "Epochs without improvement that make a plateau.")
    plateau_min_lr: NotNegative = option(5e-5, "Learning rate below which a plateau changes nothing.")
    plateau_threshold: NotNegative = option(0.0, "Relative improvement that counts as one.")

    def __post_init__(self) -> None:
        _fold_n_images(self)
        # No field: it says how the object was built, and a client's words for it are fixed.
        self.__dict__["_n_groups_unset"] = self.n_groups is None
        if self.n_groups is None:
            self.n_groups = DEFAULT_N_GROUPS

    @property
    def leaves_n_groups_open(self) -> bool:
        """Whether n_groups was left unset when this was built, and nobody has assigned one since."""
        return bool(self.__dict__.get("_n_groups_unset")) and self.n_groups == DEFAULT_N_GROUPS


@dataclass
class InferenceConfig:
    """How a trained network is applied."""

    model: ModelConfig
    model_path: Path
    test_data_file: Path
    n_groups: Count | None = option(None, "Groups drawn from the scan; unset: every position.")
    n_images: Count | None = option(None, "Deprecated name of n_groups.")
    n_subsample: Count | None = option(None, "Frames drawn before groups are made; unset: all.")
    subsample_seed: CountOrZero | None = option(None, "Seed of that draw.")
    neighbor_count: Count = option(4, "Nearest neighbours among which the frames of a group are chosen.")
    enable_oversampling: bool = option(False, "Make several groups around one frame.")
    neighbor_pool_size: Count | None = option(
        None, "Neighbours to choose from when oversampling; unset: neighbor_count."
    )
    debug: bool = option(False, "Keep intermediate results.")
    output_dir: Path = option(Path("inference_outputs"), "Where results are written.")
    backend: Backend = option("pytorch", "The numerical library.")

    def __post_init__(self) -> None:
        _fold_n_images(self)


def validate_model_config(config: ModelConfig) -> None:
    """Raise ValueError with every field of the model whose value cannot work."""
    refuse(field_problems(config), "The model configuration")


def validate_training_config(config: TrainingConfig) -> None:
    """Raise ValueError with every field, also of the model, whose value cannot work."""
    problems = field_problems(config)
    if not problems:
        problems = _group_problems(config)
        if config.n_groups is None:
            problems.append("n_groups = None: must be a whole number of at least 1.")
        weights = (config.nll_weight, config.mae_weight, config.realspace_mae_weight, config.realspace_weight)
        if not any(weights):
            problems.append(
                f"nll_weight = {config.nll_weight}: every loss weight is 0, so nothing would be learnt;"
                " set nll_weight, mae_weight, realspace_mae_weight or realspace_weight above 0."
            )
    refuse(problems, "The training configuration")


def validate_inference_config(config: InferenceConfig) -> None:
    """Raise ValueError with every field, also of the model, whose value cannot work."""
    refuse(field_problems(config) or _group_problems(config), "The inference configuration")


def _group_problems(config: TrainingConfig | InferenceConfig) -> list[str]:
    frames, problems = config.model.gridsize**2, []
    if config.neighbor_count < frames - 1:
        problems.append(
            f"neighbor_count = {config.neighbor_count}: a group of model.gridsize = {config.model.gridsize} has"
            f" {frames} frames, so at least {frames - 1} neighbours are needed."
        )
    if config.neighbor_pool_size is not None and config.neighbor_pool_size < frames - 1:
        problems.append(
            f"neighbor_pool_size = {config.neighbor_pool_size}: a group of model.gridsize = {config.model.gridsize}"
            f" needs at least {frames - 1} neighbours to choose from."
        )
    if config.n_images is not None and config.n_images != config.n_groups:
        problems.append(
            f"n_images = {config.n_images}: contradicts n_groups = {config.n_groups};"
            " n_images is its deprecated name, set n_groups alone."
        )
    return problems


def _fold_n_images(config: TrainingConfig | InferenceConfig) -> None:
    """Move the deprecated alias into n_groups, so that a copy with another n_groups does not contradict itself."""
    if config.n_images is None:
        return
    warnings.warn("n_images is deprecated; use n_groups.", DeprecationWarning, stacklevel=4)
    if config.n_groups in (None, config.n_images):
        config.n_groups, config.n_images = config.n_images, None
