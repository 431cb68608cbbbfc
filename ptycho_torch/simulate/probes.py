"""Probes: the light that falls on the sample.

All are complex64 with their centre at index N // 2. Widths are in object pixels, spatial frequencies in cycles per
object pixel (0.5 is the edge of the detector), and defocus is λz/dx² in square object pixels: a beam of angular
radius a (cycles per pixel) spreads to a radius a · defocus. A parameter may be a tensor (n,), for n probes (n, y, x).
"""

from __future__ import annotations

import math
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho.data.formats import open_scan
from ptycho.errors import DataError
from ptycho_torch.physics.propagate import far_field, near_sample, to_centred, to_fft_order
from ptycho_torch.simulate.patterns import radial_frequency

Parameter = float | Tensor
AnyArray = NDArray[np.generic]

# Width of the logistic edge of apertures: about half a detector pixel at N = 64, so that no ringing fills the window.
PUPIL_EDGE = 0.01
# Of a measured probe that has to be cropped, at most this share of its power may be cut off.
LOST_POWER = 0.01


def zone_plate(
    size: int, *, aperture: Parameter, stop: Parameter, defocus_px2: Parameter, device: torch.device | None = None
) -> Tensor:
    """Focus of a zone plate with central stop, out of focus: what X-ray nanoprobes use. (y, x) or (n, y, x).

    aperture, stop: radii of the annular far field in cycles per pixel; positive defocus: the sample is before the focus
    """
    radius = radial_frequency((size, size), device or torch.device("cpu"))
    pupil = torch.sigmoid((_wide(aperture) - radius) / PUPIL_EDGE)
    pupil = pupil * torch.where(_wide(stop) > 0, torch.sigmoid((radius - _wide(stop)) / PUPIL_EDGE), 1.0)
    wave = torch.polar(pupil, math.pi * _wide(defocus_px2) * radius.square())
    return to_centred(near_sample(wave))


def gaussian(size: int, *, diameter_px: Parameter, defocus_px2: float = 0.0) -> Tensor:
    """A Gaussian beam whose intensity has the given full width at half maximum at its waist. (y, x) or (n, y, x)."""
    radius = _radius_px(size)
    # Intensity falls to half at diameter / 2: exp(-4 ln2 r² / d²); the amplitude is its square root.
    amplitude = torch.exp(-2 * math.log(2) * (radius / _wide(diameter_px)).square())
    return defocused(amplitude.to(torch.complex64), defocus_px2)


def disk(size: int, *, diameter_px: Parameter, defocus_px2: float = 0.0) -> Tensor:
    """Light behind a pinhole of the given diameter, with an edge one pixel soft. (y, x) or (n, y, x)."""
    amplitude = torch.sigmoid((_wide(diameter_px) / 2 - _radius_px(size)) / 0.7)
    return defocused(amplitude.to(torch.complex64), defocus_px2)


def measured(path: Path, key: str | None, size: int) -> Tensor:
    """Probe modes (mode, y, x) from an .npy file, an array of an .npz file, or a scan of any known format.

    Cropped or padded with darkness to the size asked, about its index N // 2. Raises DataError when the file has no
    such probe, or when cropping would cut off more than 1 % of its power.
    """
    array = _probe_array(path, key)
    if array.ndim < 2 or array.shape[-1] != array.shape[-2] or not np.isfinite(array).all() or not array.any():
        raise DataError(
            f"{path}: the probe has shape {array.shape}; it must be square, (mode, y, x), finite and not zero."
        )
    modes = torch.from_numpy(array.reshape(-1, *array.shape[-2:]).astype(np.complex64))
    fitted = _resized(modes, size)
    lost = 1 - float(power(fitted) / power(modes))
    if lost > LOST_POWER:
        raise DataError(
            f"{path}: cropping the probe from {modes.shape[-1]} to {size} pixels cuts off {lost:.0%} of its power;"
            f" choose patch_size {modes.shape[-1]}."
        )
    return fitted


def defocused(probe: Tensor, defocus_px2: Parameter) -> Tensor:
    """The probe (..., y, x) after free flight, in the Fresnel approximation of the angular spectrum."""
    if isinstance(defocus_px2, float | int) and defocus_px2 == 0:
        return probe
    radius = radial_frequency((probe.shape[-1], probe.shape[-1]), probe.device)
    flight = _phasor(math.pi * _wide(defocus_px2) * radius.square())
    return to_centred(near_sample(far_field(to_fft_order(probe)) * flight))


def with_modes(probe: Tensor, fractions: tuple[float, ...]) -> Tensor:
    """Orthogonal incoherent modes (mode, y, x) made of a probe (y, x): itself, then with one, two … nodes.

    The modes of a partially coherent beam look like this: the beam times Hermite polynomials in y and x, made
    orthogonal (Thibault & Menzel, Nature 494, 68 (2013)). fractions: each mode's share of the power of the probe.
    """
    n = len(fractions)
    size = probe.shape[-1]
    along = torch.arange(size, dtype=torch.float64) - size // 2
    light = probe.to(torch.complex128)
    # The beam's own radius as the unit keeps high polynomials from living only in its faint tails.
    weight = light.abs().square().sum(0)
    unit = ((along.square() * weight).sum() / weight.sum()).sqrt().clamp(min=1)
    degrees = [(total - k, k) for total in range(n) for k in range(total + 1)][:n]
    candidates = torch.stack([light * (along[:, None] / unit) ** i * (along[None, :] / unit) ** k for i, k in degrees])
    orthogonal, triangle = torch.linalg.qr(candidates.reshape(n, -1).T)
    # QR may turn a mode by a sign; the first must stay the probe itself.
    orthogonal = orthogonal * torch.sgn(torch.diagonal(triangle))
    shares = torch.tensor(fractions, dtype=torch.float64) * power(light)
    modes: Tensor = orthogonal.T.reshape(n, size, size) * shares.sqrt()[:, None, None]
    return modes.to(torch.complex64)


def with_photons(probe: Tensor, photons: float) -> Tensor:
    """The probe (mode, y, x) scaled so that all modes together bring this number of photons."""
    scaled: Tensor = probe * (photons / power(probe)).sqrt()
    return scaled


def power(probe: Tensor) -> Tensor:
    """Photons that all modes of a probe (..., y, x) bring together."""
    return probe.abs().square().sum(dtype=torch.float64).float()


def _phasor(phase: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(phase), phase)


def _wide(parameter: Parameter) -> Tensor:
    return torch.as_tensor(parameter, dtype=torch.float32)[..., None, None]


def _radius_px(size: int) -> Tensor:
    along = torch.arange(size, dtype=torch.float32) - size // 2
    return torch.hypot(along[:, None], along[None, :])


def _resized(modes: Tensor, size: int) -> Tensor:
    """Cropped or zero-padded (mode, size, size), keeping index N // 2 at index N // 2."""
    low = size // 2 - modes.shape[-1] // 2
    high = size - modes.shape[-1] - low
    return torch.nn.functional.pad(modes, (low, high, low, high))


def _probe_array(path: Path, key: str | None) -> AnyArray:
    if not path.is_file():
        raise DataError(f"{path}: there is no such file to take the probe from.")
    if path.suffix == ".npy":
        return _loaded(path, None)
    if path.suffix == ".npz" and key is not None:
        return _loaded(path, key)
    if key is not None:
        raise DataError(f"{path}: probe_key = {key!r} names an array of an .npz file; leave it out for other files.")
    try:
        probe = open_scan(path).probe
    except DataError as error:
        hint = " To take one of its arrays as the probe, name it by probe_key." if path.suffix == ".npz" else ""
        raise DataError(f"{error}{hint}") from error
    if probe is None:
        raise DataError(f"{path}: the scan has no probe; give a file that has one.")
    return probe


def _loaded(path: Path, key: str | None) -> AnyArray:
    try:
        # NumPy leaves a broken archive open when it is given a path.
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            names = [] if key is None else content.files
            array: AnyArray | None = content if key is None else content[key] if key in names else None
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise DataError(f"{path} cannot be read as a NumPy file ({error}).") from error
    if array is None:
        raise DataError(f"{path} has no array {key!r}. It contains: {', '.join(sorted(names))}.")
    return array
