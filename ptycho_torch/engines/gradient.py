"""Gradient engine: Adam or L-BFGS on object and probe, through autograd over the forward model."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.config.refine import RefineConfig
from ptycho.parallel import Ranks
from ptycho_torch.engines.estimate import Chunk
from ptycho_torch.engines.problem import Problem
from ptycho_torch.engines.quasi_newton import Lbfgs
from ptycho_torch.engines.start import illumination
from ptycho_torch.engines.sums import share
from ptycho_torch.engines.sweeping import SweepingEngine
from ptycho_torch.physics.likelihood import amplitude_error, poisson_deviance, r_factor_terms

# Part of the largest illumination added to it before it scales the object's coordinates: dark pixels stay calm.
_RIDGE = 0.01
# Adam's averages (Kingma & Ba 2015), shorter than usual: an epoch has a few dozen steps.
_ADAM_BETAS, _ADAM_EPSILON = (0.9, 0.99), 1e-12


class Gradient(SweepingEngine):
    """Minimises the deviance of the counts, Poisson or amplitude, by gradients that autograd takes.

    Object and probe are scaled so that a unit step means about the same for each pixel: the object by the root of its
    illumination, the probe by the root of the number of frames (the diagonal of the Gauss-Newton matrix). Adam
    (Kingma & Ba 2015) moves after each batch; L-BFGS (Nocedal 1980) once an epoch, on all frames, with backtracking.
    Ranks add gradients.
    """

    def __init__(
        self,
        problem: Problem,
        config: RefineConfig,
        ranks: Ranks,
        probe: NDArray[np.complex64],
        object_start: NDArray[np.complex64] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """See `SweepingEngine`."""
        super().__init__(problem, config, ranks, probe, object_start, seed=seed)
        estimate = self.estimate
        # Made from the light of the first epoch; kept in the checkpoint.
        self._object_scale = torch.zeros(estimate.object.shape, device=problem.device)
        self._probe_scale = 1 / math.sqrt(problem.n_total)
        self._deviance = poisson_deviance if config.likelihood == "poisson" else amplitude_error
        self._n_object = estimate.object.numel()
        n = 2 * (self._n_object + estimate.probe.numel())
        self._moments = torch.zeros(2, n, device=problem.device)
        self._n_steps = torch.zeros((), dtype=torch.int64)
        self._lbfgs = Lbfgs(n, problem.device) if config.optimizer == "lbfgs" else None
        self._missed = 0.0

    def _sweep(self, epoch: int, step: float) -> float:
        if not bool(self._object_scale.any()):
            light = illumination(self.estimate.probe, self._problem, self._ranks)
            self._object_scale.copy_((light + _RIDGE * light.max()).rsqrt())
        if self._lbfgs is not None:
            return self._iterate(self._lbfgs, epoch)
        missed = 0.0
        for members in self._batches(epoch):
            _, gradient = self._evaluate(members, epoch)
            missed += self._missed
            self._adam_step(gradient, step * self.config.learning_rate)
        return missed

    def _iterate(self, lbfgs: Lbfgs, epoch: int) -> float:
        """One L-BFGS iteration on all frames."""
        rows = torch.arange(len(self._problem.frame_index), device=self._problem.device)
        start = self._coordinates()
        missed: list[float] = []

        def evaluate(at: Tensor) -> tuple[float, Tensor]:
            self._take(at)
            result = self._evaluate(rows, epoch)
            missed.append(self._missed)
            return result

        self._take(lbfgs.step(start, evaluate))
        return missed[-1]

    def _evaluate(self, rows: Tensor, epoch: int) -> tuple[float, Tensor]:
        """Deviance of the frames at `rows` over all ranks, and its gradient in scaled coordinates, real (n,)."""
        estimate, problem = self.estimate, self._problem
        n_good = float(problem.good.sum()) if problem.good is not None else problem.patch_size**2
        object_now, probe_now = estimate.object, estimate.probe
        # One buffer, so that ranks meet once: gradients, deviance, missed amplitude.
        sums = torch.zeros(2 * (self._n_object + probe_now.numel()) + 2, device=problem.device)
        with torch.enable_grad():
            estimate.object = object_now.clone().requires_grad_()
            estimate.probe = probe_now.clone().requires_grad_(self._moves_probe(epoch))
            for part in self._chunks(rows):
                chunk = estimate.look(part)
                amplitude = problem.amplitude.index_select(0, part)
                expected = estimate.expected(chunk)
                # Half a deviance per pixel is the negative log-likelihood; Gauss-Newton then scales by about 2.
                loss = self._deviance(amplitude.square(), expected, problem.good).sum() * (n_good / 4)
                chunk.waves.retain_grad()
                torch.autograd.backward(loss)
                sums[-2] += loss.detach()
                sums[-1] += r_factor_terms(amplitude, expected.detach(), problem.good)[0]
                self._tell(chunk, expected.detach(), amplitude)
            gradients = [estimate.object.grad, estimate.probe.grad]
            leaves = [estimate.object, estimate.probe]
        estimate.object, estimate.probe = object_now, probe_now
        flat = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(gradients, leaves, strict=True)]
        sums[:-2] = self._flatten(flat[0] * self._object_scale, flat[1] * self._probe_scale)
        share(sums, self._ranks)
        self._missed = float(sums[-1])
        return float(sums[-2]), sums[:-2]

    @torch.no_grad()
    def _tell(self, chunk: Chunk, expected: Tensor, amplitude: Tensor) -> None:
        """Show a chunk to the corrections; the gradient of its waves stands for the change by the projection."""
        if self.estimate.background is not None:
            self.estimate.background.see(expected, amplitude)
        if self.estimate.corrections and chunk.waves.grad is not None:
            trace = self.estimate.trace(chunk, chunk.waves.grad / -2)
            for correction in self.estimate.corrections:
                correction.see(trace)

    def _adam_step(self, gradient: Tensor, rate: float) -> None:
        first, second = self._moments
        self._n_steps += 1
        n, (one, two) = int(self._n_steps), _ADAM_BETAS
        first.lerp_(gradient, 1 - one)
        second.mul_(two).addcmul_(gradient, gradient, value=1 - two)
        root = (second / (1 - two**n)).sqrt_()
        # Coordinates are O·√light: a step of `rate` in O itself is rate·√light, and for the probe rate·|P| likewise.
        move = first / (1 - one**n) / (root + _ADAM_EPSILON)
        image, probe = self._unflatten(move)
        self.estimate.object -= rate * image
        rms = self.estimate.probe.abs().square().mean().sqrt()
        self.estimate.probe -= rate * rms * probe

    def _coordinates(self) -> Tensor:
        return self._flatten(self.estimate.object / self._object_scale, self.estimate.probe / self._probe_scale)

    def _take(self, coordinates: Tensor) -> None:
        image, probe = self._unflatten(coordinates)
        torch.mul(image, self._object_scale, out=self.estimate.object)
        torch.mul(probe, self._probe_scale, out=self.estimate.probe)

    def _flatten(self, image: Tensor, probe: Tensor) -> Tensor:
        return torch.cat([torch.view_as_real(part).reshape(-1) for part in (image, probe)])

    def _unflatten(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        cut = 2 * self._n_object
        image = torch.view_as_complex(flat[:cut].view(*self.estimate.object.shape, 2))
        return image, torch.view_as_complex(flat[cut:].view(*self.estimate.probe.shape, 2))

    def _state(self) -> dict[str, Tensor]:
        own = {"moments": self._moments, "n_steps": self._n_steps} if self._lbfgs is None else self._lbfgs.state()
        return super()._state() | own | {"object_scale": self._object_scale}
