"""The linear inverse: the likeliest smooth change of a flat object that explains a pattern.

For an object 1 + ε the modulus of a far field f changes by δ = Re[Σ_m f_m* · F(P_m ε)] / √(Σ_m |f_m|²), linear in ε
where the flat object's own far field is bright. With a prior covariance C of ε and photon noise of variance 1/4 on
√counts, ε = (Jᵀ J / σ² + C⁻¹)⁻¹ Jᵀ δ / σ²: one small matrix for a probe, one product for a frame. Slow phase across the
beam, for which modulus projections need many sweeps, is found at once; fine detail is left to them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ptycho_torch.physics.propagate import far_field
from ptycho_torch.pinn.window import cut_window

# ε is sought on this many points along each side of the window. Finer grids changed nothing and cost four times more.
GRID = 16
# Prior of ε: standard deviations of phase (rad) and absorption, and a spectrum 1 / (k² + 1/coarsest²)^1.5 whose
# coarsest period is 1.25 windows. On a photograph-like scan deviations of 0.3 to 0.6 rad in phase changed little.
PHASE_RAD, ABSORPTION = 0.4, 0.07
COARSEST_WINDOWS, EXPONENT = 1.25, 1.5
# Detector pixels count where the flat object's far field is brighter than this part of its maximum.
BRIGHT = 0.05
PHOTON_NOISE = 0.25
# Part of the prior's variance without correlation; keeps its inverse finite.
JITTER = 1e-5
# The absorption that ε may reach.
LOWEST_AMPLITUDE = 0.05


class LinearInverse:
    """The inverse for one probe.

    probe:     (mode, y, x) complex, its power the photons of a frame
    window:    width of the lit window, in which ε is sought
    mask:      (y, x), FFT order, 1 where a detector pixel is good, or None
    reference: (y, x) √counts in FFT order that stand for the flat object, such as the scan's mean; None: the probe's
               own. A mean forgives errors of the probe, because they are in it too.
    """

    def __init__(self, probe: Tensor, window: int, mask: Tensor | None, reference: Tensor | None = None) -> None:
        waves = far_field(probe)
        modulus = waves.abs().square().sum(0).sqrt()
        bright = modulus > BRIGHT * modulus.max()
        self._pixels = (bright if mask is None else bright & (mask > 0)).flatten().nonzero()[:, 0]
        self._reference = (modulus if reference is None else reference).flatten()[self._pixels]
        self._shapes = _interpolation(window).to(probe.device)
        self._size, self._window = probe.shape[-1], window
        jacobian = self._jacobian(probe, waves, modulus).double()
        precision = jacobian.T @ jacobian / PHOTON_NOISE + torch.linalg.inv(_covariance(window).to(probe.device))
        self._matrix = torch.linalg.solve(precision, jacobian.T / PHOTON_NOISE).float()

    @property
    def device(self) -> torch.device:
        """Where it works."""
        device: torch.device = self._matrix.device
        return device

    def patches(self, amplitude: Tensor) -> Tensor:
        """Object patches (frame, y, x) of full frame size, 1 outside the window, from √counts (frame, y, x)."""
        change = (amplitude.flatten(1)[:, self._pixels] - self._reference) @ self._matrix.T
        parts = change.view(len(change), 2, -1) @ self._shapes.T
        modulus = (1 + parts[:, 0]).clamp(min=LOWEST_AMPLITUDE)
        # To first order 1 + ε; taken as amplitude and phase it stays a transmission where ε is not small.
        lit = torch.polar(modulus, parts[:, 1]).view(-1, self._window, self._window)
        full = torch.ones_like(amplitude, dtype=lit.dtype)
        cut_window(full, self._window).copy_(lit)
        return full

    def _jacobian(self, probe: Tensor, waves: Tensor, modulus: Tensor) -> Tensor:
        """(bright pixel, 2 · GRID²): √counts by the real, then the imaginary part of ε at each grid point."""
        kept = waves.flatten(1)[:, self._pixels]
        rows = torch.zeros(GRID**2, len(self._pixels), dtype=waves.dtype, device=waves.device)
        for mode, wave in zip(probe, kept, strict=True):
            lit = cut_window(mode, self._window).flatten() * self._shapes.T
            spread = torch.zeros(GRID**2, self._size, self._size, dtype=mode.dtype, device=mode.device)
            cut_window(spread, self._window).copy_(lit.view(-1, self._window, self._window))
            rows += far_field(spread).flatten(1)[:, self._pixels] * wave.conj()
        rows = rows / modulus.flatten()[self._pixels]
        return torch.cat([rows.real, -rows.imag]).T


def _interpolation(window: int) -> Tensor:
    """(window², GRID²): bicubic interpolation from the grid to the pixels of the window."""
    points = torch.eye(GRID**2).view(GRID**2, 1, GRID, GRID)
    wide = functional.interpolate(points, size=(window, window), mode="bicubic", align_corners=False)
    return wide.view(GRID**2, -1).T.contiguous()


def _covariance(window: int) -> Tensor:
    """Prior covariance (2 · GRID², 2 · GRID²) of absorption and phase at the grid points, which are independent."""
    n = 4 * GRID
    frequency = torch.fft.fftfreq(n, dtype=torch.float64) * GRID / window
    coarsest = COARSEST_WINDOWS * window
    spectrum = (frequency[:, None].square() + frequency.square() + coarsest**-2) ** -EXPONENT
    correlation = torch.fft.ifft2(spectrum).real
    correlation = correlation / correlation[0, 0]
    y = torch.arange(GRID).repeat_interleave(GRID)
    x = torch.arange(GRID).repeat(GRID)
    field = correlation[(y[:, None] - y) % n, (x[:, None] - x) % n] + JITTER * torch.eye(GRID**2, dtype=torch.float64)
    both: Tensor = torch.block_diag(ABSORPTION**2 * field, PHASE_RAD**2 * field)  # type: ignore[no-untyped-call]
    return both
