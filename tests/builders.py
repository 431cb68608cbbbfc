"""Small scans with known truth, made with numpy alone."""

from pathlib import Path

import numpy as np

from ptycho.data.geometry import Geometry
from ptycho.data.grid import ObjectGrid
from ptycho.data.scan import ArrayFrames, Scan, Truth


def make_scan(n=16, N=16, *, n_modes=1, photons=1e5, step_px=3.0, seed=0, noise=True, name="small", geometry=None):
    """A simulated scan of n frames N × N: jittered raster, smooth object, defocused spot; Poisson counts unless told.

    Returns a Scan whose probe and truth are exact.
    """
    rng = np.random.default_rng(seed)
    positions = raster(n, step_px) + rng.uniform(-0.3, 0.3, (n, 2)) * step_px + N
    grid = ObjectGrid.covering(positions, N)
    transmission = smooth_object(grid.shape, rng)
    probe = spot_probe(N, n_modes)
    patches = np.stack([bilinear_patch(transmission, corner, N) for corner in grid.corners_px(positions, N)])
    counts = far_field_counts(probe, patches)
    scale = photons / counts.sum(axis=(1, 2)).mean()
    counts, probe = counts * scale, (probe * np.sqrt(scale)).astype(np.complex64)
    stored = rng.poisson(counts).astype(np.uint32) if noise else counts.astype(np.float32)
    return Scan(
        name=name,
        path=None,
        frames=ArrayFrames(stored),
        positions_px=positions,
        probe=probe,
        geometry=geometry or Geometry(),
        object_grid=grid,
        truth=Truth(object=transmission, grid=grid, probe=probe, positions_px=positions),
        provenance={"made by": "tests"},
    )


def raster(n, step_px):
    """n points (y, x) in rows of a square raster."""
    width = int(np.ceil(np.sqrt(n)))
    return np.stack(np.divmod(np.arange(n), width), axis=1) * float(step_px)


def smooth_object(shape, rng, width=3.0):
    """A complex object (y, x), |O| between 0.8 and 1, phase within ±0.6 rad, without structure finer than `width`."""
    frequency_y, frequency_x = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None, :]
    low_pass = np.exp(-2 * (np.pi * width) ** 2 * (frequency_y**2 + frequency_x**2))
    fields = [np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) * low_pass).real for _ in range(2)]
    amplitude, phase = (field / np.abs(field).max() for field in fields)
    return ((0.9 + 0.1 * amplitude) * np.exp(0.6j * phase)).astype(np.complex64)


def spot_probe(N, n_modes=1):
    """A curved Gaussian spot (mode, y, x), centred on index N // 2; further modes are weaker and lopsided."""
    y, x = np.mgrid[:N, :N] - N // 2
    radius2 = (x**2 + y**2) / (N / 6) ** 2
    spot = np.exp(-radius2 / 2 + 0.5j * radius2)
    shapes = [np.ones_like(spot), x / N, y / N, x * y / N**2]
    return np.stack([spot * shapes[mode] for mode in range(n_modes)]).astype(np.complex64)


def bilinear_patch(image, corner, N):
    """The patch (N, N) whose first pixel lies at the fractional (y, x) corner."""
    whole = np.floor(corner).astype(int)
    fy, fx = corner - whole
    part = image[whole[0] : whole[0] + N + 1, whole[1] : whole[1] + N + 1]
    rows = part[:-1] * (1 - fy) + part[1:] * fy
    return rows[:, :-1] * (1 - fx) + rows[:, 1:] * fx


def far_field_counts(probe, patches):
    """Expected counts (position, y, x), zero frequency at N // 2, of patches (position, y, x) under a probe."""
    waves = probe[None] * patches[:, None]
    far = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(waves, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    return (np.abs(far) ** 2).sum(axis=1)


class CountingFrames:
    """Frames that remember which of them were read, and how many at once at most."""

    def __init__(self, frames):
        self.frames = frames
        self.touched = set()
        self.largest_read = 0

    @property
    def shape(self):
        return self.frames.shape

    @property
    def dtype(self):
        return self.frames.dtype

    def read(self, indices):
        self.touched |= {int(index) for index in indices}
        self.largest_read = max(self.largest_read, len(indices))
        return self.frames.read(indices)


def write_older_npz(path: Path, scan, *, compressed=True, amplitude=True, **changes):
    """The scan as older PtychoPINN programs store it; `changes` replace or (None) remove arrays."""
    counts = scan.frames.read(np.arange(scan.n_positions))
    arrays = {
        "xcoords": scan.positions_px[:, 1] - scan.grid.origin_px[1],
        "ycoords": scan.positions_px[:, 0] - scan.grid.origin_px[0],
        "diff3d": np.sqrt(counts).astype(np.float32) if amplitude else counts,
        "probeGuess": scan.probe[0],
        "objectGuess": np.ones(scan.grid.shape, np.complex64),
        **changes,
    }
    save = np.savez_compressed if compressed else np.savez
    save(path, **{name: values for name, values in arrays.items() if values is not None})
    return path
