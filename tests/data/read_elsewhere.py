"""Run by an interpreter that has ptychodus and cdtools: reads files of ours with their readers, prints JSON.

read_elsewhere.py FOLDER: FOLDER has result.h5 (a product), scan.cxi and diffraction.h5
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np


def by_ptychodus(folder):
    from ptychodus.api.io import load_diffraction_data
    from ptychodus.api.plugins import PluginRegistry

    registry = PluginRegistry.load_plugins()

    def strategy(plugins, name):
        return next(plugin.strategy for plugin in plugins if plugin.simple_name == name)

    found = {}
    for key, reader, name in (
        ("product", "HDF5", "result.h5"),
        ("cxi", "CXI", "scan.cxi"),
        ("pair", "HDF5", "product.h5"),
    ):
        product = strategy(registry.product_file_readers, reader).read(folder / name)
        geometry = product.object_.get_geometry()
        corners = [geometry.map_coordinates_probe_to_object(point) for point in product.probe_positions]
        found[key] = {
            "object_shape": list(product.object_.get_array().shape),
            "probe_shape": list(product.probes.get_array().shape),
            "energy_eV": product.metadata.photon_energy_eV,
            "distance_m": product.metadata.detector_distance_m,
            "middle_y_px": [corner.y_px for corner in corners],
            "middle_x_px": [corner.x_px for corner in corners],
        }
    dataset = strategy(registry.diffraction_file_readers, "CXI").read(folder / "scan.cxi")
    found["cxi"]["frames"] = int(sum(int(array.get_patterns().astype(np.int64).sum()) for array in dataset))
    found["cxi"]["detector_pixel_m"] = dataset.get_metadata().detector_pixel_geometry.height_m
    data = load_diffraction_data(folder / "diffraction.h5")
    found["pair"]["frames"] = int(np.asarray(data.get_patterns()).astype(np.int64).sum())
    found["pair"]["bad"] = int(np.asarray(data.get_bad_pixels()).sum())
    return found


def by_cdtools(path):
    if find_spec("cdtools") is None:
        return None
    import torch
    from cdtools.datasets import Ptycho2DDataset
    from cdtools.tools.initializers import exit_wave_geometry
    from cdtools.tools.interactions import translations_to_pixel

    data = Ptycho2DDataset.from_cxi(str(path))
    basis = exit_wave_geometry(
        torch.as_tensor(data.detector_geometry["basis"]), data.patterns.shape[1:], data.wavelength,
        data.detector_geometry["distance"],
    )  # fmt: skip
    pixels = translations_to_pixel(torch.as_tensor(basis, dtype=torch.float32), data.translations.to(torch.float32))
    return {"y_px": pixels[:, 0].tolist(), "x_px": pixels[:, 1].tolist(), "frames": int(data.patterns.sum())}


if __name__ == "__main__":
    home = Path(sys.argv[1])
    sys.stdout.write(json.dumps({"ptychodus": by_ptychodus(home), "cdtools": by_cdtools(home / "scan.cxi")}) + "\n")
