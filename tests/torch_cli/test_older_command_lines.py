"""`python -m ptycho_torch.train` and `python -m ptycho_torch.inference`, as older scripts call them."""

import csv
import json
import warnings

import numpy as np
import pytest
import torch

from ptycho import params
from ptycho_torch import inference, train
from ptycho_torch.cli.shared import build_execution_config_from_args, resolve_accelerator
from ptycho_torch.train import _parser
from tests.builders import write_older_npz
from tests.pinn.pinn_scans import small_scan


@pytest.fixture(autouse=True)
def _left_as_it_was():
    dictionary, threads = dict(params.cfg), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    params.cfg.clear()
    params.cfg.update(dictionary)


def test_train_then_inference(tmp_path, capsys):
    scan = small_scan()
    file = str(write_older_npz(tmp_path / "scan.npz", scan, amplitude=False, objectGuess=None))
    out, image = tmp_path / "out", tmp_path / "image"
    flags = ["--accelerator", "cpu", "--quiet"]

    assert train.main([
        "--train_data_file", file, "--output_dir", str(out), "--n_images", "16", "--gridsize", "1", "--batch_size", "8",
        "--max_epochs", "2", "--learning-rate", "5e-4", "--logger", "csv", *flags,
    ]) == 0  # fmt: skip
    assert inference.main(
        ["--model_path", str(out), "--test_data_file", file, "--output_dir", str(image), *flags]
    ) == 0  # fmt: skip

    history = json.loads((out / "training.json").read_text())["history"]
    assert [epoch["learning_rate"] for epoch in history] == [5e-4, 5e-4]
    with (out / "logs" / "metrics.csv").open() as log:
        logged = [float(row["train_loss"]) for row in csv.DictReader(log)]
    assert logged == pytest.approx([epoch["loss"] for epoch in history])
    assert (out / "wts.h5.zip").is_file()
    found = np.load(image / "reconstruction.npz")
    assert found["phase"].shape == scan.grid.shape
    assert np.median(found["amplitude"]) == pytest.approx(1, abs=0.1)
    assert capsys.readouterr().out == ""


def test_mistakes_are_one_sentence(tmp_path, capsys):
    missing = ["--train_data_file", str(tmp_path / "none.npz"), "--output_dir", str(tmp_path)]
    assert train.main(missing) == 2
    assert train.main([*missing, "--accelerator", "tpu"]) == 2
    assert inference.main(
        ["--model_path", str(tmp_path), "--test_data_file", str(tmp_path / "x"), "--output_dir", str(tmp_path)]
    ) == 2  # fmt: skip
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("Training data file not found")
    assert "a TPU computes no complex Fourier transforms" in lines[1]
    assert lines[2].startswith("Test data file not found")


def test_flags_become_an_execution_configuration():
    needed = ["--train_data_file", "x", "--output_dir", "y", "--accelerator", "cpu"]
    args = _parser().parse_args([
        *needed, "--no-deterministic", "--num-workers", "2", "--scheduler", "WarmupCosine", "--accumulate-grad-batches",
        "3", "--logger", "none", "--disable-checkpointing", "--checkpoint-save-top-k", "2", "--checkpoint-monitor",
        "val_loss", "--checkpoint-mode", "min", "--early-stop-patience", "7",
    ])  # fmt: skip
    config = build_execution_config_from_args(args, "training")
    assert (config.deterministic, config.num_workers, config.scheduler) == (False, 2, "WarmupCosine")
    assert (config.accum_steps, config.logger_backend, config.enable_checkpointing) == (3, None, False)
    assert (config.checkpoint_save_top_k, config.early_stop_patience) == (2, 7)
    # What is not given keeps the one default there is.
    assert build_execution_config_from_args(_parser().parse_args(needed), "training").learning_rate == 1e-3


def test_deprecated_flags_warn_and_are_followed():
    with pytest.warns(DeprecationWarning, match="--device is deprecated"):
        assert resolve_accelerator(None, "cpu") == "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_accelerator(None) == "auto"
    args = _parser().parse_args(
        ["--train_data_file", "x", "--output_dir", "y", "--accelerator", "cpu", "--disable_mlflow"]
    )
    with pytest.warns(DeprecationWarning, match="--disable_mlflow is deprecated"):
        assert build_execution_config_from_args(args, "training").logger_backend is None
