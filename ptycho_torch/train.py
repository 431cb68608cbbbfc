"""`python -m ptycho_torch.train`: train on one scan file, as older scripts ask for it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ptycho.config.config import DEFAULT_N_GROUPS
from ptycho.workflows.backend_selector import run_cdi_example_with_backend
from ptycho.workflows.components import save_outputs
from ptycho_torch.cli.shared import add_execution_flags, build_execution_config_from_args, run, validate_paths
from ptycho_torch.config_factory import create_training_payload

log = logging.getLogger(__name__)

# Flag → override of the configuration factory.
_OVERRIDES = {"--gridsize": int, "--batch_size": int, "--max_epochs": int}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and write wts.h5.zip; with test data, reconstruct them too. Returns the exit code."""
    args = _parser().parse_args(arguments)
    return run(lambda: _train(args), quiet=args.quiet)


def _train(args: argparse.Namespace) -> None:
    execution = build_execution_config_from_args(args, "training")
    validate_paths(args.train_data_file, args.test_data_file, args.output_dir)
    overrides = {flag[2:]: getattr(args, flag[2:]) for flag in _OVERRIDES if getattr(args, flag[2:]) is not None}
    overrides["n_groups"] = args.n_groups or DEFAULT_N_GROUPS
    if args.test_data_file is not None:
        overrides["test_data_file"] = args.test_data_file
    payload = create_training_payload(args.train_data_file, args.output_dir, overrides, execution)
    log.info("training on %s: %d groups, %s", args.train_data_file, overrides["n_groups"], execution.accelerator)
    amplitude, phase, results = run_cdi_example_with_backend(
        args.train_data_file, args.test_data_file, payload.tf_training_config, payload.execution_config
    )
    save_outputs(amplitude, phase, results, str(args.output_dir))
    log.info("the model is in %s", results["model_path"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ptycho_train", description=main.__doc__, allow_abbrev=False)
    parser.add_argument(
        "--train_data_file", type=Path, required=True, help="The scan to train on, in any known format."
    )
    parser.add_argument("--test_data_file", type=Path, help="A scan to reconstruct afterwards.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Where model, image and history are written.")
    parser.add_argument(
        "--n_groups",
        "--n_images",
        dest="n_groups",
        type=int,
        help=f"Groups to train on; not given: {DEFAULT_N_GROUPS}.",
    )
    for flag, kind in _OVERRIDES.items():
        parser.add_argument(flag, type=kind)
    add_execution_flags(parser, "training")
    return parser


if __name__ == "__main__":
    sys.exit(main())
