"""What ptychodus sends to `ptycho`: which keywords have no effect here and why, and which are refused."""

from __future__ import annotations

from ptycho.config.config import TrainingConfig

_PLACEHOLDER = "a placeholder: ptychodus hands over the data themselves and names the folder when it saves"

# Keyword → why it has no effect.
WITHOUT_EFFECT = {
    "ModelConfig.amp_activation": "the network adds a complex correction, so there is no amplitude to activate; it acts"
    ' where a job sets `generator_output_mode = "amp_phase"`',
    "ModelConfig.pad_object": "patches always have the size of the lit part of the probe and are completed to N",
    "ModelConfig.probe_scale": "the probe's power is matched to the photons that were measured",
    "TrainingConfig.train_data_file": _PLACEHOLDER,
    "TrainingConfig.test_data_file": _PLACEHOLDER,
    "TrainingConfig.output_dir": _PLACEHOLDER,
    "TrainingConfig.nphotons": "the patterns are counts, so the photons are measured",
    "InferenceConfig.model": "the archive knows its own model; its N must be that of the patterns",
    "InferenceConfig.model_path": _PLACEHOLDER,
    "InferenceConfig.test_data_file": _PLACEHOLDER,
    "InferenceConfig.output_dir": _PLACEHOLDER,
    "InferenceConfig.debug": "no intermediate results are kept",
    "generate_grouped_data.K": "a pattern is reconstructed together with its nearest neighbours",
    "generate_grouped_data.nsamples": "every pattern is the centre of one group, so the image has no holes",
    "load.which": "nothing is split",
    "reassemble_position.global_offsets": "the patches know their positions",
    "reassemble_position.M": "patches are weighted by the probe's intensity instead of being cut",
}

# Keyword → the only value that is followed, and why.
REFUSED = {
    "TrainingConfig.positions_provided": ("True", "the network needs the scan positions"),
    "load.create_split": ("False", "training holds out a region of the scan itself"),
}


def require_supported(config: TrainingConfig) -> None:
    """Raise ValueError for a setting that cannot be followed."""
    if not config.positions_provided:
        raise ValueError("positions_provided = False: the network needs the scan positions; give them and set it True.")
