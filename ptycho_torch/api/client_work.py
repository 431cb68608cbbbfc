"""What a client asks for, done by our stages: train on one scan, make an image on the client's own pixels."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho.config.config import PyTorchExecutionConfig, TrainingConfig
from ptycho.config.refine import RefineConfig
from ptycho.data.grid import ObjectGrid
from ptycho.data.image import ObjectImage
from ptycho.data.scan import Scan, Truth
from ptycho.data.subset import subset
from ptycho.errors import ModelError, RequestError
from ptycho.parallel import SerialRanks
from ptycho_torch.stages.network import ScanPatches, stitch
from ptycho_torch.stages.refinement import build_engine

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from ptycho_torch.pinn.trained import TrainedModel

log = logging.getLogger(__name__)

# A client has no setting of its own for it, so the environment has to carry it.
REFINE_VARIABLE = "PTYCHO_REFINE_EPOCHS"
DEFAULT_REFINE_EPOCHS = 10
# Positions at the very edge of a client's object must not fall off it by a rounding error.
_LABEL_MARGIN = 2


class LogReport:
    """A report to the log, which a client shows; nothing is printed."""

    def epoch(self, stage: str, epoch: int, n_epochs: int, **numbers: float) -> None:
        shown = ", ".join(f"{name} {numbers[name]:.4g}" for name in ("loss", "val_loss", "seconds") if name in numbers)
        log.info("%s: epoch %d of %d, %s", stage, epoch, n_epochs, shown)

    def progress(self, stage: str, done: int, total: int) -> None:
        pass

    def checkpoint(self, stage: str, epoch: int) -> None:
        pass

    def message(self, text: str) -> None:
        log.warning("%s", text)


def train_for_client(
    scan: Scan,
    config: TrainingConfig,
    execution: PyTorchExecutionConfig,
    callbacks: Sequence[Callback] = (),
    *,
    chosen: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> TrainedModel:
    """A model trained on the scan; supervised training takes the client's object as the known one.

    chosen: scan indices of the frames to train on; None: all
    Nothing is written. Raises as `ptycho_torch.pinn.training.train`, and ModelError where there is no object to learn.
    """
    from ptycho_torch.pinn.training import train

    end_with_parent()
    scan = with_label(scan, config)
    if chosen is not None:
        scan = subset(scan, chosen)
    return train(scan, config, execution, seed=seed, report=LogReport(), callbacks=callbacks)


def image_for_client(found: ScanPatches, grid: ObjectGrid, device: torch.device) -> NDArray[np.complex64]:
    """The object (y, x) complex64 on the client's grid, whole pixels from the scan's own; 1 where no light fell.

    The stitched image is improved by as many refinement epochs as `refine_epochs` says, probe included.
    Raises RequestError when that is no number, WorkError when the refinement diverges.
    """
    ranks, n_epochs = SerialRanks(), refine_epochs()
    image = stitch(found, ranks, device, on_message=lambda text: log.warning("%s", text))
    if n_epochs:
        image = _refined(found.scan, image, n_epochs, device)
    return image.on(grid).object


def refine_epochs() -> int:
    """Refinement epochs at the end of a client's reconstruction: 10 unless PTYCHO_REFINE_EPOCHS says otherwise.

    0 leaves the network's image as it is. Raises RequestError for anything but a whole number of at least 0.
    """
    text = os.environ.get(REFINE_VARIABLE, str(DEFAULT_REFINE_EPOCHS))
    if not text.strip().isdecimal():
        raise RequestError(
            f"{REFINE_VARIABLE} = {text!r}: must be a whole number of epochs; 0 switches refinement off."
        )
    return int(text)


def end_with_parent() -> None:
    """In a child of multiprocessing: end this process when its parent is gone, as its result has nobody to go to.

    A killed client would otherwise leave its child computing, or waiting forever to write to a pipe without a reader.
    """
    parent = multiprocessing.parent_process()
    name = "end-with-parent"
    if parent is None or any(thread.name == name for thread in threading.enumerate()):
        return

    def wait() -> None:
        parent.join()
        # Lightning has a handler of its own while it sets a training up, which would not end the process.
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(5)
        os._exit(1)

    threading.Thread(target=wait, name=name, daemon=True).start()


def _refined(scan: Scan, image: ObjectImage, n_epochs: int, device: torch.device) -> ObjectImage:
    config = RefineConfig(epochs=n_epochs)
    engine = build_engine(scan, config, SerialRanks(), device, start=image)
    for epoch in range(1, n_epochs + 1):
        result = engine.run_epoch(epoch)
        log.info("refine: epoch %d of %d, R-factor %.4g", epoch, n_epochs, result.r_factor)
        if result.is_converged:
            break
    return engine.image()


def with_label(scan: Scan, config: TrainingConfig) -> Scan:
    """The scan with its object as its truth, in the gauge in which the network works, where the training needs one.

    Raises ModelError where the object is missing, flat, or too small.
    """
    is_needed = config.model.model_type == "supervised" or config.realspace_mae_weight > 0
    if scan.truth is not None or not is_needed:
        return scan
    start = scan.object_start
    if start is None or scan.object_grid is None or np.ptp(np.abs(start - start.flat[0])) < 1e-6:
        raise ModelError(
            f"{scan.name} has no reconstructed object, which supervised training takes as the known one;"
            " reconstruct the product first, or choose the unsupervised reconstructor."
        )
    y, x = scan.object_grid.origin_px
    padded = np.pad(start, _LABEL_MARGIN, mode="edge")
    grid = ObjectGrid(shape=(padded.shape[0], padded.shape[1]), origin_px=(y - _LABEL_MARGIN, x - _LABEL_MARGIN))
    scan = replace(scan, object_start=padded, object_grid=grid)
    if scan.grid != grid:
        raise ModelError(f"{scan.name}: the object of shape {start.shape} does not cover every scan position.")
    image = ObjectImage(object=padded, coverage=np.zeros(grid.shape, np.float32), grid=grid)
    # The engine scales a start object so that under the scan's probe it passes on the photons that were counted.
    scaled = build_engine(scan, RefineConfig(epochs=1), SerialRanks(), torch.device("cpu"), start=image).object
    return replace(scan, truth=Truth(object=scaled, grid=grid))
