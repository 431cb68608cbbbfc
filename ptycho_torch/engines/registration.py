"""Where frames lie, from their overlap alone: for recorded positions that are wrong by many pixels.

Each frame is solved on its own under the shared probe; neighbouring patches are registered with one another; positions
are the robust least-squares fit to all pairwise distances. Nothing is asked of the recorded positions but which frames
are neighbours, so the errors may be larger than any gradient of a common image could see.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.fft import next_fast_len
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree
from torch import Tensor

from ptycho.parallel import Ranks
from ptycho_torch.engines.problem import Problem
from ptycho_torch.engines.sums import share
from ptycho_torch.physics.modulus import modulus_change

# Sweeps of the frames on their own, the first in which the probe moves, and the regularisation of a patch's step.
_SWEEPS, _PROBE_FROM, _ALPHA = 20, 3, 0.1
# Share of the light inside the window that is solved for.
_LIT = 0.99
# Light, of its maximum, from which on a pixel counts fully when patches are compared: no rim may outweigh all.
_FULL_WEIGHT = 0.2
# Two patches are compared where they share at least this part of their light; and neighbours are those whose recorded
# distance is below this part of the beam's width.
_LEAST_OVERLAP, _NEIGHBOUR = 0.15, 0.8
# Robust fit: rounds, the first and the last scale of a residual that is believed (px), and the pull to the record.
_ROUNDS, _FIRST_SCALE_PX, _LAST_SCALE_PX, _PULL = 60, 8.0, 1.0, 1e-2
_CHUNK_PX = 2**18


@torch.no_grad()
def register_frames(problem: Problem, probe: Tensor, ranks: Ranks, reach_px: float) -> Tensor:
    """Offsets (owned frame, 2) float64 (y, x) in pixels to add to the recorded positions. Every rank must call it.

    probe:    (mode, y, x); it is improved in place
    reach_px: how far off a recorded position may be

    Sources: pairwise registration with local means taken out, Padfield, IEEE Trans. Image Process. 21, 2706 (2012);
    robust scale from coarse to fine, Black & Rangarajan, Int. J. Comput. Vis. 19, 57 (1996).
    """
    side = _lit_side(probe)
    patches = _solve_frames(problem, probe, ranks, side)
    weight = _cut(torch.view_as_real(probe).square().sum((0, -1)), side)
    weight = (weight / (_FULL_WEIGHT * weight.max())).clamp(max=1)
    recorded = np.zeros((problem.n_total, 2))
    recorded[problem.frame_index] = problem.whole_corners_px.cpu().numpy()
    ranks.all_sum(recorded)
    width = 2 * float((weight > 0.5).sum() / np.pi) ** 0.5
    pairs, distances = _register_pairs(problem, patches, weight, recorded, _NEIGHBOUR * width, 2 * reach_px, ranks)
    solved = robust_positions(pairs, distances, recorded)
    return torch.from_numpy((solved - recorded)[problem.frame_index]).to(problem.device)


def robust_positions(
    pairs: NDArray[np.int64], distances_px: NDArray[np.float64], recorded_px: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Positions (frame, 2) that fit r_i − r_j = distance of most pairs, however wrong the others are.

    pairs: (pair, 2) frames i, j; distances_px: (pair, 2); recorded_px: (frame, 2), to which a weak spring pulls
    """
    n, m = len(recorded_px), len(pairs)
    rows = np.arange(m)
    ones = np.ones(m)
    difference = sparse.csr_matrix(
        (np.concatenate([ones, -ones]), (np.concatenate([rows, rows]), np.concatenate([pairs[:, 0], pairs[:, 1]]))),
        shape=(m, n),
    )
    found, scale = recorded_px.copy(), _FIRST_SCALE_PX
    for _ in range(_ROUNDS):
        residual = distances_px - difference @ found
        # Geman–McClure weights: a pair that is far off has no say at all.
        weight = 1 / (1 + (residual**2).sum(1) / scale**2) ** 2
        normal = (difference.T @ sparse.diags(weight) @ difference + _PULL * sparse.eye(n)).tocsc()
        right = difference.T @ (weight[:, None] * distances_px) + _PULL * recorded_px
        found = np.stack([spsolve(normal, right[:, axis]) for axis in (0, 1)], 1)
        scale = max(_LAST_SCALE_PX, 0.9 * scale)
    return found


def _solve_frames(problem: Problem, probe: Tensor, ranks: Ranks, side: int) -> Tensor:
    """Patches (owned, side, side) that explain each frame on its own; the shared probe is improved in place.

    What all patches have in common in the window's own coordinates cannot be the sample, which moves: it is the
    probe's, and is handed over to it.
    """
    n, size = len(problem.frame_index), problem.patch_size
    patches = torch.ones(n, side, side, dtype=torch.complex64, device=problem.device)
    scale = problem.mean_photons**0.5 / size
    for sweep in range(1, _SWEEPS + 1):
        moves_probe = sweep >= _PROBE_FROM
        light = torch.view_as_real(probe).square().sum((0, -1))
        step = 1 / ((1 - _ALPHA) * light + _ALPHA * light.max())
        numerator, weight = torch.zeros_like(probe), torch.zeros_like(light)
        for rows in _rows(n, probe.numel(), problem.device):
            frames = _filled(patches[rows], size)
            amplitude = problem.amplitude.index_select(0, rows)
            waves, kernel = probe * frames.unsqueeze(1), problem.propagator.kernel
            change, _ = modulus_change(waves, amplitude, problem.good, scale, kernel=kernel)
            if moves_probe:
                numerator += (frames.conj().unsqueeze(1) * change).sum(0)
                weight += torch.view_as_real(frames).square().sum((0, -1))
            patches[rows] += _cut((probe.conj() * change).sum(1) * step, side)
        if moves_probe:
            packed = torch.cat([torch.view_as_real(numerator).flatten(), weight.flatten()])
            share(packed, ranks)
            moved = torch.view_as_complex(packed[: 2 * probe.numel()].view(*probe.shape, 2))
            probe += moved / packed[2 * probe.numel() :].view(size, size)
            if sweep % 2 == 0:
                _hand_over_common_part(patches, probe, ranks)
    return patches


def _hand_over_common_part(patches: Tensor, probe: Tensor, ranks: Ranks) -> None:
    """Divide patches by their mean, each turned to the common phase, and multiply the probe by it."""
    side = patches.shape[-1]
    light = _cut(torch.view_as_real(probe).square().sum((0, -1)), side)
    mean = torch.ones(side, side, dtype=patches.dtype, device=patches.device)
    for _ in range(3):
        turn = torch.sgn((patches * (mean.conj() * light)).sum((1, 2)))
        packed = torch.view_as_real(torch.einsum("nyx,n->yx", patches, turn.conj())).flatten()
        share(packed, ranks)
        mean = torch.view_as_complex(packed.view(side, side, 2))
        mean = mean * (light.sum() / (mean.abs() * light).sum())
    # In the dark the mean is noise: there nothing is handed over.
    trust = (light / (_FULL_WEIGHT * light.max())).clamp(max=1)
    common = 1 + (mean - 1) * trust
    common = torch.polar(common.abs().clamp(0.3, 3), common.angle())
    patches /= common
    _cut(probe, side).mul_(common)


def _register_pairs(
    problem: Problem,
    patches: Tensor,
    weight: Tensor,
    recorded: NDArray[np.float64],
    neighbour_px: float,
    reach_px: float,
    ranks: Ranks,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """All pairs of neighbours (pair, 2) and their distances (pair, 2), on every rank.

    Ranks take turns to show their patches; each registers its own frames with those shown, every pair once.
    """
    every_pair = np.asarray(sorted(cKDTree(recorded).query_pairs(neighbour_px)), dtype=np.int64).reshape(-1, 2)
    owner = np.zeros(problem.n_total, dtype=np.int64)
    owner[problem.frame_index] = ranks.rank
    ranks.all_sum(owner)
    distances = np.zeros((len(every_pair), 2))
    register = _Registration(weight, reach_px)
    for shown in range(ranks.size):
        frames = np.flatnonzero(owner == shown)
        is_mine = ranks.rank == shown
        others = torch.zeros(len(frames), *patches.shape[1:], dtype=patches.dtype)
        if is_mine:
            others[torch.from_numpy(np.searchsorted(frames, problem.frame_index))] = patches.cpu()
        share(torch.view_as_real(others), ranks)
        others = others.to(problem.device)
        own_row = _row_of(problem.frame_index, problem.n_total)
        other_row = _row_of(frames, problem.n_total)
        chosen = np.flatnonzero((own_row[every_pair[:, 0]] >= 0) & (other_row[every_pair[:, 1]] >= 0))
        for part in np.array_split(chosen, max(1, -(-len(chosen) * register.side**2 // _CHUNK_PX))):
            i, j = every_pair[part].T
            first, second = patches[own_row[i]], others[other_row[j]]
            distances[part] = register(first, second, recorded[i] - recorded[j])
    ranks.all_sum(distances)
    return every_pair, distances


class _Registration:
    """Distances of patches by the peak of their normalised cross-correlation under one weight (side, side)."""

    def __init__(self, weight: Tensor, reach_px: float) -> None:
        self.side = next_fast_len(2 * weight.shape[-1])
        self._weight, self._reach_px = weight, reach_px
        self._weight_spectrum = self._spectrum(weight)
        overlap = torch.fft.ifft2(self._weight_spectrum.abs().square()).real
        self._overlap = overlap.clamp(min=1e-3 * float(overlap.max()))
        self._enough = overlap > _LEAST_OVERLAP * overlap.max()
        self._lags = torch.fft.fftfreq(self.side, 1 / self.side, device=weight.device)

    def __call__(self, first: Tensor, second: Tensor, expected_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """r_i − r_j (pair, 2): second(x + d) looks like first(x) up to a factor. expected_px: where to look."""
        correlation = self._correlation(first, second)
        wanted = torch.from_numpy(expected_px).to(correlation)
        off_y = (self._lags[None, :] - wanted[:, :1]).square()
        off_x = (self._lags[None, :] - wanted[:, 1:]).square()
        near = off_y[:, :, None] + off_x[:, None, :] <= self._reach_px**2
        best = torch.where(near & self._enough, correlation, -1).flatten(1).argmax(1).cpu().numpy()
        return _parabola_peak(correlation.cpu().numpy(), best, self._lags.cpu().numpy())

    def _correlation(self, first: Tensor, second: Tensor) -> Tensor:
        """Modulus of the correlation coefficient (pair, side, side) over the shared light, local means taken out."""
        light, inverse = self._weight_spectrum, torch.fft.ifft2
        a, b = self._spectrum(first * self._weight), self._spectrum(second * self._weight)
        sum_a, sum_b = inverse(a.conj() * light), inverse(light.conj() * b)
        shared = inverse(a.conj() * b) - sum_a * sum_b / self._overlap
        power_a = inverse(self._power(first).conj() * light).real - sum_a.abs().square() / self._overlap
        power_b = inverse(light.conj() * self._power(second)).real - sum_b.abs().square() / self._overlap
        floor = 1e-4 * float(self._overlap.max()) ** 2
        agreement: Tensor = shared.abs() / (power_a * power_b).clamp(min=floor).sqrt()
        return agreement

    def _power(self, patches: Tensor) -> Tensor:
        return self._spectrum(torch.view_as_real(patches).square().sum(-1) * self._weight)

    def _spectrum(self, images: Tensor) -> Tensor:
        spectrum: Tensor = torch.fft.fft2(images, s=(self.side, self.side))
        return spectrum


def _parabola_peak(
    surface: NDArray[np.float32], best: NDArray[np.int64], lags: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Sub-pixel places (pair, 2) of the maxima at flat index `best` of periodic surfaces (pair, side, side)."""
    side = surface.shape[-1]
    index = np.stack(np.divmod(best, side), 1)
    pair = np.arange(len(surface))
    places: NDArray[np.float64] = lags[index].astype(np.float64)
    for axis, step in enumerate(((1, 0), (0, 1))):
        before, here, after = (
            surface[pair, (index[:, 0] + k * step[0]) % side, (index[:, 1] + k * step[1]) % side] for k in (-1, 0, 1)
        )
        bend = before - 2 * here + after
        places[:, axis] += np.clip(np.where(bend < 0, 0.5 * (before - after) / np.minimum(bend, -1e-12), 0), -0.5, 0.5)
    return places


def _lit_side(probe: Tensor) -> int:
    """Width of the centred window, even, that holds nearly all the light of a probe (mode, y, x)."""
    light = torch.view_as_real(probe).square().sum((0, -1))
    size = int(light.shape[-1])
    for side in range(8, size, 4):
        if _cut(light, side).sum() >= _LIT * light.sum():
            return side
    return size


def _cut(images: Tensor, side: int) -> Tensor:
    """The central (…, side, side) part, a view."""
    low = images.shape[-1] // 2 - side // 2
    return images[..., low : low + side, low : low + side]


def _filled(patches: Tensor, size: int) -> Tensor:
    """Patches in frames (position, size, size) of vacuum."""
    frames = torch.ones(len(patches), size, size, dtype=patches.dtype, device=patches.device)
    _cut(frames, patches.shape[-1]).copy_(patches)
    return frames


def _rows(n: int, wave_px: int, device: torch.device) -> Iterator[Tensor]:
    step = max(1, _CHUNK_PX // wave_px)
    return (torch.arange(first, min(first + step, n), device=device) for first in range(0, n, step))


def _row_of(frames: NDArray[np.int64], n_total: int) -> NDArray[np.int64]:
    """Row of each frame of the scan among `frames`, −1 where it is not there."""
    rows = np.full(n_total, -1, dtype=np.int64)
    rows[frames] = np.arange(len(frames))
    return rows
