"""The configuration factory: what is decided, by whom, and what the audit trail says about it."""

import bz2
import json
import pickle
import zipfile
from dataclasses import asdict, fields
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptycho import params
from ptycho.config.config import InferenceConfig, ModelConfig, PyTorchExecutionConfig, TrainingConfig
from ptycho.errors import DataError
from ptycho.metadata import MetadataManager
from ptycho_torch import config_params as client
from ptycho_torch.config_factory import (
    create_inference_payload,
    create_training_payload,
    infer_probe_size,
    populate_legacy_params,
)

CPU = {"accelerator": "cpu"}


@pytest.fixture(autouse=True)
def _clean_dictionary():
    before = dict(params.cfg)
    params.cfg.clear()
    yield
    params.cfg.clear()
    params.cfg.update(before)


@pytest.fixture
def scan(tmp_path):
    """An NPZ file with a two-mode probe of 48 × 48."""
    return write_scan(tmp_path / "scan.npz")


def write_scan(path, probe_shape=(2, 48, 48), metadata=None):
    arrays = {"probeGuess": np.ones(probe_shape, np.complex64), "diff3d": np.ones((3, *probe_shape[-2:]), np.uint16)}
    MetadataManager.save_with_metadata(path, arrays, metadata)
    return path


def write_archive(folder, config=None, unpacked=False):
    folder.mkdir(exist_ok=True)
    manifest = json.dumps({"models": ["autoencoder", "diffraction_to_obj"], "version": "1", "backend": "pytorch"}
                          | ({"config": config} if config is not None else {}))  # fmt: skip
    if unpacked:
        (folder / "manifest.json").write_text(manifest)
    else:
        with zipfile.ZipFile(folder / "wts.h5.zip", "w") as archive:
            archive.writestr("manifest.json", manifest)
    return folder


def train(scan, **overrides):
    return create_training_payload(scan, "out", {"n_groups": 8, **CPU, **overrides})


# ------------------------------------------------------------------ what a payload holds


def test_a_payload_holds_what_was_asked_for_under_every_name(scan):
    payload = train(scan, gridsize=2, max_epochs=3, batch_size=4, K=5, model_type="supervised", n_groups=40)
    training = payload.tf_training_config
    assert (training.nepochs, training.batch_size, training.neighbor_count, training.n_groups) == (3, 4, 5, 40)
    assert (training.model.gridsize, training.model.model_type, training.model.N) == (2, "supervised", 48)
    assert (training.train_data_file, training.output_dir) == (scan, Path("out"))
    data, model = payload.pt_data_config, payload.pt_model_config
    assert (data.grid_size, data.C, data.K, data.N) == ((2, 2), 4, 5, 48)
    assert (model.C_model, model.C_forward, model.mode) == (4, 4, "Supervised")
    assert (payload.pt_training_config.epochs, payload.pt_training_config.batch_size) == (3, 4)


def test_a_payload_pickles(scan, tmp_path):
    payload = train(scan)
    assert pickle.loads(pickle.dumps(payload)) == payload
    inference = create_inference_payload(write_archive(tmp_path / "m"), scan, "out", {"n_groups": 1, **CPU})
    assert pickle.loads(pickle.dumps(inference)) == inference


def test_settings_in_several_objects_have_one_value(scan):
    execution = PyTorchExecutionConfig(
        accelerator="cpu", learning_rate=3e-4, scheduler="WarmupCosine", gradient_clip_val=2.0, accum_steps=3,
        gradient_clip_algorithm="value", num_workers=2, inference_batch_size=7, middle_trim=6, pad_eval=True,
    )  # fmt: skip
    payload = create_training_payload(scan, "out", {"n_groups": 8}, execution)
    assert payload.execution_config == execution
    training, own = payload.tf_training_config, payload.pt_training_config
    assert (training.scheduler, own.scheduler) == ("WarmupCosine", "Cosine")
    assert training.gradient_clip_val == own.gradient_clip_val == 2.0
    assert training.gradient_clip_algorithm == "value"
    assert (own.learning_rate, own.accum_steps, own.num_workers, own.device) == (3e-4, 3, 2, "cpu")
    inference = payload.pt_inference_config
    assert (inference.batch_size, inference.middle_trim, inference.pad_eval) == (7, 6, True)


def test_the_caller_s_objects_are_left_alone(scan):
    execution, overrides = PyTorchExecutionConfig(accelerator="cpu"), {"n_groups": 8, "learning_rate": 0.5}
    before = asdict(execution)
    payload = create_training_payload(scan, "out", overrides, execution)
    assert payload.execution_config.learning_rate == 0.5
    assert asdict(execution) == before
    assert overrides == {"n_groups": 8, "learning_rate": 0.5}


# ------------------------------------------------------------------ precedence

DEFAULT, PROFILE, EXECUTION, OVERRIDE = 1e-3, 1e-4, 1e-5, 1e-6


@pytest.mark.parametrize(
    ("profile", "execution", "override", "expected"),
    [(None, None, None, DEFAULT), (PROFILE, None, None, PROFILE), (None, EXECUTION, None, EXECUTION),
     (None, None, OVERRIDE, OVERRIDE), (PROFILE, EXECUTION, None, EXECUTION), (PROFILE, None, OVERRIDE, OVERRIDE),
     (None, EXECUTION, OVERRIDE, OVERRIDE), (PROFILE, EXECUTION, OVERRIDE, OVERRIDE)],
)  # fmt: skip
def test_a_learning_rate_set_anywhere_in_the_chain_is_the_one_that_trains(scan, profile, execution, override, expected):
    payload = create_training_payload(
        scan,
        "out",
        {"n_groups": 8} | ({"learning_rate": override} if override else {}),
        PyTorchExecutionConfig(accelerator="cpu", learning_rate=execution) if execution else None,
        {"accelerator": "cpu"} | ({"learning_rate": profile} if profile else {}),
    )
    assert payload.execution_config.learning_rate == expected
    assert payload.pt_training_config.learning_rate == expected
    assert payload.overrides_applied["learning_rate"] == expected


@pytest.mark.parametrize(
    ("setting", "low", "middle", "high"),
    [("scheduler", "Exponential", "WarmupCosine", "ReduceLROnPlateau"), ("gradient_clip_val", 1.0, 2.0, 3.0),
     ("accum_steps", 2, 3, 4), ("num_workers", 1, 2, 3), ("gradient_clip_algorithm", "value", "agc", "norm"),
     ("deterministic", False, "warn", True), ("logger_backend", "none", "mlflow", "tensorboard")],
)  # fmt: skip
def test_every_layer_beats_those_below_it(scan, setting, low, middle, high):
    profile, execution = {setting: low, **CPU}, PyTorchExecutionConfig(accelerator="cpu", **{setting: middle})
    of = {
        low: create_training_payload(scan, "out", {"n_groups": 8}, None, profile),
        middle: create_training_payload(scan, "out", {"n_groups": 8}, execution, profile),
        high: create_training_payload(scan, "out", {"n_groups": 8, setting: high}, execution, profile),
    }
    for expected, payload in of.items():
        assert getattr(payload.execution_config, setting) == expected
        assert getattr(payload.tf_training_config, setting, expected) == expected
        assert payload.overrides_applied.get(setting, expected) == expected


@pytest.mark.parametrize(("setting", "default", "low", "high"), [("batch_size", 16, 5, 6), ("nepochs", 50, 5, 6)])
def test_a_setting_of_the_training_goes_by_override_profile_default(scan, setting, default, low, high):
    plain = train(scan)
    profiled = create_training_payload(scan, "out", {"n_groups": 8, **CPU}, None, {setting: low})
    overridden = create_training_payload(scan, "out", {"n_groups": 8, **CPU, setting: high}, None, {setting: low})
    found = [getattr(payload.tf_training_config, setting) for payload in (plain, profiled, overridden)]
    assert found == [default, low, high]


def test_without_any_wish_everything_is_the_canonical_default(scan):
    payload = train(scan)
    expected = TrainingConfig(
        model=ModelConfig(N=48), train_data_file=scan, output_dir=Path("out"), n_groups=8,
    )  # fmt: skip
    assert payload.tf_training_config == expected
    assert payload.execution_config == PyTorchExecutionConfig(accelerator="cpu")


def test_a_client_s_own_setting_reaches_its_class(scan):
    payload = train(scan, normalize="Group", cbam_encoder=False, notes="a", window=3)
    assert (payload.pt_data_config.normalize, payload.pt_model_config.cbam_encoder) == ("Group", False)
    assert (payload.pt_training_config.notes, payload.pt_inference_config.window) == ("a", 3)
    with pytest.raises(ValueError, match="normalize = 'Grup': must be one of 'Group', 'Batch'"):
        train(scan, normalize="Grup")


# ------------------------------------------------------------------ the audit trail


def test_the_trail_always_holds_what_was_decided(scan):
    assert train(scan).overrides_applied == {
        "n_groups": 8, "N": 48, "N_source": "probe", "nphotons": 1e9, "nphotons_source": "tf_default",
        "accelerator": "cpu", "deterministic": True, "num_workers": 0, "enable_progress_bar": False,
        "learning_rate": 1e-3, "scheduler": "Default", "accum_steps": 1, "logger_backend": "csv",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("override", "value", "alias", "expected"),
    [("max_epochs", 3, "epochs", 3), ("nepochs", 3, "epochs", 3), ("neighbor_count", 6, "K", 6),
     ("model_type", "supervised", "mode", "Supervised"), ("mode", "Supervised", "mode", "Supervised")],
)  # fmt: skip
def test_the_trail_holds_the_aliases_of_what_was_given(scan, override, value, alias, expected):
    trail = train(scan, **{override: value}).overrides_applied
    assert trail[override] == value
    assert trail[alias] == expected
    assert alias not in train(scan).overrides_applied


def test_the_trail_shows_the_device_that_auto_became(scan):
    trail = create_training_payload(scan, "out", {"n_groups": 8, "accelerator": "auto"}).overrides_applied
    assert trail["accelerator"] in ("cpu", "cuda")


def test_the_trail_shows_execution_settings_that_are_not_the_default(scan):
    execution = PyTorchExecutionConfig(accelerator="cpu", precision="bf16-mixed")
    payload = create_training_payload(scan, "out", {"n_groups": 8, "early_stop_patience": 7}, execution)
    assert payload.overrides_applied["precision"] == "bf16-mixed"
    assert payload.overrides_applied["early_stop_patience"] == 7
    assert "devices" not in payload.overrides_applied


@pytest.mark.parametrize(
    ("metadata", "override", "nphotons", "source"),
    [(None, None, 1e9, "tf_default"), ({"physics_parameters": {"nphotons": 3e5}}, None, 3e5, "metadata"),
     ({"nphotons": 1e9}, None, 1e9, "metadata"), ({"nphotons": 3e5}, 7.0, 7.0, "override"),
     ({}, None, 1e9, "tf_default")],
)  # fmt: skip
def test_nphotons_comes_from_the_metadata_unless_overridden(tmp_path, metadata, override, nphotons, source):
    scan = write_scan(tmp_path / "scan.npz", metadata=metadata)
    payload = train(scan, **({"nphotons": override} if override else {}))
    assert payload.tf_training_config.nphotons == nphotons
    assert (payload.overrides_applied["nphotons"], payload.overrides_applied["nphotons_source"]) == (nphotons, source)


def test_an_overridden_size_beats_the_probe(scan):
    payload = train(scan, N=32)
    assert payload.tf_training_config.model.N == payload.pt_data_config.N == payload.overrides_applied["N"] == 32
    assert payload.overrides_applied["N_source"] == "override"


def test_a_large_group_gets_enough_neighbours_unless_told_otherwise(scan):
    payload = train(scan, gridsize=3)
    assert payload.tf_training_config.neighbor_count == payload.pt_data_config.K == 9
    assert payload.overrides_applied["neighbor_count"] == 9
    with pytest.raises(ValueError, match="neighbor_count = 5"):
        train(scan, gridsize=3, K=5)


# ------------------------------------------------------------------ wrong requests


@pytest.mark.parametrize("overrides", [None, {}, {"n_groups": None}, {"n_images": None}])
def test_n_groups_is_required(scan, tmp_path, overrides):
    with pytest.raises(ValueError, match="n_groups is required"):
        create_training_payload(scan, "out", overrides)
    with pytest.raises(ValueError, match="n_groups is required"):
        create_inference_payload(write_archive(tmp_path / "m"), scan, "out", overrides)


def test_n_images_is_a_deprecated_override(scan):
    with pytest.warns(DeprecationWarning, match="use n_groups") as caught:
        payload = create_training_payload(scan, "out", {"n_images": 9, **CPU})
    assert caught[0].filename == __file__
    assert payload.tf_training_config.n_groups == 9


def test_a_missing_file_is_named(tmp_path, scan):
    with pytest.raises(FileNotFoundError, match=r"^Training data file not found: .*no\.npz"):
        create_training_payload(tmp_path / "no.npz", "out", {"n_groups": 8})
    with pytest.raises(FileNotFoundError, match=r"^Test data file not found: .*no\.npz"):
        train(scan, test_data_file=str(tmp_path / "no.npz"))
    with pytest.raises(FileNotFoundError, match=r"^Test data file not found: .*no\.npz"):
        create_inference_payload(write_archive(tmp_path / "m"), tmp_path / "no.npz", "out", {"n_groups": 8})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [({"bach_size": 3}, "'bach_size'.*Did you mean 'batch_size'"), ({"epochs": 3, "nepochs": 4}, "two names of one"),
     ({"gridsize": 1, "grid_size": (2, 2)}, "two names of one"), ({"K": 3, "neighbor_count": 4}, "two names of one"),
     ({"mode": "Supervised", "model_type": "pinn"}, "two names of one"), ({"batch_size": 0}, "batch_size = 0"),
     ({"architecture": "cmn"}, "model.architecture = 'cmn'"), ({"learning_rate": -1.0}, "learning_rate = -1.0"),
     ({"train_data_file": "other.npz"}, "train_data_file = 'other.npz' contradicts"), ({"accelerator": "tpu"}, "tpu")],
)  # fmt: skip
def test_a_wrong_override_is_an_error_that_names_it(scan, overrides, sentence):
    with pytest.raises(ValueError, match=sentence):
        create_training_payload(scan, "out", {"n_groups": 8} | CPU | overrides)
    assert params.cfg == {}


def test_a_profile_is_as_strict_as_overrides(scan):
    with pytest.raises(ValueError, match="'bach_size'"):
        create_training_payload(scan, "out", {"n_groups": 8}, None, {"bach_size": 3})


def test_without_a_probe_the_size_must_be_given(tmp_path):
    path = tmp_path / "scan.npz"
    MetadataManager.save_with_metadata(path, {"diff3d": np.ones((2, 8, 8))}, None)
    with pytest.raises(ValueError, match="N is required"):
        train(path)
    assert train(path, N=8).tf_training_config.model.N == 8


# ------------------------------------------------------------------ inference


@pytest.mark.parametrize("unpacked", [False, True])
def test_inference_takes_the_model_s_shape_from_its_archive(scan, tmp_path, unpacked):
    folder = write_archive(tmp_path / "m", {"N": 128, "gridsize": 3, "architecture": "fno"}, unpacked)
    payload = create_inference_payload(folder, scan, "out", {"n_groups": 5, **CPU})
    model = payload.tf_inference_config.model
    assert (model.N, model.gridsize, model.architecture) == (128, 3, "fno")
    assert (payload.pt_data_config.grid_size, payload.pt_data_config.C) == ((3, 3), 9)
    assert payload.overrides_applied == {
        "n_groups": 5, "N": 128, "gridsize": 3, "architecture": "fno", "N_source": "archive", "neighbor_count": 9,
        "accelerator": "cpu", "num_workers": 0, "inference_batch_size": None,
    }  # fmt: skip


def test_explicit_overrides_beat_the_archive(scan, tmp_path):
    folder = write_archive(tmp_path / "m", {"N": 128, "gridsize": 2, "architecture": "fno"})
    payload = create_inference_payload(folder, scan, "out", {"n_groups": 5, "N": 64, "grid_size": (1, 1), **CPU})
    model = payload.tf_inference_config.model
    assert (model.N, model.gridsize, model.architecture) == (64, 1, "fno")
    assert payload.overrides_applied["N_source"] == "override"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"not a zip", None])
def test_a_broken_archive_leaves_the_defaults(scan, tmp_path, content):
    folder = write_archive(tmp_path / "m")
    if content is not None:
        (folder / "wts.h5.zip").write_bytes(content)
    model = create_inference_payload(folder, scan, "out", {"n_groups": 5, **CPU}).tf_inference_config.model
    assert (model.gridsize, model.architecture) == (1, "cnn")
    assert model.N == 48  # from the probe of the data


def test_nonsense_in_an_archive_is_not_used(scan, tmp_path):
    folder = write_archive(tmp_path / "m", {"N": "big", "gridsize": 2, "architecture": "magic"})
    payload = create_inference_payload(folder, scan, "out", {"n_groups": 5, **CPU})
    assert (payload.tf_inference_config.model.N, payload.tf_inference_config.model.gridsize) == (48, 2)
    assert payload.overrides_applied["N_source"] == "probe"


def test_a_file_without_a_probe_and_an_archive_without_a_size_leave_the_default_size(tmp_path):
    MetadataManager.save_with_metadata(tmp_path / "scan.npz", {"diff3d": np.ones((2, 8, 8))}, None)
    payload = create_inference_payload(
        write_archive(tmp_path / "m"), tmp_path / "scan.npz", "out", {"n_groups": 5, **CPU}
    )
    assert (payload.tf_inference_config.model.N, payload.overrides_applied["N_source"]) == (64, "default")


def test_execution_settings_of_inference_have_one_value(scan, tmp_path):
    folder = write_archive(tmp_path / "m")
    execution = PyTorchExecutionConfig(accelerator="cpu", inference_batch_size=32, num_workers=1, middle_trim=4)
    payload = create_inference_payload(folder, scan, "out", {"n_groups": 5, "num_workers": 3}, execution)
    assert payload.execution_config.num_workers == payload.overrides_applied["num_workers"] == 3
    assert payload.execution_config.inference_batch_size == payload.overrides_applied["inference_batch_size"] == 32
    assert (payload.pt_inference_config.batch_size, payload.pt_inference_config.middle_trim) == (32, 4)
    plain = create_inference_payload(folder, scan, "out", {"n_groups": 5, **CPU})
    assert plain.pt_inference_config.batch_size == client.InferenceConfig.batch_size


def test_a_model_folder_must_hold_an_archive(scan, tmp_path):
    with pytest.raises(FileNotFoundError, match="Model directory not found"):
        create_inference_payload(tmp_path / "no", scan, "out", {"n_groups": 5})
    with pytest.raises(ValueError, match=r"^Model archive not found"):
        create_inference_payload(tmp_path, scan, "out", {"n_groups": 5})


def test_training_settings_are_unknown_to_inference(scan, tmp_path):
    with pytest.raises(ValueError, match="'nepochs': there is no such setting"):
        create_inference_payload(write_archive(tmp_path / "m"), scan, "out", {"n_groups": 5, "nepochs": 3})


# ------------------------------------------------------------------ the size of the probe


@pytest.mark.parametrize("shape", [(40, 40), (1, 40, 40), (3, 40, 40), (2, 3, 40, 40), (1, 1, 1, 2, 40, 40)])
def test_the_probe_s_last_axis_is_the_size(tmp_path, shape):
    assert infer_probe_size(write_scan(tmp_path / "scan.npz", shape)) == 40
    packed = tmp_path / "scan.npz.bz2"
    packed.write_bytes(bz2.compress((tmp_path / "scan.npz").read_bytes()))
    assert infer_probe_size(packed) == 40
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["probe"] = np.ones(shape, np.complex64)
    assert infer_probe_size(tmp_path / "scan.h5") == 40


def test_only_the_shape_of_the_probe_is_read(tmp_path):
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("probe", (4, 200_000, 200_000), np.complex64, chunks=(1, 100, 100))
    assert infer_probe_size(tmp_path / "huge.h5") == 200_000
    np.savez(tmp_path / "pickled.npz", probeGuess=np.full((8, 8), None))
    assert infer_probe_size(tmp_path / "pickled.npz") == 8


def test_a_missing_file_or_probe_gives_64_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="N = 64 is assumed"):
        assert infer_probe_size(tmp_path / "missing.npz") == 64
    np.savez(tmp_path / "empty.npz", x=np.zeros(1))
    with pytest.warns(UserWarning, match="no probe"):
        assert infer_probe_size(tmp_path / "empty.npz") == 64
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file.create_group("probe")
    with pytest.warns(UserWarning, match="no probe"):
        assert infer_probe_size(str(tmp_path / "empty.h5")) == 64


def test_a_probe_that_cannot_be_one_is_refused(tmp_path):
    for shape in [(8,), (8, 9), (0, 0)]:
        np.savez(tmp_path / "odd.npz", probeGuess=np.ones(shape))
        with pytest.raises(DataError, match="the probe has shape"):
            infer_probe_size(tmp_path / "odd.npz")


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("positions")
    with pytest.raises(DataError, match="neither an NPZ nor an HDF5"):
        infer_probe_size(tmp_path / "text.npz")
    whole = write_scan(tmp_path / "scan.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="truncated"):
        infer_probe_size(tmp_path / "cut.npz")


# ------------------------------------------------------------------ the legacy dictionary


def test_the_factory_fills_the_legacy_dictionary(scan, tmp_path):
    train(scan, gridsize=2)
    assert (params.get("N"), params.get("gridsize"), params.get("train_data_file_path")) == (48, 2, str(scan))
    create_inference_payload(write_archive(tmp_path / "m"), scan, "elsewhere", {"n_groups": 5, **CPU})
    assert (params.get("gridsize"), params.get("output_prefix")) == (1, "elsewhere")
    assert not {field.name for field in fields(PyTorchExecutionConfig)} & params.cfg.keys() - {
        "scheduler", "gradient_clip_val", "gradient_clip_algorithm",
    }  # fmt: skip


def test_a_filled_dictionary_is_overwritten_only_by_force():
    first, second = TrainingConfig(model=ModelConfig(N=32)), TrainingConfig(model=ModelConfig(N=16))
    populate_legacy_params(first)
    with pytest.warns(UserWarning, match="force=True"):
        populate_legacy_params(second)
    assert params.get("N") == 32
    populate_legacy_params(second, force=True)
    assert params.get("N") == 16


@pytest.mark.parametrize("wrong", [ModelConfig(), {"N": 64}, client.TrainingConfig(), None])
def test_only_canonical_configurations_fill_the_dictionary(wrong):
    with pytest.raises(TypeError, match="TrainingConfig or InferenceConfig"):
        populate_legacy_params(wrong, force=True)
    populate_legacy_params(InferenceConfig(model=ModelConfig(N=8), model_path=Path("m"), test_data_file=Path("t")))
    assert params.get("N") == 8
