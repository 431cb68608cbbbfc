"""A peer's reconstruction of one scan, for benchmarks/engines.py: runs in an environment without our package.

    PEERS_PYTHON benchmarks/peers.py ENGINE EPOCHS FOLDER

ENGINE is one of pty-chi's: LSQML, LSQML-poisson, ePIE, rPIE, DM. FOLDER holds scan.npz; the objects of some epochs, and
times and the peak of memory, are left there. One CPU thread; batches of 32 and the package's own defaults, but momentum
of LSQML switched on, as its examples do.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

BATCH_SIZE = 32
# Epochs between two that are judged.
EVERY = 5


def main() -> None:
    engine, epochs, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    began_s = time.process_time()
    task = built(engine, epochs, folder)
    load_s, epoch_s = time.process_time() - began_s, []
    for epoch in range(1, epochs + 1):
        began_s = time.process_time()
        task.run(1)
        epoch_s.append(time.process_time() - began_s)
        if epoch % EVERY == 0 or epoch in (1, 2, 5, epochs):
            np.save(folder / f"epoch-{epoch:04d}.npy", task.get_data_to_cpu("object", as_numpy=True)[0])
    status = Path("/proc/self/status").read_text()
    peak_mb = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    (folder / "run.json").write_text(json.dumps({"load_s": load_s, "epoch_s": epoch_s, "peak_mb": peak_mb}))


def built(engine: str, epochs: int, folder: Path) -> Any:
    """pty-chi's task on the scan, with imports."""
    import ptychi.api as api
    import torch
    from ptychi.api.task import PtychographyTask

    torch.set_num_threads(1)
    kinds = {
        "LSQML": api.LSQMLOptions, "ePIE": api.EPIEOptions, "rPIE": api.RPIEOptions, "DM": api.DMOptions,
    }  # fmt: skip
    with np.load(folder / "scan.npz") as file:
        data = {name: file[name] for name in file.files}
    options = kinds[engine.split("-")[0]]()
    options.data_options.data = data["counts"].astype(np.float32)
    options.data_options.valid_pixel_mask = data["good"]
    # Its patterns would go to a GPU whatever the default device.
    options.data_options.save_data_on_device = False
    height, width = data["shape"]
    # Its windows are centred on (size − 1) / 2 of window and object, ours on size // 2.
    relative = data["positions"] - data["origin"] - 0.5 - (np.array([height, width]) - 1) / 2
    options.object_options.initial_guess = np.ones((1, height, width), np.complex64)
    options.probe_options.initial_guess = data["probe"][None]
    options.probe_position_options.position_y_px = relative[:, 0]
    options.probe_position_options.position_x_px = relative[:, 1]
    options.probe_position_options.optimizable = False
    options.reconstructor_options.batch_size = BATCH_SIZE
    options.reconstructor_options.num_epochs = epochs
    options.reconstructor_options.default_device = api.Devices.CPU
    if engine.startswith("LSQML"):
        options.reconstructor_options.momentum_acceleration_gain = 0.5
    if engine == "LSQML-poisson":
        options.reconstructor_options.noise_model = api.NoiseModels.POISSON
    return PtychographyTask(options)


if __name__ == "__main__":
    main()
