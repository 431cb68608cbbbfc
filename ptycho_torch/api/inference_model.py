"""A trained model as clients call it: patterns in, patches out, and an image from the patches."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.errors import ModelError
from ptycho.loader import Amplitudes
from ptycho.parallel import SerialRanks
from ptycho_torch.api.client_work import end_with_parent, image_for_client
from ptycho_torch.device import rank_device
from ptycho_torch.physics.propagate import to_fft_order
from ptycho_torch.pinn.trained import TrainedModel
from ptycho_torch.pinn.window import fill_frame
from ptycho_torch.stages.network import ScanPatches, infer_scan


@dataclass(frozen=True)
class ClientPatches:
    """Patches (pattern, y, x) of one scan, ready to be stitched."""

    found: ScanPatches
    device: torch.device

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.found.patches.numpy(), dtype=dtype)

    def stitched(self) -> NDArray[np.complex64]:
        """The object (y, x) with the shape of the client's objectGuess or, without one, of the scan's own grid."""
        scan = self.found.scan
        return image_for_client(self.found, scan.object_grid or scan.grid, self.device)


@dataclass(frozen=True)
class InferenceModel(TrainedModel):
    """A trained model with the two calls of older programs."""

    @classmethod
    def of(cls, model: TrainedModel) -> InferenceModel:
        """The same model."""
        return cls(**{field.name: getattr(model, field.name) for field in fields(model)})

    @property
    def intensity_scale(self) -> float:
        """Factor between normalised amplitudes, whose mean square is 1/4, and √counts at the model's own dose."""
        return float(2 * np.sqrt(self.network.mean_photons) / self.config.N)

    def predict(self, inputs: list[Any]) -> ClientPatches:
        """Patches of [X × intensity_scale, local_offsets] of a container of `ptycho.loader`.

        Raises TypeError for other inputs, ModelError when the patterns do not fit the model.
        """
        end_with_parent()
        amplitudes = inputs[0]
        if not isinstance(amplitudes, Amplitudes):
            raise TypeError("predict needs [X × intensity_scale, local_offsets] of a container made by ptycho.loader.")
        scan = amplitudes.scan
        assert scan.probe is not None  # the loader put one in
        device = rank_device("cuda")
        return ClientPatches(infer_scan(self.with_probe(scan.probe), scan, SerialRanks(), device), device)

    def diffraction_to_obj(self, x: Tensor, positions: Tensor, probe: Tensor, input_scale_factor: Tensor) -> Tensor:
        """Object patches (batch, channel, N, N) complex64; their global phases are free.

        x:                  (batch, channel, N, N) float32, √counts over `input_scale_factor`, zero frequency at N // 2
        positions:          (batch, channel, 1, 2) float32 object pixels, (y, x) of the windows, from any origin
        probe:              (N, N) or (mode, N, N) complex64, any power
        input_scale_factor: (batch,) or (batch, 1, 1, 1): x times it is √counts

        Raises ModelError when the shapes do not fit each other or the model.
        """
        size = self.config.N
        if x.ndim != 4 or x.shape[-2:] != (size, size) or positions.shape != (*x.shape[:2], 1, 2):
            raise ModelError(
                f"x of shape {tuple(x.shape)} and positions of shape {tuple(positions.shape)}: (batch, channel, {size},"
                f" {size}) and (batch, channel, 1, 2) are expected."
            )
        modes = probe.reshape(-1, *probe.shape[-2:]).detach().cpu().numpy()
        network = self.network.with_probe(modes).to(x.device).eval()
        counts = to_fft_order((x * input_scale_factor.reshape(-1, 1, 1, 1)).square().float())
        photons = float(counts.sum((-2, -1)).mean())
        with torch.inference_mode():
            patches = network(counts, positions[:, :, 0].double(), network.mean_photons / photons)
            framed = fill_frame(network.in_gauge(patches.flatten(0, 1)), size, network.weight)
        return framed.view(*x.shape[:2], size, size)
