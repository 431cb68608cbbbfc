"""What the two older command lines share: execution flags, paths, errors as sentences."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Literal

from ptycho.config.config import PyTorchExecutionConfig
from ptycho.errors import PtychoError

Mode = Literal["training", "inference"]

# Flag → field of PyTorchExecutionConfig, by mode. Defaults are the field's own.
_TRAINING_FLAGS = {
    "--num-workers": ("num_workers", int),
    "--learning-rate": ("learning_rate", float),
    "--scheduler": ("scheduler", str),
    "--accumulate-grad-batches": ("accum_steps", int),
    "--logger": ("logger_backend", str),
    "--checkpoint-save-top-k": ("checkpoint_save_top_k", int),
    "--checkpoint-monitor": ("checkpoint_monitor_metric", str),
    "--checkpoint-mode": ("checkpoint_mode", str),
    "--early-stop-patience": ("early_stop_patience", int),
}
_INFERENCE_FLAGS = {"--num-workers": ("num_workers", int), "--inference-batch-size": ("inference_batch_size", int)}


def add_execution_flags(parser: argparse.ArgumentParser, mode: Mode) -> None:
    """The flags from which `build_execution_config_from_args` makes a configuration."""
    helps = {field.name: field.metadata.get("help", "") for field in fields(PyTorchExecutionConfig)}
    group = parser.add_argument_group("execution")
    group.add_argument("--accelerator", choices=("auto", "cpu", "gpu", "cuda", "mps", "tpu"), help=helps["accelerator"])
    group.add_argument("--device", choices=("cpu", "cuda"), help="deprecated; use --accelerator")
    for flag, (name, kind) in (_TRAINING_FLAGS if mode == "training" else _INFERENCE_FLAGS).items():
        group.add_argument(flag, dest=name, type=kind, help=helps[name])
    if mode == "training":
        group.add_argument(
            "--deterministic", action=argparse.BooleanOptionalAction, default=None, help=helps["deterministic"]
        )
        group.add_argument(
            "--enable-checkpointing", dest="enable_checkpointing", action="store_true", default=None,
            help=helps["enable_checkpointing"],
        )  # fmt: skip
        group.add_argument("--disable-checkpointing", dest="enable_checkpointing", action="store_false")
        group.add_argument("--disable_mlflow", action="store_true", help="deprecated; use --logger none")
    group.add_argument("--quiet", action="store_true", help="Say only what went wrong.")


def resolve_accelerator(accelerator: str | None, device: str | None = None) -> str:
    """The accelerator that was asked for, "auto" without one. device: its deprecated name (DeprecationWarning)."""
    if device is None:
        return accelerator or "auto"
    warnings.warn("--device is deprecated; use --accelerator.", DeprecationWarning, stacklevel=2)
    return device if accelerator in (None, "auto") else str(accelerator)


def build_execution_config_from_args(args: argparse.Namespace, mode: Mode) -> PyTorchExecutionConfig:
    """The execution configuration that parsed flags mean; a flag that was not given leaves its field's default.

    Raises ValueError for a value that cannot work.
    """
    flags = _TRAINING_FLAGS if mode == "training" else _INFERENCE_FLAGS
    names = {name for name, _ in flags.values()} | {"deterministic", "enable_checkpointing"}
    values = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    values["accelerator"] = resolve_accelerator(getattr(args, "accelerator", None), getattr(args, "device", None))
    if getattr(args, "disable_mlflow", False):
        warnings.warn("--disable_mlflow is deprecated; use --logger none.", DeprecationWarning, stacklevel=2)
        values.setdefault("logger_backend", "none")
    if values.get("logger_backend") == "none":
        values["logger_backend"] = None
    return PyTorchExecutionConfig(**values)


def validate_paths(train_file: Path | None, test_file: Path | None, output_dir: Path) -> None:
    """Make the output directory. Raises FileNotFoundError when a data file is missing."""
    for path, what in ((train_file, "Training data file"), (test_file, "Test data file")):
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"{what} not found: {path}")
    output_dir.mkdir(parents=True, exist_ok=True)


def run(work: Callable[[], None], *, quiet: bool) -> int:
    """Do it and return the exit code: 0 done, 1 the work failed, 2 the request was wrong; each mistake a sentence."""
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        work()
    except PtychoError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0
