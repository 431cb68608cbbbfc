import sys

import numpy as np
import pytest

from ptycho.config.config import ModelConfig
from ptycho.config.synthetic import SyntheticConfig
from ptycho.errors import DataError, ModelError, PackageError, RequestError, SpecError
from ptycho.jobs import resolve as resolve_module
from ptycho.jobs.resolve import resolve, visible_gpus
from ptycho.jobs.resolved_job import ResolvedJob
from ptycho.jobs.spec import load_spec, parse_spec
from ptycho_torch.pinn.bundle import save_bundle
from ptycho_torch.pinn.card import ModelCard
from ptycho_torch.pinn.network import PtychoNetwork
from ptycho_torch.pinn.trained import TrainedModel
from tests.jobs.small_runs import write_spec


def resolved(folder, *overrides, **values):
    return resolve(load_spec(write_spec(folder, **values), overrides))[0]


def test_sizes_and_groups_come_from_the_data(tmp_path):
    job = resolved(tmp_path)
    assert (job.training.model.N, job.training.n_groups) == (16, 12)
    assert (job.sources["model.N"], job.sources["training.n_groups"]) == ("data", "data")
    assert job.name == "scan"


def test_every_value_that_a_user_can_set_has_a_source(tmp_path):
    job = resolved(tmp_path, "refine.epochs=7", refine__alpha=0.2, execution__accelerator="cpu")
    assert job.sources["refine.epochs"] == "override"
    assert job.sources["refine.alpha"] == "spec"
    assert job.sources["refine.momentum"] == "default"
    assert job.sources["execution.accelerator"] == "spec"
    assert job.sources["resources.gpus_per_node"] == "execution"
    assert set(job.sources.values()) <= {"spec", "override", "data", "execution", "default"}


def test_resolved_json_is_read_back_exactly(tmp_path):
    job = resolved(tmp_path, data__detector_pixel_m=[7.5e-5, 7.5e-5], training__nphotons=1e6)
    assert ResolvedJob.from_json(job.to_json()) == job
    assert ResolvedJob.from_json(job.to_json()).to_json() == job.to_json()


def test_a_foreign_resolved_json_is_refused():
    with pytest.raises(RequestError, match="Start a new run"):
        ResolvedJob.from_json('{"name": "x"}')


def test_an_iterative_job_needs_no_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "ptycho_torch", None)
    job = resolved(tmp_path, execution__accelerator="cpu")
    assert job.stages == ("refine", "evaluate")
    assert job.refine.engine == "rpie"


def test_a_network_without_torch_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(resolve_module, "FACTORY_MODULE", "ptycho_torch.no_such_module")
    with pytest.raises(PackageError, match="pip install"):
        resolved(tmp_path, job__engine="pinn")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ("train", "reconstruct", "refine", "evaluate")),
        ({"refine__engine": "none"}, ("train", "reconstruct", "evaluate")),
    ],
)
def test_stages_follow_from_engines(tmp_path, values, expected):
    assert resolved(tmp_path, job__engine="pinn", **values).stages == expected


def test_what_the_spec_says_of_the_network_reaches_the_training_settings(tmp_path):
    job = resolved(tmp_path, "training.nepochs=3", job__engine="pinn", model__gridsize=2, execution__learning_rate=5e-4)
    assert job.training.nepochs == 3
    assert job.training.model.gridsize == 2
    assert job.training.model.N == 16
    assert job.training.n_groups == 12
    assert job.overrides_applied["learning_rate"] == 5e-4
    assert ResolvedJob.from_json(job.to_json()) == job


def test_missing_files_are_named_before_anything_starts(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.h5.*holds"):
        resolved(tmp_path, data__scan="nowhere.h5")
    with pytest.raises(DataError, match=r"data\.mask"):
        resolved(tmp_path, data__mask="mask.npy")
    with pytest.raises(ModelError, match=r"wts\.h5\.zip"):
        resolved(tmp_path, job__engine="pinn", model__bundle="nowhere")


def test_ranks_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(SpecError, match="one process"):
        resolved(tmp_path, resources__executor="here", resources__ranks_per_node=2)
    with pytest.raises(SpecError, match="one machine"):
        resolved(tmp_path, resources__nodes=2)


def test_processes_that_a_launcher_started_are_the_ranks(tmp_path):
    job = resolve(load_spec(write_spec(tmp_path, resources__ranks_per_node=2)), launched_ranks=3)[0]
    assert (job.resources.executor, job.resources.n_ranks) == ("here", 3)
    assert job.sources["resources.ranks_per_node"] == "execution"


def test_a_cluster_job_takes_its_device_from_the_resources_not_from_the_login_node(tmp_path):
    assert resolved(tmp_path, resources__executor="slurm").execution.accelerator == "cpu"
    job = resolved(tmp_path, resources__executor="slurm", resources__gpus_per_node=4)
    assert job.execution.accelerator == "cuda"
    assert job.resources.ranks_per_node == 4


def test_hidden_gpus_are_not_counted(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert visible_gpus() == [2, 3]


def test_a_crop_reaches_the_model(tmp_path):
    job = resolved(tmp_path, data__crop_px=8)
    assert job.training.model.N == 8
    assert np.isclose(job.data.validation_fraction, 0.05)


def test_random_scenes_are_trained_on_and_a_simulated_scan_tried():
    spec = parse_spec('[data]\nsource = "synthetic"\n[synthetic]\npatch_sizes = [64]\n[execution]\naccelerator = "cpu"')
    job, scan = resolve(spec)
    assert job.stages == ("train", "reconstruct", "refine", "evaluate")
    assert (job.data.scan, job.name, job.training.model.N) == (None, "synthetic", 64)
    assert (job.training.model.architecture, job.training.model.model_type) == ("unrolled", "supervised")
    assert scan.truth is not None
    assert ResolvedJob.from_json(job.to_json()) == job


def test_a_bundle_is_applied_or_trained_on_from(tmp_path):
    save_bundle(small_model(), tmp_path / "model")
    settings = {"job__engine": "pinn", "model__bundle": "model", "execution__accelerator": "cpu"}
    applied = resolved(tmp_path, **settings, training__nepochs=2)
    tuned = resolved(tmp_path, **settings, training__nepochs=2, model__fine_tune=True)
    assert applied.stages[0] == "reconstruct"
    assert tuned.stages[:2] == ("train", "reconstruct")
    # A model of random scenes serves frames of any size.
    assert tuned.training.model.N == 16
    assert tuned.training.model.architecture == "unrolled"


def test_the_linear_inverse_has_nothing_to_train(tmp_path):
    job = resolved(tmp_path, job__engine="pinn", model__architecture="linear", execution__accelerator="cpu")
    assert job.stages == ("reconstruct", "refine", "evaluate")
    assert job.training.model.gridsize == 1


def small_model():
    config = ModelConfig(N=32, n_filters_scale=1, max_hidden_channels=8, architecture="unrolled")
    card = ModelCard.of_scenes(SyntheticConfig(patch_sizes=(32,)), 0)
    return TrainedModel(PtychoNetwork(config, np.ones((1, 32, 32), np.complex64), 1e5), card=card)


def test_a_network_is_refused_where_frames_are_shadows(tmp_path):
    near = {"energy_eV": 12658.0, "distance_m": 1.12, "detector_pixel_m": [5.5e-5, 5.5e-5], "focus_distance_m": 3.65e-3}
    placed = {f"data__{key}": value for key, value in near.items()}
    assert resolved(tmp_path, **placed).stages == ("refine", "evaluate")
    with pytest.raises(SpecError, match="the network works in the far field"):
        resolved(tmp_path, job__engine="pinn", **placed)
