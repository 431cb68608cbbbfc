"""The network as physics sees it: counts of a group of frames in, object patches out, and the counts they predict."""

from __future__ import annotations

import copy
from dataclasses import replace

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
from ptycho_torch.pinn.features import Guess, feature_channels, physics_guess, project
from ptycho_torch.pinn.linear import LinearInverse
from ptycho_torch.pinn.overlap import agree
from ptycho_torch.pinn.window import cut_window, fill_frame, lit_window

# Modulus projections in the first guess. On a photograph-like scan more than ten change it by less than 1 %; a
# generator that is followed by further projections can do with fewer.
GUESS_SWEEPS = 8
FIRST_OF_SEVERAL_SWEEPS = 3
# One adds the fine detail that the linear inverse leaves out; two more lower the error by less than 1 %.
AFTER_LINEAR_SWEEPS = 1
LINEAR = "linear"


class PtychoNetwork(nn.Module):
    """Features, generator, overlap constraint and forward model around one probe.

    Gauge: the probe's power is the mean photons per pattern, so |O| ≈ 1 in vacuum; `probe_scale` and `pad_object` of
    older configurations, which chose such factors and paddings by hand, have nothing left to do.
    """

    probe_parts: Tensor
    probe_unit: Tensor
    log_intensity: Tensor
    mask: Tensor | None
    reference: Tensor | None

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
        self.n_steps = int(self.generator.n_steps)  # type: ignore[arg-type]
        self.guess_sweeps = GUESS_SWEEPS if self.n_steps == 1 else FIRST_OF_SEVERAL_SWEEPS
        if config.architecture == LINEAR:
            self.guess_sweeps = AFTER_LINEAR_SWEEPS
        # (y, x) √counts in FFT order that stand for a flat object; the scan's mean where the owner knows it.
        self.register_buffer("reference", None, persistent=False)
        self._linear: LinearInverse | None = None

    @property
    def probe(self) -> Tensor:
        """(mode, y, x) complex64, square root of photons per pixel."""
        return torch.view_as_complex(self.probe_parts) * self.probe_unit

    @property
    def weight(self) -> Tensor:
        """(y, x) float32: the probe's intensity in the lit window, largest value 1. The weight of a patch's pixels."""
        return self.weight_of(None)

    def weight_of(self, probes: Tensor | None) -> Tensor:
        """The same for probes (batch, frame, mode, y, x), one for each frame: (batch · frame, y, x)."""
        probe = self.probe if probes is None else probes.flatten(0, 1)
        intensity = cut_window(probe.detach().abs().square().sum(-3), self.window_of(probes))
        return intensity / intensity.amax((-2, -1), keepdim=True)

    def window_of(self, probes: Tensor | None) -> int:
        """Width of the patches under probes (batch, frame, mode, y, x): half the frame where probes differ."""
        return self.window if probes is None else probes.shape[-1] // 2

    def make_trainable(self, *, probe: bool, intensity: bool) -> None:
        """Let the optimiser change the probe or one factor of all intensities."""
        for name, wanted in (("probe_parts", probe), ("log_intensity", intensity)):
            if wanted:
                value = self._buffers.pop(name)
                assert value is not None
                self.register_parameter(name, nn.Parameter(value))

    def with_probe(
        self, probe: NDArray[np.complex64], mask: NDArray[np.bool_] | None = None, *, size: int | None = None
    ) -> PtychoNetwork:
        """The same generator around another probe (mode, y, x) and mask, on the same scale of photons.

        size: of its frames; None: as before. Generators are made of convolutions and serve frames of any size.
        """
        other = PtychoNetwork(replace(self.config, N=size or self.config.N), probe, self.mean_photons, mask)
        other.take_generator(self)
        other.train(self.training)
        return other.to(self.probe_parts.device)

    def take_generator(self, other: PtychoNetwork) -> None:
        """A copy of the weights of another network's generator. Raises ModelError when the two are not alike."""
        try:
            self.generator.load_state_dict(copy.deepcopy(other.generator.state_dict()))
        except RuntimeError as error:
            raise ModelError(
                f'The model to start from has another generator ("{other.config.architecture}", n_filters_scale ='
                f' {other.config.n_filters_scale}) than the one asked for ("{self.config.architecture}",'
                f" {self.config.n_filters_scale}); leave model.architecture and its options out."
            ) from error

    def forward(
        self, counts: Tensor, positions_px: Tensor, dose_ratio: float = 1.0, probes: Tensor | None = None
    ) -> Tensor:
        """Object patches (batch, frame, y, x) complex64 of the lit window; their global phases are free.

        counts:       (batch, frame, y, x) float32, FFT order
        positions_px: (batch, frame, 2) window centres (y, x)
        dose_ratio:   the model's mean photons per frame over the scan's own
        probes:       (batch, frame, mode, y, x), power-matched, for frames under probes other than the network's own
        """
        frames, positions_px, probe = self._groups(counts, positions_px, probes)
        amplitude, window = (frames * dose_ratio).sqrt(), self.window_of(probes)
        guess = self._first_guess(amplitude, positions_px, probe, probes, window)
        weight = self.weight_of(probes)
        patches: Tensor = self.generator(feature_channels(guess, probe, window))
        for step in range(1, self.n_steps):
            # Outside the window the guess stays; inside, what the last correction has made of it is measured anew.
            full = guess.patches.clone()
            cut_window(full, window).copy_(patches)
            guess = project(full, amplitude, probe, positions_px, self.mask, 1, window)
            patches = self.generator(feature_channels(guess, probe, window), step)
        return self._constrained(patches, positions_px, weight).view(*counts.shape[:2], window, window)

    def guess(
        self, counts: Tensor, positions_px: Tensor, dose_ratio: float = 1.0, probes: Tensor | None = None
    ) -> Tensor:
        """The patches that `forward` would return from a generator that corrects nothing."""
        frames, positions_px, probe = self._groups(counts, positions_px, probes)
        amplitude, window = (frames * dose_ratio).sqrt(), self.window_of(probes)
        found = self._first_guess(amplitude, positions_px, probe, probes, window)
        patches = cut_window(found.patches, window)
        weight = self.weight_of(probes)
        return self._constrained(patches, positions_px, weight).view(*counts.shape[:2], window, window)

    def _first_guess(
        self, amplitude: Tensor, positions_px: Tensor, probe: Tensor, probes: Tensor | None, window: int
    ) -> Guess:
        """From a flat start or, where the architecture is "linear", from the linear inverse, a few projections on."""
        if self.config.architecture != LINEAR:
            return physics_guess(amplitude, probe, positions_px, self.mask, self.guess_sweeps, window)
        if probes is not None:
            raise ModelError('Architecture "linear" inverts one probe, not one for each frame; choose "unrolled".')
        start = self._inverse().patches(amplitude.flatten(0, 1)).view(amplitude.shape)
        return project(start, amplitude, probe, positions_px, self.mask, self.guess_sweeps, window)

    def _inverse(self) -> LinearInverse:
        """Made when it is first needed, anew on another device."""
        probe = self.probe.detach()
        if self._linear is None or self._linear.device != probe.device:
            self._linear = LinearInverse(probe, self.window, self.mask, self.reference)
        return self._linear

    def _groups(self, counts: Tensor, positions_px: Tensor, probes: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The groups as given or, without `object_big`, each frame as a group of one; and the probe or each frame's."""
        probe = self.probe.detach() if probes is None else probes.flatten(0, 1)
        if self.config.object_big:
            return counts, positions_px, probe
        return counts.flatten(0, 1)[:, None], positions_px.flatten(0, 1)[:, None], probe

    def _constrained(self, patches: Tensor, positions_px: Tensor, weight: Tensor) -> Tensor:
        if self.config.gaussian_smoothing_sigma > 0:
            patches = _smoothed(patches, self.config.gaussian_smoothing_sigma)
        return agree(patches, positions_px, weight)

    def predict(self, patches: Tensor, dose_ratio: float = 1.0, probes: Tensor | None = None) -> Tensor:
        """Expected counts (batch, frame, y, x), FFT order, of patches (batch, frame, y, x); probes as in `forward`."""
        probe = self.probe if probes is None else probes.flatten(0, 1)
        size = probe.shape[-1]
        frame = fill_frame(patches.flatten(0, 1), size, self.weight_of(probes) if self.config.probe_big else None)
        expected = expected_counts(probe, frame) * (self.log_intensity.exp() / dose_ratio)
        return expected.view(*patches.shape[:2], size, size)

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
