"""The bundle: an exact round trip, nothing unpickled, nothing foreign opened."""

import json
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch

from ptycho.errors import ModelError
from ptycho_torch.pinn.bundle import ARCHIVE_NAME, MANIFEST_NAME, WEIGHTS_NAME, load_bundle, save_bundle
from ptycho_torch.pinn.inference import infer_patches
from ptycho_torch.pinn.network import PtychoNetwork
from ptycho_torch.pinn.trained import TrainedModel
from tests.pinn.pinn_scans import small_config, small_scan


@pytest.fixture
def model():
    scan = small_scan(modes=2)
    mask = np.ones((32, 32), bool)
    mask[3, 7:9] = False
    config = small_config(gridsize=2, probe_mask=True, generator_output_mode="amp_phase", amp_activation="swish").model
    network = PtychoNetwork(config, scan.probe, 1e5, mask)
    torch.nn.init.normal_(network.generator.last.weight, std=0.1)
    network.make_trainable(probe=True, intensity=True)
    with torch.no_grad():
        network.probe_parts.mul_(1.01)
        network.log_intensity.fill_(0.02)
    return TrainedModel(network.eval(), {"loss": 1.5, "beats_constant": 1.0}, [{"loss": 2.0}, {"loss": 1.5}])


@pytest.mark.parametrize("unpacked", [False, True])
def test_round_trip_is_exact(model, tmp_path, unpacked):
    path = save_bundle(model, tmp_path / "model")
    assert path == tmp_path / "model" / ARCHIVE_NAME
    source = path.parent
    if unpacked:
        source = tmp_path / "unpacked"
        shutil.unpack_archive(path, source)
    back = load_bundle(source)
    assert back.config == model.config
    assert (back.metrics, back.history, back.window) == (model.metrics, model.history, model.window)
    for name, value in model.network.state_dict().items():
        assert torch.equal(back.network.state_dict()[name], value)
    scan = small_scan(modes=2)
    some = np.array([4, 1, 9])
    (before,), (after,) = (list(infer_patches(m, scan, some)) for m in (model, back))
    assert torch.equal(before.patches, after.patches)
    assert (before.residual == after.residual).all()


def test_the_archive_itself_can_be_given_and_its_bytes_repeat(model, tmp_path):
    one, two = save_bundle(model, tmp_path / "a"), save_bundle(model, tmp_path / "b")
    assert one.read_bytes() == two.read_bytes()
    assert load_bundle(one).config.gridsize == 2
    assert sorted(file.name for file in one.parent.iterdir()) == [ARCHIVE_NAME]


def test_manifest_says_what_other_programs_look_for(model, tmp_path):
    with zipfile.ZipFile(save_bundle(model, tmp_path)) as archive:
        manifest = json.loads(archive.read(MANIFEST_NAME))
    assert manifest["models"] == ["autoencoder", "diffraction_to_obj"]
    assert manifest["backend"] == "pytorch"
    assert {"N": 32, "gridsize": 2, "architecture": "cnn"}.items() <= manifest["config"].items()


def test_a_scan_that_does_not_fit_is_refused_with_both_numbers(model):
    scan = small_scan(size=48)
    with pytest.raises(ModelError, match="N = 32, but small asks for N = 48"):
        next(infer_patches(model, scan, np.arange(3)))
    with pytest.raises(ModelError, match="gridsize = 2, but small asks for gridsize = 1"):
        model.require_fit(small_scan(), gridsize=1)
    with pytest.raises(ModelError, match="architecture = cnn, but small asks for architecture = fno"):
        model.require_fit(small_scan(), architecture="fno")


def test_an_archive_with_pickles_is_refused_and_not_opened(tmp_path):
    class _Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").touch, ())

    with zipfile.ZipFile(tmp_path / ARCHIVE_NAME, "w") as archive:
        archive.writestr("manifest.dill", pickle.dumps(_Bomb()))
        archive.writestr("autoencoder/model.keras", b"")
    with pytest.raises(ModelError, match=r"manifest.dill, a model of another program .* can run code"):
        load_bundle(tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_members_outside_the_archive_are_never_written(model, tmp_path):
    path = save_bundle(model, tmp_path / "in")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../escaped.txt", "x")
    assert load_bundle(path).config.N == 32
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_a_member_that_inflates_without_end_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr("ptycho_torch.pinn.bundle.LARGEST_MANIFEST", 1000)
    with zipfile.ZipFile(tmp_path / ARCHIVE_NAME, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST_NAME, b"0" * 10**6)
        archive.writestr(WEIGHTS_NAME, b"")
    with pytest.raises(ModelError, match="larger than 1000 bytes"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m["config"].pop("model"), "model"),
        (lambda m: m["config"]["model"].update(wizardry=1), "unknown model options wizardry"),
        (lambda m: m["config"]["model"].update(N=-3), "N = -3"),
        (lambda m: m["config"]["model"].update(n_filters_scale=2, max_hidden_channels=None), "size mismatch|Error"),
    ],
)
def test_a_broken_manifest_is_one_sentence(model, tmp_path, change, reason):
    path = save_bundle(model, tmp_path / "good")
    with zipfile.ZipFile(path) as archive:
        manifest, weights = json.loads(archive.read(MANIFEST_NAME)), archive.read(WEIGHTS_NAME)
    change(manifest)
    broken = tmp_path / ARCHIVE_NAME
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr(MANIFEST_NAME, json.dumps(manifest))
        archive.writestr(WEIGHTS_NAME, weights)
    with pytest.raises(ModelError, match=reason) as caught:
        load_bundle(broken)
    assert "\n" not in str(caught.value)


def test_missing_empty_and_torn_archives_are_one_sentence(model, tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        load_bundle(tmp_path / "nowhere.zip")
    with pytest.raises(ModelError, match="holds no model"):
        load_bundle(tmp_path)
    path = save_bundle(model, tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be read as a model archive"):
        load_bundle(path)


def test_another_probe_keeps_the_generator(model):
    scan = small_scan(modes=1)
    other = model.with_probe(scan.probe)
    assert other.network.probe.shape[0] == 1
    assert torch.equal(other.network.generator.last.weight, model.network.generator.last.weight)
    (batch,) = infer_patches(other, scan, np.arange(4))
    assert torch.isfinite(batch.residual if torch.is_tensor(batch.residual) else torch.from_numpy(batch.residual)).all()
