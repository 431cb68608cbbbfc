"""One small file, or group of files, of every format that is read, all of the same simulated measurement."""

from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
from PIL import Image

from ptycho.data.formats import ReadOverrides
from ptycho.data.formats.data_keys import DataKeys
from ptycho.data.formats.hdf5 import write_scan
from ptycho.data.formats.product import Product, write_product
from ptycho.data.formats.units import EV_J
from ptycho.data.geometry import HC_EV_M, Geometry
from tests.builders import make_scan, write_older_npz

N_FRAMES, SIZE = 12, 16
GEOMETRY = Geometry(energy_eV=8000.0, distance_m=0.75, detector_pixel_m=(75e-6, 75e-6))
PIXEL_M = GEOMETRY.object_pixel(SIZE)[0]
STATED = {"energy_eV": 8000.0, "distance_m": 0.75, "detector_pixel_m": (75e-6, 75e-6)}


def measured():
    """The measurement that every sample holds: bright enough that nothing about it is in doubt."""
    return make_scan(n=N_FRAMES, N=SIZE, n_modes=2, photons=2e5, geometry=GEOMETRY)


def counts(scan):
    return scan.frames.read(np.arange(scan.n_positions)).astype(np.uint16)


def positions_m(scan):
    return scan.positions_px * PIXEL_M


def ours(folder: Path):
    write_scan(measured(), folder / "scan.h5")
    return folder / "scan.h5", ReadOverrides()


def older_npz(folder):
    scan = measured()
    write_older_npz(folder / "scan.npz", scan, diff3d=counts(scan), probeGuess=scan.probe)
    return folder / "scan.npz", ReadOverrides(**STATED)


def slac_npz(folder):
    scan = measured()
    moved = scan.positions_px - scan.grid.origin_px
    np.savez_compressed(
        folder / "slac.npz", diffraction=np.moveaxis(counts(scan), 0, -1), xcoords_start=moved[:, 1],
        ycoords_start=moved[:, 0], probeGuess=scan.probe[0], objectGuess=np.ones(scan.grid.shape, np.complex64),
    )  # fmt: skip
    return folder / "slac.npz", ReadOverrides(**STATED)


def tike(folder):
    scan = measured()
    np.savez_compressed(
        folder / "tike.npz", data=np.fft.ifftshift(counts(scan), axes=(1, 2))[None], scan=scan.positions_px[None] - 8,
        probe=scan.probe[None, None, None],
    )  # fmt: skip
    return folder / "tike.npz", ReadOverrides(**STATED)


def cxi(folder, **changes):
    scan = measured()
    with h5py.File(folder / "scan.cxi", "w") as file:
        write_cxi(file, scan)
    return folder / "scan.cxi", ReadOverrides(**changes)


def write_cxi(file, scan):
    file["cxi_version"] = 160
    detector = file.create_group("entry_1/instrument_1/detector_1")
    detector.create_dataset("data", data=counts(scan), chunks=(1, SIZE, SIZE), compression="gzip")
    detector["distance"], detector["x_pixel_size"], detector["y_pixel_size"] = 0.75, 75e-6, 75e-6
    bad = np.zeros((SIZE, SIZE), np.uint32)
    bad[0, 1], bad[3, 3] = 0x1, 0x1000
    detector["mask"] = bad
    file["entry_1/instrument_1/source_1/energy"] = 8000.0 * EV_J
    moved = positions_m(scan)
    file["entry_1/sample_1/geometry_1/translation"] = np.stack([moved[:, 1], moved[:, 0], 0 * moved[:, 0]], axis=1)
    file["entry_1/data_1/data"] = h5py.SoftLink("/entry_1/instrument_1/detector_1/data")


def nxcxi(folder):
    """A raster, as Diamond writes it: frames of four axes in another file, energy in the beam, beam centre recorded."""
    scan = measured()
    frames = np.zeros((3, 4, SIZE + 8, SIZE + 12), np.uint32)
    frames[:, :, 2 : 2 + SIZE, 5 : 5 + SIZE] = counts(scan).reshape(3, 4, SIZE, SIZE)
    with h5py.File(folder / "raw.h5", "w") as file:
        file.create_dataset("frames", data=frames, chunks=(1, 1, *frames.shape[2:]), **hdf5plugin.Bitshuffle())
    layout = h5py.VirtualLayout(frames.shape, frames.dtype)
    layout[...] = h5py.VirtualSource("raw.h5", "frames", frames.shape)
    with h5py.File(folder / "scan.nxs", "w") as file:
        file["cxi_version"] = 160
        file.create_virtual_dataset("entry_1/instrument_1/detector_1/data", layout)
        detector = file["entry_1/instrument_1/detector_1"]
        detector["distance"], detector["x_pixel_size"], detector["y_pixel_size"] = 0.75, 75e-6, 75e-6
        detector["beam_center_y"], detector["beam_center_x"] = 10.0, 13.0
        file["entry_1/instrument_1/beam_1/energy"] = 8.0
        file["entry_1/instrument_1/beam_1/energy"].attrs["units"] = "keV"
        file["entry_1/instrument_1/source_1/energy"] = 3e9
        file["entry_1/instrument_1/source_1/energy"].attrs["units"] = "eV"
        moved = positions_m(scan)
        file["entry_1/data_1/translation"] = np.stack([moved[:, 1], moved[:, 0], 0 * moved[:, 0]], axis=1) * 1e6
        file["entry_1/data_1/translation"].attrs["units"] = "um"
    return folder / "scan.nxs", ReadOverrides(window_px=SIZE)


def ptychodus_frames(folder):
    """diffraction.h5 and product.h5, in another order and with a frame too many."""
    scan = measured()
    order = np.random.default_rng(1).permutation(N_FRAMES)
    with h5py.File(folder / "diffraction.h5", "w") as file:
        extra = np.concatenate([counts(scan), np.ones((1, SIZE, SIZE), np.uint16)])
        file.create_dataset("patterns", data=extra, chunks=(1, SIZE, SIZE), compression="lzf")
        file["patterns"].attrs.update(detector_pixel_height_m=75e-6, detector_pixel_width_m=75e-6)
        file["indexes"] = np.arange(N_FRAMES + 1) + 5
        bad = np.zeros((SIZE, SIZE), bool)
        bad[0, 1] = True
        file["bad_pixels"] = bad
    product = Product(
        name="sample", object=np.ones(scan.grid.shape, np.complex64), grid=scan.grid, probe=scan.probe,
        positions_px=scan.positions_px[order], indexes=order + 5,
        geometry=Geometry(energy_eV=8000, distance_m=0.75, object_pixel_m=(PIXEL_M, PIXEL_M)),
    )  # fmt: skip
    write_product(product, folder / "product.h5")
    return folder / "diffraction.h5", ReadOverrides()


def ptychodus_npz(folder):
    ptychodus_frames(folder)
    with h5py.File(folder / "diffraction.h5") as file:
        np.savez(folder / "diffraction.npz", **{name: file[name][()] for name in file})
    return folder / "diffraction.npz", ReadOverrides()


def product(folder):
    ptychodus_frames(folder)
    return folder / "product.h5", ReadOverrides()


def training_data(folder):
    scan = measured()
    moved = scan.positions_px - scan.grid.origin_px - 0.5
    with h5py.File(folder / "training_data.h5", "w") as file:
        file["patterns"], file["bad_pixels"] = counts(scan), np.zeros((SIZE, SIZE), bool)
        file["probe"], file["object"] = scan.probe, np.ones(scan.grid.shape, np.complex64)
        file["probe_position_y_px"], file["probe_position_x_px"] = moved.T
        file["object_pixel_height_m"] = file["object_pixel_width_m"] = PIXEL_M
        file["detector_object_distance_m"], file["photon_energy_eV"] = 0.75, 8000.0
    return folder / "training_data.h5", ReadOverrides()


def dp_para(folder):
    """PtychoViT's pair."""
    scan = measured()
    with h5py.File(folder / "s1_dp.hdf5", "w") as file:
        file.create_dataset("dp", data=counts(scan).astype(np.float32), chunks=(1, SIZE, SIZE))
    with h5py.File(folder / "s1_para.hdf5", "w") as file:
        file["object"], file["probe"] = np.ones((1, *scan.grid.shape), np.complex64), scan.probe[None]
        centre = (np.array(scan.grid.origin_px) + (np.array(scan.grid.shape) - 1) / 2 + 0.5) * PIXEL_M
        file["object"].attrs.update(
            center_y_m=centre[0], center_x_m=centre[1], pixel_height_m=PIXEL_M, pixel_width_m=PIXEL_M
        )
        file["probe_position_y_m"], file["probe_position_x_m"] = positions_m(scan).T
        file["photon_energy_eV"] = 8000.0
    return folder / "s1_dp.hdf5", ReadOverrides()


def fold_slice(folder):
    scan = measured()
    with h5py.File(folder / "data_roi0_dp.hdf5", "w") as file:
        file["dp"] = counts(scan)
    with h5py.File(folder / "data_roi0_para.hdf5", "w") as file:
        file["ppY"], file["ppX"] = positions_m(scan).T
        file["dx"], file["lambda"] = PIXEL_M, HC_EV_M / 8000
    return folder / "data_roi0_dp.hdf5", ReadOverrides()


def matlab(folder):
    """As MATLAB's save -v7.3 writes: a block of text in front, axes reversed."""
    scan, path = measured(), folder / "scan.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["dp"] = counts(scan).swapaxes(1, 2)
        file["ppY"], file["ppX"] = (column[None] for column in positions_m(scan).T)
        file["dx"], file["lambda"] = np.full((1, 1), PIXEL_M), np.full((1, 1), HC_EV_M / 8000)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path, ReadOverrides()


def ptyd(folder):
    scan = measured()
    with h5py.File(folder / "scan.ptyd", "w") as file:
        file["meta/energy"], file["meta/distance"], file["meta/psize"] = 8.0, 0.75, np.array([75e-6, 75e-6])
        weight = np.ones((SIZE, SIZE))
        weight[0, 1] = 0
        file["meta/weight2d"] = weight
        for name, part in (("0", slice(0, 5)), ("1", slice(5, 10)), ("10", slice(10, 12))):
            chunk = file.create_group(f"chunks/{name}")
            chunk["data"], chunk["positions"] = counts(scan)[part].astype(np.int32), positions_m(scan)[part]
            chunk["weights"] = np.zeros((0,))
    return folder / "scan.ptyd", ReadOverrides()


def eiger(folder):
    """A master file with bitshuffle/LZ4 data files, gaps, a link to a file that was never written, positions as CSV."""
    scan = measured()
    gap = np.iinfo(np.uint32).max
    frames = np.zeros((N_FRAMES, SIZE + 6, SIZE + 20), np.uint32)
    frames[:, 3 : 3 + SIZE, 11 : 11 + SIZE] = counts(scan)
    frames[:, 4, :] = gap
    for number, part in ((1, slice(0, 5)), (2, slice(5, 10)), (3, slice(10, 12))):
        with h5py.File(folder / f"scan_data_{number:06d}.h5", "w") as file:
            home = file.create_group("entry/data")
            home.create_dataset("data", data=frames[part], chunks=(1, *frames.shape[1:]), **hdf5plugin.Bitshuffle())
    with h5py.File(folder / "scan_master.h5", "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = np.bytes_("NXentry")
        for number in (1, 2, 3, 4):
            file[f"entry/data/data_{number:06d}"] = h5py.ExternalLink(f"scan_data_{number:06d}.h5", "/entry/data/data")
        detector = file.create_group("entry/instrument/detector")
        detector.attrs["NX_class"] = np.bytes_("NXdetector")
        for name, value, units in (
            ("detector_distance", 0.75, "m"), ("x_pixel_size", 75e-6, "m"), ("y_pixel_size", 75e-6, "m"),
            ("beam_center_y", 11.0, "pixel"), ("beam_center_x", 19.0, "pixel"),
            ("detectorSpecific/photon_energy", 8000.0, "eV"),
        ):  # fmt: skip
            detector[name] = value
            detector[name].attrs["units"] = np.bytes_(units)
    np.savetxt(folder / "positions.csv", positions_m(scan), delimiter=",", fmt="%.17g")
    return folder / "scan_master.h5", ReadOverrides(positions=folder / "positions.csv", window_px=SIZE)


def nexus(folder):
    """A beamline's file: classes instead of fixed names, units of its own, an external link to the frames."""
    scan = measured()
    with h5py.File(folder / "frames.h5", "w") as file:
        file["data"] = counts(scan)
    with h5py.File(folder / "i08.nxs", "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        detector = file.create_group("entry/instrument/andor")
        detector.attrs["NX_class"] = "NXdetector"
        detector["data"] = h5py.ExternalLink("frames.h5", "/data")
        for name, value in (("distance", 750.0), ("x_pixel_size", 0.075), ("y_pixel_size", 0.075)):
            detector[name] = value
            detector[name].attrs["units"] = "mm"
        beam = file.create_group("entry/instrument/beam")
        beam.attrs["NX_class"] = "NXbeam"
        beam["incident_wavelength"] = HC_EV_M / 8000 * 1e10
        beam["incident_wavelength"].attrs["units"] = "angstrom"
        sample = file.create_group("entry/sample")
        sample.attrs["NX_class"] = "NXsample"
        moved = positions_m(scan)
        for name, values in (("sample_y", moved[:, 0]), ("sample_x", moved[:, 1])):
            sample[name] = values * 1e3
            sample[name].attrs["units"] = "mm"
    return folder / "i08.nxs", ReadOverrides()


def keys(folder):
    scan = measured()
    with h5py.File(folder / "raw.h5", "w") as file:
        file["exchange/data"] = np.moveaxis(counts(scan), 0, -1)
        file["motor"] = positions_m(scan)[:, ::-1].T * 1e6
        file["energy"], file["z"], file["px"] = 8.0, 750.0, np.array([75.0])
        file["energy"].attrs["units"] = "keV"
        file["bad"], file["probe"] = np.eye(SIZE, dtype=np.uint8)[:, ::-1].copy(), scan.probe[0]
    said = DataKeys(
        frames="/exchange/data", frames_axes="yxn", positions="motor", positions_order="xy", positions_units="um",
        energy="energy", distance="z", distance_units="mm", detector_pixel="px", detector_pixel_units="um", mask="bad",
        mask_good="zero", probe="probe",
    )  # fmt: skip
    return folder / "raw.h5", ReadOverrides(keys=said)


def npy(folder):
    scan = measured()
    np.save(folder / "diffraction.npy", counts(scan))
    np.savetxt(folder / "positions.txt", positions_m(scan)[:, ::-1], fmt="%.17g")
    return folder / "diffraction.npy", ReadOverrides(positions=folder / "positions.txt", **STATED)


def tiff(folder):
    scan = measured()
    home = folder / "frames"
    home.mkdir()
    for number, frame in enumerate(counts(scan)):
        Image.fromarray(frame).save(home / f"scan_{number}.tif", compression="tiff_adobe_deflate")
    np.savetxt(folder / "positions.csv", positions_m(scan), delimiter=",", fmt="%.17g")
    return home, ReadOverrides(positions=folder / "positions.csv", **STATED)


MAKERS = (
    ours, cxi, nxcxi, ptyd, ptychodus_frames, ptychodus_npz, product, training_data, dp_para, fold_slice, matlab, eiger,
    nexus, older_npz, slac_npz, tike, npy, tiff, keys,
)  # fmt: skip
SAMPLES = {make.__name__: make for make in MAKERS}
