"""Metadata in NPZ files: kept, found again, and never unpickled."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ptycho.config.config import ModelConfig, TrainingConfig
from ptycho.data.formats.pickled_text import read_pickled_text
from ptycho.errors import DataError
from ptycho.metadata import METADATA_KEY, MetadataManager


class Harmful:
    """A pickle of this object would leave a file behind when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def save_pickled(path, value, **arrays):
    np.savez(path, **{METADATA_KEY: value}, **arrays)
    return path


def test_arrays_and_metadata_come_back(tmp_path):
    config = TrainingConfig(model=ModelConfig(N=32), nphotons=2e6, output_dir=Path("out"))
    metadata = MetadataManager.create_metadata(config, "simulate", scale=np.float32(2), source=Path("a"))
    arrays = {"diff3d": np.arange(12, dtype=np.uint16).reshape(3, 2, 2), "probeGuess": np.ones((2, 2), np.complex64)}
    MetadataManager.save_with_metadata(tmp_path / "scan.npz", arrays, metadata)

    found, told = MetadataManager.load_with_metadata(tmp_path / "scan.npz")

    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert MetadataManager.get_nphotons(told) == 2e6
    assert told["physics_parameters"]["N"] == 32
    assert told["creation_info"]["script"] == "simulate"
    assert told["additional_parameters"] == {"scale": 2.0, "source": "a"}
    assert [path.name for path in tmp_path.iterdir()] == ["scan.npz"]


def test_metadata_are_stored_as_plain_text(tmp_path):
    MetadataManager.save_with_metadata(tmp_path / "a.npz", {}, {"nphotons": 5})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        assert json.loads(str(stored[METADATA_KEY])) == {"nphotons": 5}


def test_a_file_without_metadata_has_none(tmp_path):
    MetadataManager.save_with_metadata(tmp_path / "a.npz", {"x": np.zeros(2)}, None)
    arrays, metadata = MetadataManager.load_with_metadata(tmp_path / "a.npz")
    assert (list(arrays), metadata) == (["x"], None)
    assert MetadataManager.load_metadata(tmp_path / "a.npz") is None


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [(None, 1e9), ({}, 1e9), ({"nphotons": 3}, 3.0), ({"physics_parameters": {"nphotons": 4e5}, "nphotons": 1}, 4e5),
     ({"physics_parameters": None}, 1e9)],
)  # fmt: skip
def test_nphotons_is_taken_from_either_place_or_the_default(metadata, expected):
    assert MetadataManager.get_nphotons(metadata) == expected
    assert MetadataManager.get_nphotons(None, default=7.0) == 7.0


@pytest.mark.parametrize("value", ["many", -1, 0, True, float("nan"), float("inf")])
def test_a_nonsense_nphotons_is_refused(value):
    with pytest.raises(DataError, match="nphotons"):
        MetadataManager.get_nphotons({"nphotons": value})


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.npz"
    MetadataManager.save_with_metadata(path, {"x": np.zeros(2)}, {"nphotons": 1})
    before = path.read_bytes()
    with pytest.raises(TypeError, match="JSON"):
        MetadataManager.save_with_metadata(path, {}, {"array": object()})
    with pytest.raises(ValueError, match="Python objects"):
        MetadataManager.save_with_metadata(path, {"x": np.array([None])}, None)
    with pytest.raises(ValueError, match="name of the metadata"):
        MetadataManager.save_with_metadata(path, {METADATA_KEY: np.zeros(1)}, None)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("text", ['{"nphotons": 8.0}', '{"nphotons": 8.0, "name": "' + "é" * 300 + '"}'])
def test_older_metadata_in_an_object_array_are_read(tmp_path, text):
    path = save_pickled(tmp_path / "old.npz", np.array(text, dtype=object), x=np.ones(3))
    arrays, metadata = MetadataManager.load_with_metadata(path)
    assert metadata == json.loads(text)
    np.testing.assert_array_equal(arrays["x"], np.ones(3))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_the_text_is_read_whichever_numpy_and_protocol_wrote_it(protocol, module):
    pickled = pickle.dumps(np.array("a text", dtype=object), protocol=min(protocol, 3))
    assert read_pickled_text(pickled.replace(b"numpy._core.multiarray", module)) == "a text"
    assert read_pickled_text(pickle.dumps(np.array("a text", dtype=object), protocol=protocol)) == "a text"


@pytest.mark.parametrize(
    "value",
    [{"nphotons": 1}, [1], 3, None, b'{"nphotons": 1}', "not json", "[1, 2]"],
    ids=lambda value: type(value).__name__,
)
def test_any_other_object_is_refused(tmp_path, value):
    boxed = np.empty((), dtype=object)
    boxed[()] = value
    path = save_pickled(tmp_path / "odd.npz", boxed)
    with pytest.raises(DataError, match=METADATA_KEY):
        MetadataManager.load_with_metadata(path)


def test_an_array_of_several_objects_is_refused(tmp_path):
    path = save_pickled(tmp_path / "many.npz", np.array(['{"a": 1}', '{"b": 2}'], dtype=object))
    with pytest.raises(DataError, match="shape"):
        MetadataManager.load_with_metadata(path)


def test_a_harmful_pickle_is_refused_and_does_nothing(tmp_path):
    trap, victim = tmp_path / "trap.npz", tmp_path / "victim"
    boxed = np.empty((), dtype=object)
    boxed[()] = Harmful(victim)
    save_pickled(trap, boxed)
    with pytest.raises(DataError, match="it would import"):
        MetadataManager.load_metadata(trap)
    with pytest.raises(DataError):
        MetadataManager.load_with_metadata(trap)
    assert not victim.exists()


def test_a_text_beside_something_else_is_refused():
    boxed = np.empty((), dtype=object)
    boxed[()] = ["{}", Harmful(Path("victim"))]
    with pytest.raises(ValueError, match="import"):
        read_pickled_text(pickle.dumps(boxed))
    with pytest.raises(ValueError, match="not the pickle of one text"):
        read_pickled_text(pickle.dumps(("{}", "{}")))
    with pytest.raises(ValueError, match="not the pickle of one text"):
        read_pickled_text(pickle.dumps(np.array("{}", dtype=object))[:-20])
    with pytest.raises(ValueError, match="not the pickle of one text"):
        read_pickled_text(b"")


def test_pickled_arrays_beside_the_metadata_are_refused(tmp_path):
    path = save_pickled(tmp_path / "a.npz", np.array("{}"), x=np.array([Harmful(tmp_path / "victim")]))
    with pytest.raises(DataError, match="x holds pickled"):
        MetadataManager.load_with_metadata(path)
    assert MetadataManager.load_metadata(path) == {}
    assert not (tmp_path / "victim").exists()


def test_metadata_of_absurd_size_are_not_read(tmp_path):
    path = tmp_path / "bomb.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": ()})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(METADATA_KEY + ".npy", header.getvalue() + b"\0" * (17 * 2**20))
    with pytest.raises(DataError, match="more than"):
        MetadataManager.load_metadata(path)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "cut.npz"
    MetadataManager.save_with_metadata(path, {"x": np.zeros(1000)}, {"a": 1})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"cut\.npz"):
        MetadataManager.load_metadata(path)
    with pytest.raises(FileNotFoundError):
        MetadataManager.load_metadata(tmp_path / "missing.npz")
