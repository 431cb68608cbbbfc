"""Commands inside a job's image: what is shown there, which variables go in, and the script that runs them."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ptycho.errors import RequestError
from ptycho.jobs.json_file import write_text
from ptycho.jobs.resolved_job import JobContainer, ResolvedJob

READ, WRITE = "ro", "rw"

# The variables of the machine that go in, as shell patterns. Not --cleanenv, which takes those of Slurm, PMIx and
# submitit away; and not all, because a PYTHONPATH, a virtual environment or a conda of the machine misleads the image's
# Python.
ALLOWED_VARIABLES = (
    # What finds and starts the container program; Apptainer itself keeps PATH and LD_LIBRARY_PATH outside.
    "PATH", "LD_LIBRARY_PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "XDG_RUNTIME_DIR",
    "APPTAINER*", "SINGULARITY*",
    # How output looks.
    "LANG", "LC_*", "TZ", "TERM", "NO_COLOR", "COLUMNS",
    # Who started the ranks, and where they meet.
    "SLURM_*", "SUBMITIT_*", "PMI_*", "PMI2_*", "PMIX_*", "PALS_*", "PRTE_*", "OMPI_*", "MPI_LOCAL*", "MPICH_*",
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
    # GPUs and the ways between them.
    "CUDA_*", "NVIDIA_*", "ROCR_*", "HIP_*", "HSA_*", "MIOPEN_*", "GPU_DEVICE_ORDINAL",
    "NCCL_*", "RCCL_*", "GLOO_*", "UCX_*", "FI_*", "CXI_*",
    # What numerical libraries read.
    "OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*", "TORCH_*", "PYTORCH_*", "HDF5_*", "PTYCHO_*",
)  # fmt: skip

_SCRIPT = """\
#!/bin/bash
# Runs a command inside the image of this run, as its ranks do:  {name} ptycho doctor
# Written by ptycho at each start, from the table "container" of resolved.json.
image={image}
for program in apptainer singularity ""; do
    if [ -n "$program" ] && command -v "$program" >/dev/null; then break; fi
done
if [ -z "$program" ]; then
    echo "ptycho: $(hostname) has neither apptainer nor singularity on PATH." \\
        'Where a module brings it: resources.setup = ["module load apptainer"]' >&2
    exit 2
fi
{unchanged}\
# Only what a job needs goes in.
for name in $(compgen -e); do
    case $name in
    {allowed}) ;;
    *) unset "$name" 2>/dev/null ;;
    esac
done
for name in $(compgen -A function); do unset -f "$name"; done
shown=({binds})
# Where the scheduler keeps this job's own files, and where PMIx meets its launcher.
for folder in "$TMPDIR" "$PMIX_SERVER_TMPDIR"; do
    if [ -d "$folder" ]; then shown+=(--bind "$folder"); fi
done
# Else Python would prefer a folder "ptycho" where the job was submitted to the one in the image.
exec "$program" exec --env PYTHONSAFEPATH=1{options} "${{shown[@]}}" "$image" "$@"
"""

# A job may wait for days, and the file may be another one by then. The digest would take every rank half a minute.
_UNCHANGED = """\
if [ "$(stat --dereference --format='%s %Y' -- "$image" 2>&1)" != {stamp} ]; then
    echo "ptycho: $image is no longer the image that this run was started with" \\
        "(SHA-256 {digest}). Put it back, then: ptycho resume" >&2
    exit 2
fi
"""


def container_program() -> str | None:
    """Path of Apptainer, or of Singularity, on this machine."""
    return shutil.which("apptainer") or shutil.which("singularity")


def inside_path(place: Path) -> Path:
    """The script of a run, or of a series, in whose folder it lies."""
    return place / "inside"


def ranks_python(place: Path, job: ResolvedJob) -> str | None:
    """The command that stands for Python inside the job's image; None where the ranks use this environment's Python."""
    return shlex.join([str(inside_path(place)), "python3"]) if job.container.is_entered else None


def write_inside(place: Path, jobs: Sequence[ResolvedJob]) -> None:
    """Write the script of a run, or of the runs of a series, where they have an image.

    Raises RequestError when a path cannot be shown inside.
    """
    if jobs[0].container.is_entered:
        write_text(inside_path(place), inside_text(place, jobs))
        inside_path(place).chmod(0o755)


def inside_text(place: Path, jobs: Sequence[ResolvedJob]) -> str:
    """The script that runs its arguments inside the image that the jobs have in common.

    place: the folder that they may write
    """
    inputs = [path for job in jobs for path in (*job.data.files, *_drawn_on(job))]
    return script_text(jobs[0].container, shown_folders(inputs, [place]), with_gpus=uses_gpus(jobs[0]))


def _drawn_on(job: ResolvedJob) -> tuple[Path | None, ...]:
    probes = job.synthetic.probe_file if job.synthetic else None
    return (*job.container.linked, job.bundle, probes)


def uses_gpus(job: ResolvedJob) -> bool:
    """Whether the ranks compute on GPUs."""
    return job.execution.accelerator in ("gpu", "cuda")


def script_text(container: JobContainer, folders: Mapping[Path, str], *, with_gpus: bool, name: str = "inside") -> str:
    """A script that runs its arguments inside the image.

    folders: folder of the machine → READ or WRITE; they keep their paths inside
    """
    assert container.image is not None
    options = [*([container.gpu_option] if with_gpus and container.gpu_option else ()), *(container.arguments or ())]
    binds = [*(_bind(folder, mode) for folder, mode in folders.items()), *(container.binds or ())]
    unchanged = ""
    if container.digest:
        status = container.image.stat()
        stamp = shlex.quote(f"{status.st_size} {int(status.st_mtime)}")
        unchanged = _UNCHANGED.format(stamp=stamp, digest=container.digest)
    return _SCRIPT.format(
        name=name,
        image=shlex.quote(str(container.image)),
        unchanged=unchanged,
        allowed=" | ".join((*ALLOWED_VARIABLES, *(container.environment or ()))),
        binds=shlex.join(part for bind in binds for part in ("--bind", bind)),
        options="".join(f" {shlex.quote(option)}" for option in options),
    )


def shown_folders(inputs: Iterable[Path | None], outputs: Iterable[Path]) -> dict[Path, str]:
    """The folders to show inside, outer ones first, and whether they may be written there.

    inputs:  files, of which the folders are shown, because a scan may have parts beside it
    outputs: folders
    """
    wanted = {_folder_of(path): READ for path in inputs if path is not None} | dict.fromkeys(outputs, WRITE)
    return {
        path: mode
        for path, mode in sorted(wanted.items())
        if not any(wanted.get(outer) == mode for outer in path.parents)
    }


def _folder_of(file: Path) -> Path:
    # The whole machine is not shown for the sake of one file.
    return file if file.parent == Path(file.anchor) else file.parent


def _bind(path: Path, mode: str) -> str:
    if any(letter in str(path) for letter in ',:"'):
        raise RequestError(f"{path}: Apptainer cannot show a path with a comma, colon or quote. Rename it.")
    return f"{path}:{path}:{mode}"
