"""Corrections of the light: its intensity and shape from frame to frame, and counts that are not from it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ptycho.config.refine import RefineConfig
from ptycho.parallel import Ranks
from ptycho_torch.engines.corrections import Correction
from ptycho_torch.engines.estimate import Estimate, Trace
from ptycho_torch.engines.problem import Problem
from ptycho_torch.engines.start import with_modes
from ptycho_torch.engines.sums import move, share
from ptycho_torch.physics.modulus import Background

# First epoch, from 1, in which these corrections move: before, they would explain what the object has yet to.
_FROM_EPOCH = 3
# Part of the prescribed step: frames of a batch are measured against an object that moves meanwhile.
_STEP = 0.7
_REGULARISATION = 0.1
# Share of detector pixels, the darkest, from whose mean counts the background starts.
_DARKEST = 0.05


class IntensityCorrection(Correction):
    """Every frame has light of its own intensity: √s_j·P with the s_j that fits the frame's amplitudes best.

    √s ← √s·Σ√k√λ / Σλ (least squares in the amplitudes); the mean of s over the scan stays 1. Cf. Odstrčil, Menzel &
    Guizar-Sicairos, Optics Express 26, 3108 (2018), section 3.5.
    """

    def __init__(self, problem: Problem) -> None:
        self.amplitude = torch.ones(len(problem.frame_index), device=problem.device)
        self._ratio = torch.ones_like(self.amplitude)

    def probe_of(self, rows: Tensor, probe: Tensor) -> Tensor:
        return probe * self.amplitude[rows].view(-1, 1, 1, 1)

    def see(self, trace: Trace) -> None:
        chunk, change = trace[0]
        waves = torch.view_as_real(chunk.waves)
        gain = (waves * torch.view_as_real(change)).sum((1, 2, 3, 4)) / waves.square().sum((1, 2, 3, 4)).clamp(
            min=1e-20
        )
        self._ratio[chunk.rows] = (1 + gain).clamp(0.5, 2)

    def end_epoch(self, estimate: Estimate, ranks: Ranks, epoch: int, step: float) -> None:
        if epoch < _FROM_EPOCH:
            return
        self.amplitude.mul_(self._ratio.pow(_STEP))
        total = torch.stack(
            [self.amplitude.double().square().sum(), self.amplitude.new_tensor(len(self.amplitude)).double()]
        )
        share(total, ranks)
        self.amplitude /= float(total[0] / total[1]) ** 0.5

    def frame_state(self) -> dict[str, Tensor]:
        return {"intensity_amplitude": self.amplitude}

    def findings(self) -> dict[str, Tensor]:
        return {"intensity": self.amplitude.square()}


class BackgroundCorrection(Correction):
    """Counts b(q) that belong to no wave, the same in every frame: one for each detector pixel, or one for all.

    Fisher scoring of the Poisson likelihood, b += Σ_j(k/μ − 1) / Σ_j(1/μ) with μ = λ + b, kept positive.
    """

    def __init__(self, problem: Problem, config: RefineConfig) -> None:
        self._problem, self._is_constant = problem, config.background == "constant"
        self.background = Background.nothing(problem.mean_counts.shape, problem.device)

    def begin_epoch(self, estimate: Estimate, ranks: Ranks, epoch: int) -> None:
        if epoch == 1:
            self.background.counts.copy_(self._darkest())
        estimate.background = self.background
        self.background.clear()

    def end_epoch(self, estimate: Estimate, ranks: Ranks, epoch: int, step: float) -> None:
        if epoch < _FROM_EPOCH:
            return
        counts, good = self.background.counts, self._problem.good
        sums = torch.stack([self.background.score, self.background.information])
        share(sums, ranks)
        score, information = sums if good is None else sums * good
        if self._is_constant:
            score, information = score.sum(), information.sum()
        change = score / information.clamp(min=torch.finfo(counts.dtype).tiny)
        counts.copy_((counts + _STEP * change).maximum(0.1 * counts))

    def state(self) -> dict[str, Tensor]:
        return {"background": self.background.counts}

    def restored(self, estimate: Estimate) -> None:
        estimate.background = self.background

    def common_findings(self) -> dict[str, Tensor]:
        return {"background": self._problem.propagator.to_file_order(self.background.counts)}

    def _darkest(self) -> Tensor:
        """Mean counts of the darkest pixels: no background is more than that on the whole."""
        mean = self._problem.mean_counts
        lit = mean if self._problem.good is None else mean[self._problem.good > 0]
        return lit.flatten().quantile(_DARKEST).clamp(min=1e-3)


class ProbeVariation(Correction):
    """The probe of each frame is P + Σ_k c_jk·V_k with few variations V: orthogonal probe relaxation.

    Source: Odstrčil, Baksh, Boden et al., Optics Express 24, 8360 (2016). Instead of a singular value decomposition of
    all probes, coefficients and variations are moved in turn by least squares, and kept orthogonal: c_jk by
    ⟨O_j V_k, χ_j⟩ / ‖O_j V_k‖², V_k by Σ_j c*_jk O_j* χ_j / Σ_j |c_jk|²|O_j|². They belong to the first mode.
    """

    def __init__(self, problem: Problem, config: RefineConfig, probe: Tensor) -> None:
        self._n_variations, n = config.probe_variations, len(problem.frame_index)
        self.variations = _orthonormal(with_modes(probe[:1], self._n_variations + 1)[1:])[0] * _norm(probe)
        self.shares = torch.zeros(n, self._n_variations, dtype=torch.complex64, device=problem.device)
        self._shift = torch.zeros_like(self.shares)
        self._numerator = torch.zeros_like(self.variations)
        self._weight = torch.zeros(self.variations.shape, device=problem.device)

    def begin_epoch(self, estimate: Estimate, ranks: Ranks, epoch: int) -> None:
        self._numerator.zero_()
        self._weight.zero_()

    def probe_of(self, rows: Tensor, probe: Tensor) -> Tensor:
        several = probe if probe.dim() == 4 else probe.expand(len(rows), *probe.shape)
        several = several.clone()
        several[:, 0] += torch.einsum("pk,kyx->pyx", self.shares[rows], self.variations)
        return several

    def see(self, trace: Trace) -> None:
        chunk, change = trace[-1]
        pulled = chunk.patches.conj() * change[:, 0]
        light = torch.view_as_real(chunk.patches).square().sum(-1)
        shares = self.shares[chunk.rows]
        power = torch.einsum("pyx,kyx->pk", light, torch.view_as_real(self.variations).square().sum(-1))
        wanted = torch.einsum("kyx,pyx->pk", self.variations.conj(), pulled)
        self._shift[chunk.rows] = wanted / power.clamp(min=1e-20)
        self._numerator += torch.einsum("pk,pyx->kyx", shares.conj(), pulled)
        self._weight += torch.einsum("pk,pyx->kyx", torch.view_as_real(shares).square().sum(-1), light)

    def end_epoch(self, estimate: Estimate, ranks: Ranks, epoch: int, step: float) -> None:
        if epoch < _FROM_EPOCH:
            return
        share(torch.view_as_real(self._numerator), ranks)
        share(self._weight, ranks)
        if float(self._weight.max()) > 0:
            for variation, numerator, weight in zip(self.variations, self._numerator, self._weight, strict=True):
                move(variation, numerator, weight, _REGULARISATION, _STEP * step)
        self.shares += _STEP * self._shift
        size = _norm(estimate.probe)
        self.variations, mixing = _orthonormal(self.variations)
        self.variations *= size
        self.shares.copy_(self.shares @ mixing.T / size)
        # What all frames have in common is the probe's.
        total = torch.view_as_real(torch.cat([self.shares.sum(0), self.shares.new_tensor([len(self.shares)])])).clone()
        share(total, ranks)
        mean = torch.view_as_complex(total[:-1].contiguous()) / total[-1, 0]
        self.shares -= mean
        estimate.probe[0] += torch.einsum("k,kyx->yx", mean, self.variations)

    def state(self) -> dict[str, Tensor]:
        return {"probe_variations": self.variations}

    def frame_state(self) -> dict[str, Tensor]:
        return {"probe_shares": self.shares}

    def findings(self) -> dict[str, Tensor]:
        return {"probe_shares": self.shares}

    def common_findings(self) -> dict[str, Tensor]:
        return {"variations": self.variations}


def _norm(probe: Tensor) -> float:
    return math.sqrt(float(torch.view_as_real(probe).square().sum()))


def _orthonormal(images: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal images (k, y, x) of the same span, and the matrix R with image_k = Σ_l R[l, k]·orthonormal_l."""
    basis, triangle = torch.linalg.qr(images.flatten(1).T.to(torch.complex128))
    return basis.T.reshape(images.shape).to(images.dtype), triangle.to(images.dtype)
