"""What an image says of itself, read without Apptainer."""

import hashlib

import pytest

from ptycho.errors import RequestError
from ptycho.jobs import container_image
from ptycho.jobs.container_image import described, read_image
from tests.jobs.image_files import LABELS, write_image, write_image_folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_labels_and_digest_of_a_file(tmp_path):
    path = write_image(tmp_path / "a.sif", torch="2.13.0+cu130", flavour="cu130")
    image = read_image(path)
    assert (image.version, image.torch, image.commit) == (
        LABELS["org.opencontainers.image.version"],
        "2.13.0+cu130",
        "a" * 40,
    )
    assert image.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert image.digest[:12] in described(image) and "cu130" in described(image)


def test_a_folder_is_an_image_without_a_digest(tmp_path):
    image = read_image(write_image_folder(tmp_path / "image"))
    assert (image.digest, image.flavour) == ("", "cpu")


@pytest.mark.parametrize(("flavour", "option"), [("cpu", None), ("cu126", "--nv"), ("rocm7.1", "--rocm")])
def test_the_flavour_says_how_gpus_are_shown(tmp_path, flavour, option):
    assert read_image(write_image(tmp_path / "a.sif", flavour=flavour)).gpu_option == option


def test_a_digest_is_computed_once_for_each_content(tmp_path, monkeypatch):
    path = write_image(tmp_path / "a.sif")
    first = read_image(path).digest
    with monkeypatch.context() as patch:
        patch.setattr(container_image.hashlib, "file_digest", None)
        assert read_image(path).digest == first
    write_image(path, torch="2.14.0")
    assert read_image(path).digest != first


def test_what_is_no_image_of_ptycho_is_refused_with_a_sentence(tmp_path):
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    for name in ("text", "empty", "folder"):
        with pytest.raises(RequestError, match="not an Apptainer image"):
            read_image(tmp_path / name)
    whole = write_image(tmp_path / "a.sif").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-20])
    with pytest.raises(RequestError, match="damaged or incomplete"):
        read_image(tmp_path / "cut")
    (tmp_path / "other").write_bytes(
        whole.replace(b"org.opencontainers.image.version", b"org.opencontainers.image.versioN")
    )
    with pytest.raises(RequestError, match="does not hold ptycho"):
        read_image(tmp_path / "other")
