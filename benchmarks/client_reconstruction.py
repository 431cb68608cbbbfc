"""What ptychodus gets: phase correlation with the truth after a short training on 90 patterns, by both libraries.

The calls are those of ptychodus, in this process; CPU seconds are of training and of one reconstruction.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from ptycho_torch.api.client_work import DEFAULT_REFINE_EPOCHS, REFINE_VARIABLE
from tests.clients import children
from tests.clients.client_files import ClientScan, client_scan, judge, write_training_npz
from tests.clients.ptychodus_configs import tf_inference, tf_model, tf_training, torch_configs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tf-epochs", type=int, default=4)
    parser.add_argument("--torch-epochs", type=int, default=1)
    parser.add_argument("--size", type=int, default=32, help="pixels along each side of a pattern")
    args = parser.parse_args()
    torch.set_num_threads(1)
    scan = client_scan(side=10, n=90, size=args.size, photons=3e5)
    start = np.ones(scan.truth.shape, np.complex64)
    print("library | epochs | training, CPU s | refinement epochs | reconstruction, CPU s | correlation | shift, px")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("train_data.npz", "test_data.npz"):
            write_training_npz(folder / file, scan)
        # What the first call of a process costs belongs to neither.
        children.tf_train(tf_training(tf_model(), nepochs=1), folder, folder / "warm")
        began = time.process_time()
        children.tf_train(tf_training(tf_model(), nepochs=args.tf_epochs), folder, folder / "tf")
        seconds = time.process_time() - began
        inference = tf_inference(tf_model(N=args.size))
        report(
            "PtychoPINN", args.tf_epochs, seconds, scan,
            lambda: children.tf_reconstruct(inference, folder / "tf", scan, scan.probe, start),
        )  # fmt: skip
        began = time.process_time()
        path, *_ = children.torch_train(*torch_configs(epochs=args.torch_epochs), folder, folder / "torch")
        seconds = time.process_time() - began
        report(
            "PtychoPINN-Torch", args.torch_epochs, seconds, scan,
            lambda: children.torch_reconstruct(path, scan, scan.probe)[0],
        )  # fmt: skip


def report(
    library: str, epochs: int, seconds: float, scan: ClientScan, reconstruct: Callable[[], NDArray[np.complex64]]
) -> None:
    """One line for the network's image and one for the refined image."""
    for refinement in (0, DEFAULT_REFINE_EPOCHS):
        os.environ[REFINE_VARIABLE] = str(refinement)
        began = time.process_time()
        correlation, shift, _ = judge(reconstruct(), scan)
        took = time.process_time() - began
        print(f"{library} | {epochs} | {seconds:.1f} | {refinement} | {took:.1f} | {correlation:.3f} | {shift:.3f}")
    os.environ.pop(REFINE_VARIABLE)


if __name__ == "__main__":
    main()
