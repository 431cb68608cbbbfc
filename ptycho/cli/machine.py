"""What this machine has: each finding with what it means for a job."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ptycho.errors import RequestError
from ptycho.jobs.container import container_program
from ptycho.jobs.container_image import described, read_image, this_image
from ptycho.jobs.job_container import refuse_other_version

GOOD, MISSING, WRONG = "good", "missing", "wrong"
INSTALLATION, MACHINE = "installation", "machine"

_NEEDED_PACKAGES = (
    "h5py", "hdf5plugin", "jinja2", "matplotlib", "numpy", "pydantic", "rich", "safetensors", "scipy", "submitit",
    "typer",
)  # fmt: skip
# Numbers in the HDF Group's register of filters.
_FILTERS = {"bitshuffle": 32008, "LZ4": 32004, "Blosc": 32001}
_LOW_DISK_GB = 5.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing examined.

    state: good; missing (some jobs need it); wrong (no job will work)
    about: "installation" (this environment, or the image that this runs in) or "machine"
    """

    name: str
    state: str
    detail: str
    advice: str = ""
    about: str = INSTALLATION

    def counts(self, *, strict: bool, inside_image: bool) -> bool:
        """Whether it is reason enough to say no. An image is not to blame for what its machine lacks."""
        lacks = strict and self.state == MISSING and not (inside_image and self.about == MACHINE)
        return self.state == WRONG or lacks


def examine(folder: Path, image: Path | None = None) -> list[Finding]:
    """Everything a job may need, the indispensable first.

    folder: where run folders will be made
    image:  an image to compare this environment with
    """
    return [
        _python(), *_around(), _packages(), _hdf5_filters(), *_torch(), _cores(), _mpi_launcher(), _mpi_library(),
        _slurm(), _apptainer(), *([_image(image)] if image else []), _disk(folder), _writable(folder),
    ]  # fmt: skip


def _python() -> Finding:
    text = ".".join(str(part) for part in sys.version_info[:3])
    return Finding(name="Python", state=GOOD, detail=f"{text}, {sys.executable}")


def _around() -> list[Finding]:
    """The image inside which this runs."""
    image = this_image()
    return [Finding(name="image", state=GOOD, detail=f"inside {image.path}: {described(image)}")] if image else []


def _packages() -> Finding:
    found, lacking = [], []
    for name in _NEEDED_PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lacking.append(name)
    if lacking:
        advice = f"Install {', '.join(lacking)}: pip install ptychopinn"
        return Finding(name="packages", state=WRONG, detail=f"without {', '.join(lacking)}", advice=advice)
    return Finding(name="packages", state=GOOD, detail=", ".join(found))


def _hdf5_filters() -> Finding:
    try:
        import h5py
        import hdf5plugin
    except ImportError as error:
        return Finding(name="HDF5 filters", state=WRONG, detail=str(error), advice="Install h5py and hdf5plugin.")
    lacking = [name for name, number in _FILTERS.items() if not h5py.h5z.filter_avail(number)]
    plugins = f"hdf5plugin {hdf5plugin.version}: " + ", ".join(name for name in _FILTERS if name not in lacking)
    detail = f"HDF5 {h5py.version.hdf5_version}, {plugins}"
    advice = f"Files compressed with {', '.join(lacking)} cannot be read." if lacking else ""
    return Finding(name="HDF5 filters", state=MISSING if lacking else GOOD, detail=detail, advice=advice)


def _torch() -> list[Finding]:
    advice = 'Networks and engines need it: pip install "ptychopinn[torch]"'
    if importlib.util.find_spec("torch") is None:
        return [Finding(name="torch", state=MISSING, detail="not installed", advice=advice)]
    # In a process of its own: a torch that does not fit its driver may abort instead of raising.
    code = (
        "import torch, torch.distributed as d; c = torch.cuda.is_available();"
        "b = [n for n, ok in (('gloo', d.is_gloo_available()), ('nccl', d.is_nccl_available())) if ok];"
        "g = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if c else [];"
        "v = torch.version; built = v.cuda and 'CUDA ' + v.cuda or v.hip and 'ROCm ' + v.hip or 'CPU only';"
        "print(torch.__version__, built, ','.join(b) or 'none', '; '.join(g), sep='|')"
    )
    done = _output([sys.executable, "-W", "ignore", "-c", code], timeout_s=120)
    parts = done.split("|") if done else []
    if len(parts) != 4:
        return [Finding(name="torch", state=WRONG, detail="cannot be imported", advice=advice)]
    found = [Finding(name="torch", state=GOOD, detail=f"{parts[0]}, {parts[1]}; ranks through {parts[2]}")]
    lightning = importlib.util.find_spec("lightning") is not None
    found.append(
        Finding(name="Lightning", state=GOOD, detail=version("lightning"))
        if lightning
        else Finding(name="Lightning", state=MISSING, detail="not installed", advice=advice)
    )
    return [*found, _gpus(parts[3])]


def _gpus(named: str) -> Finding:
    if named:
        return Finding(name="GPUs", state=GOOD, detail=named, about=MACHINE)
    if any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists():
        advice = "There is a GPU that torch cannot use: install a torch build for its driver"
        advice += "; in an image, start it with --nv (NVIDIA) or --rocm (AMD)." if this_image() else "."
        return Finding(name="GPUs", state=MISSING, detail="not usable by torch", advice=advice, about=MACHINE)
    return Finding(name="GPUs", state=MISSING, detail="none; jobs run on the CPU", about=MACHINE)


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding(name="cores", state=GOOD, detail=f"{usable} of {os.cpu_count()} usable")


def _mpi_launcher() -> Finding:
    for name in ("mpirun", "mpiexec", "srun"):
        path = shutil.which(name)
        if path:
            said = (_output([path, "--version"]) or "").partition("\n")[0]
            return Finding(name="MPI launcher", state=GOOD, detail=f"{path} {said}".strip())
    return Finding(name="MPI launcher", state=MISSING, detail="no mpirun; local and Slurm ranks work without")


def _mpi_library() -> Finding:
    advice = 'Ranks under mpirun need it: pip install "ptychopinn[mpi]"'
    if importlib.util.find_spec("mpi4py") is None:
        return Finding(name="MPI library", state=MISSING, detail="mpi4py is not installed", advice=advice)
    # In a process of its own: loading MPI outside its launcher may abort the process.
    said = _output([sys.executable, "-c", "from mpi4py import MPI; print(MPI.Get_library_version())"], timeout_s=60)
    if not said:
        return Finding(name="MPI library", state=MISSING, detail="mpi4py finds no MPI library", advice=advice)
    return Finding(name="MPI library", state=GOOD, detail=said.strip("\0 \n").partition("\n")[0].partition(",")[0])


def _slurm() -> Finding:
    path = shutil.which("sbatch")
    if path is None:
        detail = 'no sbatch; executor = "slurm" works on a login node only.'
        return Finding(name="Slurm", state=MISSING, detail=detail, about=MACHINE)
    # Says "MPI plugin types are... pmix_v4 pmi2 none", on standard error: what srun --mpi= takes.
    said = _output(["sh", "-c", "srun --mpi=list 2>&1"]) or ""
    kinds = [word for word in said.split() if word.startswith(("pmi", "cray", "none"))]
    detail = f"{path} {_output([path, '--version']) or ''}".strip()
    detail += f"; srun --mpi= takes {', '.join(kinds)}" if kinds else ""
    return Finding(name="Slurm", state=GOOD, detail=detail, about=MACHINE)


def _apptainer() -> Finding:
    path = container_program()
    if path is None:
        detail = "neither apptainer nor singularity; container.image needs one"
        return Finding(name="Apptainer", state=MISSING, detail=detail, about=MACHINE)
    detail = f"{path} {_output([path, '--version'], timeout_s=60) or ''}".strip()
    return Finding(name="Apptainer", state=GOOD, detail=detail, about=MACHINE)


def _image(path: Path) -> Finding:
    """An image, and whether it is of the same making as this environment."""
    try:
        image = read_image(path)
        refuse_other_version(image)
    except RequestError as error:
        return Finding(name="image", state=WRONG, detail=str(path), advice=str(error))
    torch = _version_of("torch")
    differs = torch is not None and image.torch not in ("", torch)
    advice = f"torch here is {torch}: results inside and here may differ in their last digits." if differs else ""
    return Finding(name="image", state=GOOD, detail=f"{path}: {described(image)}", advice=advice)


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _disk(folder: Path) -> Finding:
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    state, advice = GOOD, ""
    if free_gb < _LOW_DISK_GB:
        state, advice = MISSING, f"Less than {_LOW_DISK_GB:g} GB are free; free some space or set output.dir."
    detail = f"{free_gb:.1f} GB at {existing}"
    return Finding(name="free disk", state=state, detail=detail, advice=advice, about=MACHINE)


def _writable(folder: Path) -> Finding:
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return Finding(name="run folders", state=GOOD, detail=f"{existing} can be written")
    except OSError as error:
        advice = "Set output.dir to a folder where you may write."
        return Finding(name="run folders", state=WRONG, detail=f"{existing}: {error.strerror}", advice=advice)


def _output(command: list[str], timeout_s: float = 20) -> str | None:
    """What a program prints, or None when it fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
