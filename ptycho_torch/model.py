"""The model as ptychodus holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptycho.errors import ModelError
from ptycho_torch import config_params as client
from ptycho_torch.api.checkpoint_file import ClientConfigs, read_checkpoint
from ptycho_torch.pinn.trained import TrainedModel


class PtychoPINN_Lightning:  # noqa: N801  (the name is the interface of a client)
    """A model with the client's configurations; without weights until it has been trained or loaded."""

    # Under these names a training tells its callbacks the losses of an epoch.
    loss_name = "train_loss"
    val_loss_name = "val_loss"

    def __init__(
        self,
        model_config: client.ModelConfig,
        data_config: client.DataConfig,
        training_config: client.TrainingConfig,
        inference_config: client.InferenceConfig,
        trained: TrainedModel | None = None,
    ) -> None:
        self.configs = ClientConfigs(
            data=data_config, model=model_config, training=training_config, inference=inference_config
        )
        self._trained = trained

    @classmethod
    def load_from_checkpoint(cls, path: str | Path, **configs: Any) -> PtychoPINN_Lightning:
        """The trained model in a file. configs: as of the constructor; those in the file where they are left out.

        Raises ModelError for a missing, damaged or foreign file.
        """
        trained, own = read_checkpoint(Path(path))
        given: dict[str, Any] = {
            "model_config": own.model,
            "data_config": own.data,
            "training_config": own.training,
            "inference_config": own.inference,
        }
        return cls(**(given | configs), trained=trained)

    @property
    def trained(self) -> TrainedModel:
        """The trained model. Raises ModelError before there is one."""
        if self._trained is None:
            raise ModelError("The model has no weights yet: train it, or load it from a checkpoint.")
        return self._trained

    def take(self, trained: TrainedModel) -> None:
        """Hold what a training has made."""
        self._trained = trained
