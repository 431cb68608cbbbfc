"""A trained model: what training hands to inference and to the bundle."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ptycho.config.config import ModelConfig
from ptycho.data.scan import Scan
from ptycho.errors import ModelError
from ptycho_torch.pinn.card import ModelCard
from ptycho_torch.pinn.network import PtychoNetwork


@dataclass(frozen=True)
class TrainedModel:
    """The network with its probe and scale, and how its training went.

    metrics: deviance (mean deviance per pixel after training, on held-out frames where there are any), deviance_guess
             (of the physics-made guess), deviance_constant (of a constant object), beats_constant (1 or 0), val_loss
             or train_loss, epochs
    history: one dictionary of numbers for each epoch
    card:    what it was trained on; None where a model is older than cards
    """

    network: PtychoNetwork
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    card: ModelCard | None = None

    @property
    def config(self) -> ModelConfig:
        return self.network.config

    @property
    def window(self) -> int:
        """Width in pixels of the patches: of the lit window."""
        return self.network.window

    @property
    def probe(self) -> NDArray[np.complex64]:
        """(mode, y, x) complex64, sqrt(photons): the probe to which the patches belong, trained if trainable."""
        return self.network.matched_probe

    @property
    def beats_constant(self) -> bool:
        """Whether training ended better than a constant object, the usual collapse of this method."""
        return bool(self.metrics.get("beats_constant", 1))

    def require_fit(self, scan: Scan, *, gridsize: int | None = None, architecture: str | None = None) -> None:
        """Raise ModelError, with both values, when the model does not fit the scan or what the job asks for."""
        wanted = {"N": scan.patch_size, "gridsize": gridsize, "architecture": architecture}
        for name, value in wanted.items():
            own = getattr(self.config, name)
            if value is not None and value != own:
                raise ModelError(
                    f"The model was trained with {name} = {own}, but {scan.name} asks for {name} = {value};"
                    " use a model that fits, or crop the data."
                )

    def doubts(self, photons: float) -> list[str]:
        """Sentences about what in a scan, whose probe the model has, lies outside of what it was trained on."""
        if self.card is None:
            return []
        return [
            f"The network sees something new, so look at its image twice: {doubt}."
            for doubt in self.card.doubts(self.probe, photons)
        ]

    def with_probe(self, probe: NDArray[np.complex64], mask: NDArray[np.bool_] | None = None) -> TrainedModel:
        """The model for a scan with another probe (mode, y, x) and mask (y, x), power-matched to its own photons.

        A model that serves frames of any size takes the probe's. Raises ModelError when another model does not fit it.
        """
        size = probe.shape[-1] if self.card is not None and self.card.serves_any_size else self.config.N
        return replace(self, network=self.network.with_probe(probe, mask, size=size))
