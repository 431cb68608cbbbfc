"""The image under test, and Apptainer to run it with."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import pytest

from tests.cluster.conftest import cluster
from tests.requirements import cannot_run

__all__ = ["cluster"]

ROOT = Path(__file__).parents[2]
WRAPPER = ROOT / "containers" / "apptainer.sh"
TORCH_PACKAGES = ("torch", "lightning", "pytorch_lightning", "functorch", "mpi4py")
STATE = Path(os.environ.get("PTYCHO_CONTAINER_DIR", "/tmp/ptycho-containers"))


@dataclass(frozen=True)
class Image:
    """An image file; `apptainer` runs the wrapper, `run` a command inside the image."""

    path: Path

    def apptainer(self, *words: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Result of `apptainer WORDS`, whatever its exit code."""
        return subprocess.run([WRAPPER, *words], capture_output=True, text=True, timeout=timeout_s)

    def run(self, *words: str, folder: Path | None = None, timeout_s: float = 300) -> str:
        """Standard output of a command inside, in a folder of the machine; fails when the command does."""
        where = [f"--bind={folder}", f"--pwd={folder}"] if folder else []
        done = self.apptainer("exec", "--cleanenv", *where, str(self.path), *words, timeout_s=timeout_s)
        assert done.returncode == 0, f"{words}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def image() -> Image:
    """ptycho.sif as `make container` built it."""
    if not (shutil.which("apptainer") or shutil.which("singularity") or (STATE / "apptainer").is_dir()):
        cannot_run("apptainer", "there is no Apptainer (see containers/README.md)")
    path = Path(os.environ.get("PTYCHO_TEST_IMAGE", ROOT / "ptycho.sif"))
    if not path.exists():
        cannot_run("image", f"there is no {path}; build it with: make container")
    return Image(path)


@pytest.fixture(scope="session")
def with_apptainer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment with `apptainer` on PATH: the machine's own, or the wrapper by that name."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "apptainer").symlink_to(WRAPPER)
    return {**os.environ, "PATH": f"{os.environ['PATH']}{os.pathsep}{folder}", "NO_COLOR": "1"}


@pytest.fixture(scope="session")
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `python` of a login node: this environment without torch and all that comes with it."""
    folder = tmp_path_factory.mktemp("login-node") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for path in Path(h5py.__file__).parents[1].iterdir():
        if not path.name.lower().startswith(TORCH_PACKAGES) and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    (packages / "ptycho.pth").write_text(f"{ROOT}\n")
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def unpacked(image: Image) -> Iterator[Path]:
    """The image as a folder, where every user can reach it."""
    # Not "build --sandbox", which leaves nothing of the image's own mount points. Without the mounts they are seen.
    without = ["--no-mount", "home,tmp,cwd,hostfs,bind-paths", "--pwd=/"]
    # What Apptainer puts there, and two empty folders that are apt's own.
    mounted = ["proc", "sys", "dev", "etc/resolv.conf", "etc/passwd", "etc/group", "var/*/apt/*/partial"]
    left_out = [f"--exclude=./{name}" for name in mounted]
    pack = [WRAPPER, "exec", *without, image.path, "tar", "--create", "--directory=/", *left_out, "."]
    with tempfile.TemporaryDirectory(prefix="ptycho-unpacked-") as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent) / "image"
        folder.mkdir()
        with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
            subprocess.run(["tar", "--extract"], cwd=folder, stdin=packing.stdout, check=True, timeout=600)
        assert packing.returncode == 0
        for name in ("proc", "sys", "dev"):
            (folder / name).mkdir()
        for name in ("resolv.conf", "passwd", "group"):
            (folder / "etc" / name).touch()
        yield folder
