"""The network as physics sees it: counts of a group of frames in, object patches out, and the counts they predict."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ptycho.config.config import ModelConfig
from ptycho.errors import ModelError
from ptycho_torch.generators import build_generator
from ptycho_torch.physics.forward import expected_counts
from ptycho_torch.physics.propagate import far_field
from ptycho_torch.pinn.features import feature_channels, physics_guess
from ptycho_torch.pinn.overlap import agree
from ptycho_torch.pinn.window import cut_window, fill_frame, lit_window

# Modulus projections in the first guess. On a photograph-like scan more than ten change it by less than 1 %.
GUESS_SWEEPS = 8


class PtychoNetwork(nn.Module):
    """Features, generator, overlap constraint and forward model around one probe.

    Gauge: the probe's power is the mean photons per pattern, so |O| ≈ 1 in vacuum; `probe_scale` and `pad_object` of
    older configurations, which chose such factors and paddings by hand, have nothing left to do.
    """

    probe_parts: Tensor
    probe_unit: Tensor
    log_intensity: Tensor
    mask: Tensor | None

    def __init__(
        self,
        config: ModelConfig,
        probe: NDArray[np.complex64],
        mean_photons: float,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """probe: (mode, y, x), any power; mask: (y, x) centred, True where good; mean_photons: on good pixels."""
        super().__init__()
        if probe.shape[-1] != config.N:
            raise ModelError(
                f"The model works on frames of N = {config.N} but the probe is {probe.shape[-2]} × {probe.shape[-1]};"
                f" set model.N = {probe.shape[-1]} or crop the data."
            )
        self.config = config
        self.mean_photons = mean_photons
        good = None if mask is None else torch.from_numpy(np.fft.ifftshift(mask).astype(np.float32))
        matched = power_matched(prepared_probe(probe, config), mean_photons, good)
        self.register_buffer("mask", good)
        # The parameter has a largest modulus of 1: an optimiser's steps are then as large for a dim probe as for a
        # bright one, and about as large as for the network's weights.
        self.register_buffer("probe_unit", matched.abs().max())
        self.register_buffer("probe_parts", torch.view_as_real(matched / self.probe_unit).clone())
        self.register_buffer("log_intensity", torch.zeros(()))
        self.window = lit_window(matched, config.probe_big)
        self.generator = build_generator(config)

    @property
    def probe(self) -> Tensor:
        """(mode, y, x) complex64, square root of photons per pixel."""
        return torch.view_as_complex(self.probe_parts) * self.probe_unit

    @property
    def weight(self) -> Tensor:
        """(y, x) float32: the probe's intensity in the lit window, largest value 1. The weight of a patch's pixels."""
        intensity = cut_window(self.probe.detach().abs().square().sum(0), self.window)
        return intensity / intensity.max()

    def make_trainable(self, *, probe: bool, intensity: bool) -> None:
        """Let the optimiser change the probe or one factor of all intensities."""
        for name, wanted in (("probe_parts", probe), ("log_intensity", intensity)):
            if wanted:
                value = self._buffers.pop(name)
                assert value is not None
                self.register_parameter(name, nn.Parameter(value))

    def with_probe(self, probe: NDArray[np.complex64], mask: NDArray[np.bool_] | None = None) -> PtychoNetwork:
        """The same generator around another probe (mode, y, x) and mask, on the same scale of photons."""
        other = PtychoNetwork(self.config, probe, self.mean_photons, mask)
        other.generator.load_state_dict(copy.deepcopy(self.generator.state_dict()))
        other.train(self.training)
        return other.to(self.probe_parts.device)

    def forward(self, counts: Tensor, positions_px: Tensor, dose_ratio: float = 1.0) -> Tensor:
        """Object patches (batch, frame, y, x) complex64 of the lit window; their global phases are free.

        counts:       (batch, frame, y, x) float32, FFT order
        positions_px: (batch, frame, 2) window centres (y, x)
        dose_ratio:   the model's mean photons per frame over the scan's own
        """
        frames, positions_px = self._groups(counts, positions_px)
        patches: Tensor = self.generator(self._features(frames, positions_px, dose_ratio))
        return self._constrained(patches, positions_px).view(*counts.shape[:2], self.window, self.window)

    def guess(self, counts: Tensor, positions_px: Tensor, dose_ratio: float = 1.0) -> Tensor:
        """The patches that `forward` would return from a generator that corrects nothing."""
        frames, positions_px = self._groups(counts, positions_px)
        features = self._features(frames, positions_px, dose_ratio)
        patches = torch.complex(1 + features[:, :, 0], features[:, :, 1])
        return self._constrained(patches, positions_px).view(*counts.shape[:2], self.window, self.window)

    def _groups(self, counts: Tensor, positions_px: Tensor) -> tuple[Tensor, Tensor]:
        """The groups as given or, without `object_big`, every frame as a group of one."""
        if self.config.object_big:
            return counts, positions_px
        return counts.flatten(0, 1)[:, None], positions_px.flatten(0, 1)[:, None]

    def _features(self, counts: Tensor, positions_px: Tensor, dose_ratio: float) -> Tensor:
        probe = self.probe.detach()
        amplitude = (counts * dose_ratio).sqrt()
        guess = physics_guess(amplitude, probe, positions_px, self.mask, GUESS_SWEEPS, self.window)
        return feature_channels(guess, probe, self.window)

    def _constrained(self, patches: Tensor, positions_px: Tensor) -> Tensor:
        if self.config.gaussian_smoothing_sigma > 0:
            patches = _smoothed(patches, self.config.gaussian_smoothing_sigma)
        return agree(patches, positions_px, self.weight)

    def predict(self, patches: Tensor, dose_ratio: float = 1.0) -> Tensor:
        """Expected counts (batch, frame, y, x), FFT order, of patches (batch, frame, y, x)."""
        frame = fill_frame(patches.flatten(0, 1), self.config.N, self.weight if self.config.probe_big else None)
        expected = expected_counts(self.probe, frame) * (self.log_intensity.exp() / dose_ratio)
        return expected.view(*patches.shape[:2], self.config.N, self.config.N)

    def in_gauge(self, patches: Tensor) -> Tensor:
        """Patches under the power-matched probe: what training did to probe power and intensity is the object's."""
        return patches * (self._power * self.log_intensity.detach().exp() / self.mean_photons).sqrt()

    @property
    def matched_probe(self) -> NDArray[np.complex64]:
        """The probe (mode, y, x) complex64, trained where it was trainable, with the mean photons as its power."""
        probe = self.probe.detach() * (self.mean_photons / self._power).sqrt()
        return probe.cpu().numpy()

    @property
    def _power(self) -> Tensor:
        power = far_field(self.probe.detach()).abs().square()
        return (power if self.mask is None else power * self.mask).sum()


def power_matched(probe: Tensor, mean_photons: float, mask: Tensor | None) -> Tensor:
    """The probe (mode, y, x) scaled so that through vacuum `mean_photons` reach the good pixels.

    mask: (y, x) in FFT order, 1 where good. Raises ModelError when no light can reach them.
    """
    power = far_field(probe).abs().square()
    total = float((power if mask is None else power * mask).sum())
    if not total > 0 or not mean_photons > 0:
        raise ModelError(
            f"Probe of power {total:g} and {mean_photons:g} photons per frame on the good detector pixels:"
            " both must be above 0. Check the probe, the mask and the frames."
        )
    return probe * float(np.sqrt(mean_photons / total))


def prepared_probe(array: NDArray[np.complex64], config: ModelConfig) -> Tensor:
    """The probe (mode, y, x) complex64, inside the soft disk that the configuration asks for."""
    probe = torch.from_numpy(np.ascontiguousarray(array)).to(torch.complex64)
    if not config.probe_mask:
        return probe
    size = probe.shape[-1]
    axis = torch.arange(size, dtype=torch.float32) - size // 2
    radius = torch.hypot(axis[:, None], axis)
    edge = (config.probe_mask_diameter or size) / 2
    return probe * torch.sigmoid((edge - radius) / max(config.probe_mask_sigma, 1e-3))


def _smoothed(patches: Tensor, sigma_px: float) -> Tensor:
    """Patches (..., y, x) convolved with a Gaussian, edges repeated so that a flat patch stays flat."""
    margin = min(int(np.ceil(3 * sigma_px)), patches.shape[-1] - 1)
    axis = torch.arange(-margin, margin + 1, device=patches.device, dtype=torch.float32)
    gauss = torch.exp(-(axis**2) / (2 * sigma_px**2))
    gauss = (gauss / gauss.sum()).to(patches.real.dtype)
    parts = torch.view_as_real(patches).movedim(-1, 0).flatten(0, -3)[:, None]
    parts = functional.pad(parts, (margin,) * 4, mode="replicate")
    parts = functional.conv2d(functional.conv2d(parts, gauss[None, None, :, None]), gauss[None, None, None])
    parts = parts[:, 0].view(2, *patches.shape)
    return torch.complex(parts[0], parts[1])
