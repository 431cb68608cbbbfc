"""The legacy dictionary: what is written into it, under which names."""

from pathlib import Path

import pytest

from ptycho import params
from ptycho.config.config import (
    InferenceConfig,
    ModelConfig,
    PyTorchExecutionConfig,
    TrainingConfig,
    dataclass_to_legacy_dict,
    update_legacy_dict,
)


@pytest.fixture(autouse=True)
def _clean_dictionary():
    before = dict(params.cfg)
    params.cfg.clear()
    yield
    params.unseal()
    params.cfg.clear()
    params.cfg.update(before)


def test_a_value_that_was_set_is_got_and_an_unknown_key_is_an_error():
    params.set("intensity_scale", 2.5)
    assert params.get("intensity_scale") == params.cfg["intensity_scale"] == 2.5
    with pytest.raises(KeyError):
        params.get("no such key")


def test_setting_a_sealed_dictionary_warns_and_sets():
    params.seal()
    with pytest.warns(UserWarning, match="sealed"):
        params.set("N", 3)
    assert params.get("N") == 3
    params.unseal()
    params.set("N", 4)


def test_a_training_configuration_is_flattened_and_renamed():
    config = TrainingConfig(
        model=ModelConfig(N=128, gridsize=2, probe_big=False), train_data_file=Path("a.npz"),
        test_data_file=Path("b.npz"), output_dir=Path("out"), nepochs=3, probe_trainable=True,
    )  # fmt: skip
    update_legacy_dict(params.cfg, config)
    expected = {
        "N": 128, "gridsize": 2, "object.big": True, "probe.big": False, "probe.mask": False, "pad_object": True,
        "probe.trainable": True, "intensity_scale.trainable": True, "positions.provided": True,
        "output_prefix": "out", "train_data_file_path": "a.npz", "test_data_file_path": "b.npz", "nepochs": 3,
        "n_groups": 512, "nphotons": 1e9,
    }  # fmt: skip
    assert {key: params.cfg[key] for key in expected} == expected
    assert not {"model", "object_big", "output_dir", "train_data_file", "probe_trainable"} & params.cfg.keys()


def test_none_leaves_a_key_as_it_is():
    cfg = {"n_subsample": 7}
    update_legacy_dict(cfg, TrainingConfig(model=ModelConfig(), n_subsample=None))
    assert cfg["n_subsample"] == 7
    assert "train_data_file_path" not in cfg


def test_an_inference_configuration_keeps_the_names_that_have_no_other():
    config = InferenceConfig(model=ModelConfig(), model_path=Path("m"), test_data_file=Path("t"), debug=True)
    values = dataclass_to_legacy_dict(config)
    assert (values["model_path"], values["test_data_file_path"], values["debug"]) == ("m", "t", True)
    assert values["n_groups"] is None


def test_runtime_settings_never_enter_the_dictionary():
    with pytest.raises(TypeError, match="PyTorchExecutionConfig"):
        update_legacy_dict({}, PyTorchExecutionConfig(accelerator="cpu"))


@pytest.mark.parametrize("wrong", [{"N": 64}, ModelConfig, None])
def test_only_a_configuration_can_be_written(wrong):
    with pytest.raises(TypeError, match="configuration"):
        dataclass_to_legacy_dict(wrong)
