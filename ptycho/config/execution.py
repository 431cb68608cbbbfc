"""How a computation runs on a machine: device, precision, loading, checkpoints, logging."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from ptycho.config.option import Count, CountOrZero, NotNegative, Positive, option
from ptycho.config.validation import field_problems, refuse

Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps"]
Scheduler = Literal["Default", "Exponential", "WarmupCosine", "ReduceLROnPlateau"]
ClipAlgorithm = Literal["norm", "value", "agc"]

# One of these exists wherever a driver can give torch a "cuda" device: NVIDIA, WSL, ROCm, Jetson.
_GPU_DEVICE_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/nvmap")

_NO_TPU = "accelerator = 'tpu': a TPU computes no complex Fourier transforms; choose 'cpu' or 'cuda'."


@dataclass
class PyTorchExecutionConfig:
    """Runtime settings, checked when built; never written to the legacy dictionary. Raises ValueError.

    accelerator "auto" becomes "cuda" or "cpu", whatever the machine has on which the object is built.
    """

    runtime_only: ClassVar[bool] = True

    accelerator: Accelerator = option("auto", "The device; auto: a GPU if there is one.")
    devices: Count | Literal["auto"] = option(1, "Devices of one process group on this machine.")
    strategy: Literal[
        "auto", "ddp", "ddp_spawn", "ddp_fork", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false"
    ] = option("auto", "How several processes train together.")
    deterministic: bool | Literal["warn"] = option(True, "Use only algorithms that repeat exactly, or warn of others.")
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = option("32-true", "Number format of the network.")
    gradient_clip_val: NotNegative | None = option(None, "Largest gradient; unset or 0: not clipped.")
    gradient_clip_algorithm: ClipAlgorithm = option("norm", "Clip the norm, each value, or adaptively (agc).")
    accum_steps: Count = option(1, "Batches whose gradients are summed before a step.")
    num_workers: CountOrZero = option(0, "Processes that load data; 0: none but the training one.")
    pin_memory: bool = option(False, "Load into page-locked memory.")
    persistent_workers: bool = option(False, "Keep the loading processes between epochs.")
    prefetch_factor: Count | None = option(None, "Batches that each loading process prepares ahead.")
    learning_rate: Positive = option(1e-3, "Learning rate at the start.")
    scheduler: Scheduler = option("Default", "How the learning rate changes; Default: it does not.")
    enable_progress_bar: bool = option(False, "Show a bar while training.")
    enable_checkpointing: bool = option(True, "Write checkpoints.")
    checkpoint_save_top_k: Annotated[int, Ge(-1)] = option(1, "Best checkpoints kept; -1: all, 0: none.")
    checkpoint_monitor_metric: str = option("val_loss", "What decides which checkpoint is best.")
    checkpoint_mode: Literal["min", "max"] = option("min", "Whether the best is the smallest or the largest.")
    early_stop_patience: Count = option(100, "Epochs without improvement after which training stops.")
    logger_backend: Literal["csv", "tensorboard", "mlflow", "none"] | None = option("csv", "Where metrics are logged.")
    recon_log_every_n_epochs: Count | None = option(None, "Log predicted patches so often; unset: never.")
    recon_log_num_patches: Count = option(4, "Patches logged.")
    recon_log_fixed_indices: list[CountOrZero] | None = option(None, "Which patches are logged; unset: the first ones.")
    recon_log_stitch: bool = option(False, "Log the stitched image too.")
    recon_log_max_stitch_samples: Count | None = option(None, "Groups stitched for the log; unset: all.")
    inference_batch_size: Count | None = option(None, "Groups in one step of inference; unset: the model's own.")
    middle_trim: CountOrZero = option(0, "Keep only the central pixels of each predicted patch; 0: all.")
    pad_eval: bool = option(False, "Pad the stitched image at its edges.")

    def __post_init__(self) -> None:
        problems: list[str] = [] if str(self.accelerator) != "tpu" else [_NO_TPU]
        problems += [fault for fault in field_problems(self) if not (problems and fault.startswith("accelerator ="))]
        if not problems and self.num_workers == 0:
            problems = [
                f"{name} = {getattr(self, name)}: there are no loading processes; set num_workers to at least 1."
                for name in ("persistent_workers", "prefetch_factor")
                if getattr(self, name)
            ]
        refuse(problems, "The execution configuration")
        self.accelerator = resolve_accelerator(self.accelerator)


def resolve_accelerator(accelerator: Accelerator) -> Accelerator:
    """ "auto" as "cuda" or "cpu", whichever this machine has for torch; anything else as it is.

    Counts the devices through the driver's management library, as torch.cuda.device_count does: no CUDA context is
    created, so a process that asks may still fork.
    """
    if accelerator != "auto":
        return accelerator
    # Loading torch takes seconds; a machine without any GPU is told by its device files.
    if "torch" not in sys.modules and sys.platform == "linux" and not any(map(_exists, _GPU_DEVICE_FILES)):
        return "cpu"
    if find_spec("torch") is None:
        return "cpu"
    return "cuda" if import_module("torch").cuda.device_count() > 0 else "cpu"


def _exists(path: str) -> bool:
    return Path(path).exists()
