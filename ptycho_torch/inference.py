"""`python -m ptycho_torch.inference`: apply a trained model to one scan file, as older scripts ask for it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ptycho.config.config import DEFAULT_N_GROUPS
from ptycho.data.formats import open_scan
from ptycho.parallel import SerialRanks
from ptycho.workflows.backend_selector import load_inference_bundle_with_backend
from ptycho.workflows.components import save_outputs
from ptycho_torch.cli.shared import add_execution_flags, build_execution_config_from_args, run, validate_paths
from ptycho_torch.config_factory import create_inference_payload
from ptycho_torch.device import rank_device
from ptycho_torch.stages.network import stitch_scan

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Reconstruct the scan and write reconstruction.npz. Returns the exit code."""
    args = _parser().parse_args(arguments)
    return run(lambda: _reconstruct(args), quiet=args.quiet)


def _reconstruct(args: argparse.Namespace) -> None:
    execution = build_execution_config_from_args(args, "inference")
    validate_paths(None, args.test_data_file, args.output_dir)
    overrides = {"n_groups": args.n_groups or DEFAULT_N_GROUPS}
    payload = create_inference_payload(args.model_path, args.test_data_file, args.output_dir, overrides, execution)
    model, _ = load_inference_bundle_with_backend(args.model_path, payload.tf_inference_config)
    scan = open_scan(args.test_data_file)
    if scan.probe is not None:
        model = model.with_probe(scan.probe, scan.mask)
    device = rank_device(str(payload.execution_config.accelerator))
    batch_size = payload.execution_config.inference_batch_size
    image = stitch_scan(model, scan, SerialRanks(), device, batch_size=batch_size)
    save_outputs(np.abs(image.object), np.angle(image.object), {"backend": "pytorch"}, str(args.output_dir))
    log.info("the image is in %s", args.output_dir / "reconstruction.npz")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ptycho_inference", description=main.__doc__, allow_abbrev=False)
    parser.add_argument("--model_path", type=Path, required=True, help="The folder with wts.h5.zip.")
    parser.add_argument("--test_data_file", type=Path, required=True, help="The scan, in any known format.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Where the image is written.")
    parser.add_argument(
        "--n_groups", "--n_images", dest="n_groups", type=int, help="Without effect: every position is reconstructed."
    )
    add_execution_flags(parser, "inference")
    return parser


if __name__ == "__main__":
    sys.exit(main())
