"""The library PtychoPINN-Torch of ptychodus: every call of its releases, in a spawned child, settings as it sends."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from ptycho.errors import DataError, ModelError
from ptycho.raw_data import client_scan as scan_of_arrays
from ptycho_torch.api import keywords
from ptycho_torch.api.base_api import ConfigManager, InferenceEngine, PtychoDataLoader, PtychoModel, centred_shape
from ptycho_torch.api.checkpoint_file import ClientConfigs, read_checkpoint, write_checkpoint
from ptycho_torch.api.client_work import DEFAULT_REFINE_EPOCHS, REFINE_VARIABLE, refine_epochs
from ptycho_torch.api.settings import frames_inside, training_of
from ptycho_torch.lightning_utils import find_best_checkpoint
from ptycho_torch.model import PtychoPINN_Lightning
from ptycho_torch.pinn.network import PtychoNetwork
from ptycho_torch.pinn.trained import TrainedModel
from tests.clients import children
from tests.clients.client_files import client_scan, judge, write_standard_folder, write_training_npz
from tests.clients.ptychodus_configs import torch_configs
from tests.pinn.pinn_scans import small_config


@pytest.fixture(scope="module")
def scan():
    return client_scan(modes=2)


@pytest.fixture(scope="module")
def configs():
    data, model, training, inference, _ = torch_configs(n_subsample=1)
    return ClientConfigs(data=data, model=model, training=training, inference=inference)


@pytest.fixture(scope="module")
def saved(scan, configs, tmp_path_factory):
    """A file with an untrained network for the scan."""
    network = PtychoNetwork(small_config(gridsize=2, n_filters_scale=2).model, scan.probe, 1e5)
    path = tmp_path_factory.mktemp("saved") / "model.ckpt"
    write_checkpoint(path, TrainedModel(network.eval()), configs)
    return path


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_training_then_reconstruction_in_children(scan, tmp_path):
    # Both exported files lie in the folder although one data set is set, and so does what batch work stages.
    write_standard_folder(tmp_path, scan)
    write_training_npz(tmp_path / "train_data.npz", scan)
    write_training_npz(tmp_path / "test_data.npz", client_scan(side=4, modes=2))
    settings = torch_configs(n_subsample=1, epochs=2, n_filters_scale=1, scheduler="Cosine")
    path, training, validation, epochs = children.in_child(children.torch_train, *settings, tmp_path, tmp_path / "out")
    assert path.suffix == ".ckpt"
    assert path.parent.parent == tmp_path / "out"
    assert len(training) == epochs == 2
    assert len(validation) in (0, 2)
    assert training[1] < training[0]
    image, mode = children.in_child(children.torch_reconstruct, path, scan, scan.probe)
    assert mode == "Unsupervised"
    assert image.shape == scan.truth.shape
    assert image.dtype == np.complex64
    correlation, shift, amplitude = judge(image, scan)
    assert correlation > 0.9
    assert shift < 0.25
    assert amplitude == pytest.approx(1, abs=0.1)


def test_configurations_pickle_and_live_inside_the_model_file(saved, configs):
    assert PtychoModel._extract_configs_from_checkpoint(str(saved)) == (
        configs.data, configs.model, configs.training, configs.inference,
    )  # fmt: skip
    for config in torch_configs():
        assert pickle.loads(pickle.dumps(config)) == config


def test_a_reconstruction_has_the_objects_shape_with_either_kind_of_probe(scan, saved, monkeypatch):
    monkeypatch.setenv(REFINE_VARIABLE, "3")
    images = [reconstruct(saved, scan, probe) for probe in (scan.probe, scan.probe[:1], scan.probe[0])]
    assert {image.shape for image in images} == {scan.truth.shape}
    assert np.allclose(images[1], images[2], atol=1e-4)


def test_refinement_can_be_switched_off_and_a_wrong_number_is_refused(scan, saved, monkeypatch):
    monkeypatch.delenv(REFINE_VARIABLE, raising=False)
    assert refine_epochs() == DEFAULT_REFINE_EPOCHS
    refined = judge(reconstruct(saved, scan, scan.probe), scan)[0]
    monkeypatch.setenv(REFINE_VARIABLE, "0")
    assert judge(reconstruct(saved, scan, scan.probe), scan)[0] < refined
    monkeypatch.setenv(REFINE_VARIABLE, "-1")
    with pytest.raises(Exception, match="PTYCHO_REFINE_EPOCHS = '-1': must be a whole number"):
        refine_epochs()


def test_uniform_weights_use_the_middle_of_each_patch_alone(scan, saved, monkeypatch):
    monkeypatch.setenv(REFINE_VARIABLE, "0")
    wide, narrow = (
        reconstruct(saved, scan, scan.probe, patch_weighting="uniform", middle_trim=trim) for trim in (0, 8)
    )
    assert (np.abs(wide - 1) > 0).sum() > (np.abs(narrow - 1) > 0).sum() > 0


def test_the_objects_size_follows_from_positions_that_are_centred_on_it():
    middle = client_scan(side=4).middle_px
    shape = client_scan(side=4).truth.shape
    assert centred_shape(middle, 32) == shape
    with pytest.raises(DataError, match="not centred on any object"):
        centred_shape(middle + 0.2, 32)
    with pytest.raises(DataError, match="not centred on any object"):
        centred_shape(middle - 20, 32)


def test_the_canonical_settings_are_those_the_client_sends(configs):
    client = client_scan(side=7)
    scan = scan_of_arrays(client.counts, client.probe, client.middle_px)
    data = replace(configs.data, n_subsample=7)
    training, execution, chosen = training_of(
        replace(configs, data=data, training=replace(configs.training, gradient_clip_val=0.5, nll=False)), scan
    )
    assert (training.model.N, training.model.gridsize, training.model.model_type) == (32, 2, "pinn")
    assert (training.batch_size, training.nepochs, training.neighbor_count) == (16, 50, 6)
    assert training.n_groups == 7 * len(chosen)
    assert len(chosen) == 25
    assert (training.nll_weight, training.mae_weight, training.gradient_clip_val) == (0.0, 1.0, 0.5)
    assert (execution.accelerator, execution.num_workers, execution.learning_rate) == ("cpu", 0, 1e-3)


def test_bounds_are_fractions_of_the_scanned_area():
    y, x = np.divmod(np.arange(110), 11)
    positions = np.stack([y * 2.0, x * 5.0], axis=1)
    inside = frames_inside(positions, (0.0, 0.5), (0.1, 0.9))
    assert set(positions[inside, 0]) == {0.0, 2.0, 4.0, 6.0, 8.0}
    assert set(positions[inside, 1]) == {5.0 * k for k in range(1, 10)}
    line = np.stack([np.zeros(11), np.arange(11.0)], axis=1)
    assert len(frames_inside(line, (0.1, 0.9), (0.0, 1.0))) == 11


@pytest.mark.parametrize("keyword", sorted(keywords.REFUSED))
def test_what_cannot_be_followed_is_refused_in_one_sentence(keyword):
    name = keyword.split(".")[1]
    settings = torch_configs()
    keywords.require_supported(*settings)
    for config in settings:
        if hasattr(config, name):
            setattr(config, name, 7)
    with pytest.raises(ValueError, match=f"^{name} = 7: "):
        keywords.require_supported(*settings)


def test_a_model_file_of_another_program_is_not_opened(saved, tmp_path):
    class _Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").touch, ())

    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": _Bomb()}, foreign)
    with pytest.raises(ModelError, match="can run code when loaded"):
        read_checkpoint(foreign)
    foreign.write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(ModelError, match="cannot be read as a model"):
        read_checkpoint(foreign)
    torch.save({"state_dict": {}}, foreign)
    with pytest.raises(ModelError, match="no model of this program"):
        read_checkpoint(foreign)
    foreign.write_bytes(saved.read_bytes()[:2000])
    with pytest.raises(ModelError, match="cannot be read as a model"):
        read_checkpoint(foreign)
    with pytest.raises(ModelError, match="does not exist"):
        read_checkpoint(tmp_path / "none.ckpt")
    assert not (tmp_path / "exploded").exists()


def test_a_model_for_another_gridsize_or_without_weights_is_refused(saved, configs):
    loaded = load(saved)
    manager = ConfigManager.from_loaded_model(loaded)
    manager.validate_arch_compatibility(loaded)
    other = replace(manager, data_config=replace(configs.data, grid_size=(3, 3)))
    with pytest.raises(ModelError, match="gridsize = 2, not 3"):
        other.validate_arch_compatibility(loaded)
    new = PtychoModel._new_model(PtychoPINN_Lightning, manager)
    assert (new.model.loss_name, new.model.val_loss_name) == ("train_loss", "val_loss")
    with pytest.raises(ModelError, match="no weights yet"):
        _ = new.model.trained


def test_the_newest_model_file_is_found(tmp_path):
    assert find_best_checkpoint(tmp_path) is None
    for name in ("run_1", "run_2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.ckpt").touch()
    assert find_best_checkpoint(tmp_path) == tmp_path / "run_2" / "model.ckpt"


def test_a_folder_without_a_scan_is_refused(tmp_path, configs):
    manager = ConfigManager(configs.data, configs.model, configs.training, configs.inference)
    with pytest.raises(DataError, match="holds no scan"):
        PtychoDataLoader(data_dir=tmp_path, config_manager=manager)


def load(path):
    data, model, training, inference = PtychoModel._extract_configs_from_checkpoint(path)
    loaded = PtychoModel(model, data, training, inference)
    loaded.model = PtychoPINN_Lightning.load_from_checkpoint(path)
    return loaded


def reconstruct(path, scan, probe, **inference):
    loaded = load(path)
    manager = ConfigManager.from_loaded_model(loaded)
    manager.inference_config = replace(manager.inference_config, **inference)
    loader = PtychoDataLoader.from_np(scan.counts, probe, scan.middle_px, manager)
    return InferenceEngine(manager, loaded).predict_and_stitch(loader)
