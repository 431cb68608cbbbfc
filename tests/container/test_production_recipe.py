"""The production recipe as far as it goes without a registry and a GPU: its %post in an offline Debian folder."""

import hashlib
import os
import re
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.container.conftest import ROOT, STATE, WRAPPER
from tests.requirements import cannot_run

pytestmark = pytest.mark.container

# Folders of the packages that install.sh clears out.
PARTS = {name: [f"{name}/__init__.py"] for name in ("numpy", "scipy", "sympy", "networkx", "matplotlib")}
PARTS["torch"] = ["torch/__init__.py", "torch/bin/torch_shm_manager", "torch/bin/test_api", "torch/include/torch.h"]
NEEDS = {"torch": ("sympy", "networkx")}


def write_wheel(folder: Path, name: str, version: str) -> None:
    """A package of this name and version that holds nothing but what install.sh expects to find."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
        for part in PARTS.get(name, [f"{module}/__init__.py"]):
            wheel.writestr(part, "")
        needs = "".join(f"Requires-Dist: {other}\n" for other in NEEDS.get(name, ()))
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """A stand-in of every package that ptycho needs, and the real setuptools."""
    folder = tmp_path_factory.mktemp("wheels")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [
        *project["dependencies"],
        *project["optional-dependencies"]["torch"],
        *project["optional-dependencies"]["mpi"],
    ]
    locked = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE))
    for package in {re.match(r"[\w-]+", text).group() for text in [*needed, *NEEDS["torch"]]}:
        write_wheel(folder, package, "2.99.0" if package == "torch" else locked[package])
    real = next(STATE.glob("wheels-*/setuptools-*.whl"), None)
    if real is None:
        cannot_run("image", "there are no wheels; make them with: make container")
    shutil.copy(real, folder)
    return folder


@pytest.fixture(scope="module")
def built(wheels, tmp_path_factory):
    """The production recipe built on the offline Debian folder instead of a CUDA image, with empty packages."""
    base = STATE / "bookworm"
    if not base.is_dir():
        cannot_run("image", f"there is no {base}; make it with: make container")
    folder = tmp_path_factory.mktemp("production")
    for name in ("ptycho", "ptycho_torch", "containers", "pyproject.toml", "requirements.lock", "README.md", "LICENSE"):
        (folder / name).symlink_to(ROOT / name)
    recipe = (ROOT / "Apptainer.def").read_text()
    assert recipe.count("Bootstrap: docker") == 1
    (folder / "recipe.def").write_text(recipe.replace("Bootstrap: docker", "Bootstrap: localimage"))
    arguments = {
        "BASE": base,
        "TORCH": "2.99.0",
        "FLAVOUR": "cu999",
        "INDEX": "https://example.invalid/whl",
        "COMMIT": "abc",
    }
    given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    environment = os.environ | {"APPTAINER_TMPDIR": str(folder), "APPTAINER_CACHEDIR": str(folder / "cache")}
    squash = ["--mksquashfs-args", "-comp lz4"]
    command = [WRAPPER, "build", "--notest", "--bind", f"{wheels}:/mnt", *squash, *given, "made.sif", "recipe.def"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    yield folder / "made.sif"
    shutil.rmtree(folder, ignore_errors=True)


def apptainer(*words):
    return subprocess.check_output([WRAPPER, *words], text=True, timeout=120)


def test_arguments_reach_labels_and_packages(built):
    labels = dict(line.split(": ", 1) for line in apptainer("inspect", built).splitlines())
    assert labels["ptycho.flavour"] == "cu999"
    assert labels["ptycho.torch"] == "2.99.0"
    assert labels["org.opencontainers.image.revision"] == "abc"
    assert labels["ptycho.lock.sha256"] == hashlib.sha256((ROOT / "requirements.lock").read_bytes()).hexdigest()
    assert "{{" not in apptainer("inspect", "--deffile", built).partition("%post")[2]


def test_the_image_holds_what_the_recipe_promises(built):
    code = "import ptycho, torch, pathlib as p; print(ptycho.__file__, *p.Path(torch.__file__).parent.glob('[a-z]*/*'))"
    package = "/opt/ptycho/lib/python3.11/site-packages"
    said = apptainer("exec", "--cleanenv", built, "python3", "-c", code).split()
    assert said == [f"{package}/ptycho/__init__.py", f"{package}/torch/bin/torch_shm_manager"]
    assert "ptycho: one job spec in" in apptainer("run-help", built)
    listing = apptainer("exec", built, "sh", "-c", "ls -d /opt/ptycho/selftest /opt/ptycho-source 2>/dev/null || true")
    assert listing.split() == ["/opt/ptycho/selftest"]
