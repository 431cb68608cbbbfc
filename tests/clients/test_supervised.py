"""Supervised training through every door: the product's object is learnt, and a flat one is refused in a sentence."""

from pathlib import Path

import numpy as np
import pytest

import ptycho.params
from ptycho.config.config import ModelConfig, TrainingConfig
from ptycho.errors import ModelError
from ptycho.workflows.backend_selector import train_cdi_model_with_backend
from ptycho_torch.api.client_work import REFINE_VARIABLE
from tests.clients import children
from tests.clients.client_files import client_scan, judge, write_training_npz
from tests.clients.ptychodus_configs import tf_inference, tf_model, tf_training, torch_configs


@pytest.fixture(scope="module")
def scan():
    return client_scan(side=8, photons=1e5)


@pytest.fixture
def folder(scan, tmp_path):
    """What ptychodus exports of a product that has been reconstructed."""
    for name in ("train_data.npz", "test_data.npz"):
        write_training_npz(tmp_path / name, scan)
        with np.load(tmp_path / name) as archive:
            arrays = dict(archive)
        np.savez(tmp_path / name, **arrays | {"objectGuess": scan.truth})
    return tmp_path


def settings_of_torch(**changes):
    return torch_configs(
        mode="Supervised", n_subsample=1, epochs=10, n_filters_scale=1, num_workers=0, device="cpu",
        x_bounds=(0.0, 1.0), y_bounds=(0.0, 1.0), **changes,
    )  # fmt: skip


@pytest.mark.slow
def test_the_older_library_learns_the_object(scan, folder, monkeypatch):
    monkeypatch.setenv(REFINE_VARIABLE, "0")
    model = tf_model(gridsize=1, n_filters_scale=1, model_type="supervised")
    children.in_child(children.tf_train, tf_training(model, nepochs=10), folder, folder / "out")
    again = tf_inference(tf_model(N=32, gridsize=1, model_type="supervised"))
    start = np.ones(scan.truth.shape, np.complex64)
    image = children.in_child(children.tf_reconstruct, again, folder / "out", scan, scan.probe, start)
    assert image.shape == scan.truth.shape
    assert judge(image, scan)[0] > 0.8


@pytest.mark.slow
def test_the_torch_library_learns_the_object(scan, folder, monkeypatch):
    monkeypatch.setenv(REFINE_VARIABLE, "0")
    path, training, *_ = children.in_child(children.torch_train, *settings_of_torch(), folder, folder / "out")
    assert training[-1] < training[0]
    image, mode = children.in_child(children.torch_reconstruct, path, scan, scan.probe)
    assert mode == "Supervised"
    assert image.shape == scan.truth.shape
    assert judge(image, scan)[0] > 0.8


@pytest.mark.slow
def test_older_scripts_learn_the_object_in_the_file(folder):
    model = ModelConfig(N=32, gridsize=1, model_type="supervised", n_filters_scale=1)
    config = TrainingConfig(model=model, nepochs=2, n_groups=64, output_dir=folder / "out")
    results = train_cdi_model_with_backend(str(folder / "train_data.npz"), None, config)
    losses = [epoch["loss"] for epoch in results["history"]]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("door", ["older library", "torch library", "older scripts"])
def test_a_flat_object_is_no_label(scan, tmp_path, door, monkeypatch):
    monkeypatch.setattr(ptycho.params, "cfg", {})
    for name in ("train_data.npz", "test_data.npz"):
        write_training_npz(tmp_path / name, scan)
    flat = "no reconstructed object, which supervised training takes as the known one"
    model = tf_model(N=32, model_type="supervised")
    with pytest.raises(ModelError, match=flat):
        if door == "older library":
            children.tf_train(tf_training(model), tmp_path, tmp_path / "out")
        elif door == "torch library":
            children.torch_train(*settings_of_torch(), tmp_path, tmp_path / "out")
        else:
            config = TrainingConfig(model=model, n_groups=64, output_dir=Path(tmp_path / "out"))
            train_cdi_model_with_backend(str(tmp_path / "train_data.npz"), None, config)
