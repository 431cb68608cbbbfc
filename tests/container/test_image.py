"""The image that `make container` built: complete, small, anonymous, and as right as the machine it was built on."""

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse

import h5py
import numpy as np
import pytest

pytestmark = pytest.mark.container

ROOT = Path(__file__).parents[2]
WRAPPER = ROOT / "containers" / "apptainer.sh"
# Owners of addresses that Debian and Python themselves have in their packages.
PUBLIC_OWNERS = {"debian", "pypi", "pythonhosted", "pytorch"}

JOB = """
[job]
name = "place"
engine = "rpie"
seed = 3

[data]
scan = "scan.h5"

[refine]
epochs = 4
"""


def test_image_is_at_most_400_megabytes(image):
    assert image.path.stat().st_size <= 400e6


def test_labels_say_what_is_inside(image):
    labels = dict(line.split(": ", 1) for line in image.apptainer("inspect", str(image.path)).stdout.splitlines())
    assert labels["org.opencontainers.image.version"] == importlib.metadata.version("ptychopinn")
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["org.opencontainers.image.revision"])
    digest = hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
    assert labels["ptycho.lock.sha256"] == digest, "build the image again: make container"


def test_image_passes_its_own_test_read_only_and_in_a_clean_environment(image):
    done = image.apptainer("test", "--cleanenv", str(image.path), timeout_s=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "good." in done.stdout.splitlines()[-1]
    assert image.apptainer("exec", str(image.path), "touch", "/opt/ptycho/new").returncode != 0


def test_image_passes_its_own_test_as_a_folder_of_an_ordinary_user(unpacked):
    assert os.getuid() == 0, "only root can be somebody else for a moment"
    # The repository may lie where others may not look.
    scripts = shutil.copytree(WRAPPER.parent, unpacked.parent / "containers")
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "HOME=/nonexistent"]
    test = [scripts / "apptainer.sh", "test", "--cleanenv", unpacked]
    done = subprocess.run([*user, *test], cwd="/", capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "good." in done.stdout.splitlines()[-1]


def test_runscript_is_ptycho(image):
    done = image.apptainer("run", "--cleanenv", str(image.path), "--version")
    assert importlib.metadata.version("ptychopinn") in done.stdout


def test_environment_inside(image):
    def inside(*options: str, **outside: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "PTYCHO_CONTAINER_DIR") if name in os.environ}
        words = [WRAPPER, "exec", *options, image.path, "env"]
        text = subprocess.check_output(words, env=kept | outside, text=True, timeout=300)
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    usual = inside(SLURM_PROCID="1")
    assert usual["HDF5_USE_FILE_LOCKING"] == "FALSE"
    assert usual["MPLCONFIGDIR"] == f"/tmp/ptycho-matplotlib-{os.getuid()}"
    assert usual["SLURM_PROCID"] == "1"
    assert "OMP_NUM_THREADS" not in usual
    assert inside(OMP_NUM_THREADS="2")["OMP_NUM_THREADS"] == "2"
    assert inside("--env=HDF5_USE_FILE_LOCKING=TRUE")["HDF5_USE_FILE_LOCKING"] == "TRUE"


def test_modules_are_compiled(image):
    code = "import ptycho.cli.main as m, pathlib; print(pathlib.Path(m.__cached__).exists())"
    assert image.run("python3", "-c", code).strip() == "True"


def test_two_ranks_see_each_other_under_the_images_mpirun(image):
    code = "from mpi4py import MPI; print(MPI.COMM_WORLD.allreduce(1))"
    allow = ["env", "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"]
    out = image.run(*allow, "mpirun", "--oversubscribe", "-n", "2", "python3", "-c", code)
    assert out.split() == ["2", "2"]


def test_same_object_inside_and_outside(image, tmp_path):
    outside = [sys.executable, "-m", "ptycho.cli.main"]
    options = ["--patch-size", "32", "--n-positions", "100", "--step-px", "4"]
    subprocess.run([*outside, "simulate", "scan.h5", *options], cwd=tmp_path, check=True, timeout=600)
    (tmp_path / "job.toml").write_text(JOB)
    run = ["run", "job.toml", "--set"]
    subprocess.run([*outside, *run, "output.dir=out"], cwd=tmp_path, check=True, timeout=600)
    image.run("ptycho", *run, "output.dir=in", folder=tmp_path, timeout_s=600)
    objects = []
    for place in ("out", "in"):
        (result,) = tmp_path.glob(f"{place}/*/result.h5")
        with h5py.File(result) as file:
            objects.append(file["object"][()])
    difference = np.linalg.norm(objects[0] - objects[1]) / np.linalg.norm(objects[0])
    assert np.linalg.norm(objects[0]) > 0
    assert difference <= 1e-6


def addresses_and_paths() -> list[str]:
    """What would betray this machine: where it gets packages from, and where the image was built."""
    found = [str(ROOT), os.environ.get("PTYCHO_CONTAINER_DIR", "/tmp/ptycho-containers")]
    apt = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True).stdout
    pip = [sys.executable, "-m", "pip", "config", "list"]
    pip_lines = subprocess.run(pip, capture_output=True, text=True).stdout.splitlines()
    places = [line.partition("=")[2].strip("'\"") for line in pip_lines if "index-url" in line or "find-links" in line]
    for word in {*apt.split(), *" ".join(places).replace("\\n", " ").split()}:
        host = urlparse(word).hostname
        found.append(host or word.removeprefix("file://"))
    return [text for text in dict.fromkeys(found) if text.split(".")[-2:-1] not in [[owner] for owner in PUBLIC_OWNERS]]


def test_nothing_inside_tells_where_it_was_built(unpacked, tmp_path):
    marks = tmp_path / "marks"
    marks.write_text("\n".join(addresses_and_paths()) + "\n")
    (unpacked / "canary").write_text(str(ROOT))
    command = ["grep", "--recursive", "--fixed-strings", "--text", "--files-with-matches", f"--file={marks}", unpacked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.stdout.split() == [str(unpacked / "canary")]


def test_nothing_is_left_of_the_build(unpacked):
    for empty in ("mnt", "tmp", "var/tmp", "var/log", "var/lib/apt/lists", "opt/ptycho-source", "root/.cache"):
        files = [path for path in (unpacked / empty).rglob("*") if path.is_file() and path.stat().st_size]
        assert not files, empty
    assert not [*unpacked.glob("etc/ssh/*key*"), *unpacked.glob("etc/munge/*"), *unpacked.glob("root/.ssh/*")]
    assert not [*unpacked.glob("opt/ptycho/lib/python3*/site-packages/pytest*")]
