"""The container of a job: its image is found, known and fit for this program before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ptycho.data.linked_files import linked_files
from ptycho.errors import RequestError, SpecError
from ptycho.jobs.container_image import ContainerImage, described, read_image, this_image
from ptycho.jobs.resolved_job import JobContainer, ResolvedJob
from ptycho.jobs.spec import JobSpec

_HARMFUL = {
    "--cleanenv": "takes the variables of Slurm, PMIx and submitit away, and each rank would believe to be alone",
    "--containall": "takes the variables of Slurm, PMIx and submitit away, and each rank would believe to be alone",
    "--pid": "gives the ranks other process numbers than those by which they are watched and stopped",
    "--writable": "changes the image while it runs",
}


def resolve_container(spec: JobSpec, scan: Path | None) -> JobContainer:
    """The job's container, with everything known about its image.

    Inside an image that image is the job's, whatever the spec names: containers are not nested.
    Raises SpecError when the image is not there, RequestError when it is none, or another version than this program.
    """
    around = this_image()
    if around is not None:
        return _with_image(JobContainer(), around)
    table = asdict(spec.container)
    if spec.container.image is None:
        return JobContainer(**table)
    _refuse_arguments(spec.container.arguments or ())
    path = Path(spec.container.image)
    if not path.exists():
        hint = " Fetch it first: apptainer pull" if ":/" in str(path) else " Build one with: make container"
        raise SpecError([f"container.image = {str(path)!r}: there is no such file.{hint}"])
    image = read_image(path.resolve())
    refuse_other_version(image)
    table |= {"binds": [_expanded(bind) for bind in table["binds"]] if table["binds"] else None}
    return _with_image(
        JobContainer(**{**table, "image": None}, linked=linked_files(scan) if scan else (), is_entered=True), image
    )


def _refuse_arguments(arguments: Sequence[str]) -> None:
    for argument in arguments:
        why = _HARMFUL.get(argument.partition("=")[0])
        if why:
            raise SpecError([f"container.arguments: {argument} {why}. Leave it out."])


def _with_image(container: JobContainer, image: ContainerImage) -> JobContainer:
    return replace(
        container,
        image=image.path,
        digest=image.digest,
        version=image.version,
        commit=image.commit,
        gpu_option=image.gpu_option,
    )


def _expanded(bind: str) -> str:
    """A bind whose first path may begin with ~, which Apptainer does not know."""
    source, colon, rest = bind.partition(":")
    return str(Path(source).expanduser()) + colon + rest


def refuse_other_version(image: ContainerImage) -> None:
    """Raise RequestError when the image holds another version of this program than runs here."""
    here = own_version()
    if here is not None and image.version != here:
        raise RequestError(
            f"{image.path} holds ptycho {image.version}, and this is ptycho {here}: they may read one another's files"
            f" wrongly. Build the image again (make container), or install the other one here:"
            f' pip install "ptychopinn=={image.version}"'
        )


def own_version() -> str | None:
    """The version of this program; None when it runs from a folder without being installed."""
    try:
        return version("ptychopinn")
    except PackageNotFoundError:
        return None


def refuse_other_image(job: ResolvedJob) -> None:
    """Raise RequestError when a run would go on in another image than it was made with, or without it."""
    container, around = job.container, this_image()
    was_inside = container.image is not None and not container.is_entered
    if was_inside != (around is not None):
        place = f"inside {container.image}" if was_inside else "outside any image"
        raise RequestError(f"This run was made {place}. Go on with it there, or start a new run.")
    if container.image is None:
        return
    image = around or read_image(container.image)
    # The digest of the file says it all; for a folder, and from inside, the commit of the sources is what can be known.
    what, then, now = "SHA-256", container.digest, image.digest
    if not then:
        what, then, now = "commit", container.commit, image.commit
    if then != now:
        raise RequestError(
            f"{container.image} is not the image that this run was made with ({what} {then[:12]}); it holds"
            f" {described(image)}. Put that one back, or start a new run."
        )
    refuse_other_version(image)
