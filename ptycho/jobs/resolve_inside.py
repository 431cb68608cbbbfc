"""Resolving a job inside its image, for a machine without torch: the spec goes in, the resolved job comes out, as JSON.

`python3 -m ptycho.jobs.resolve_inside` is the side that runs inside.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

import ptycho.errors
from ptycho.data.scan import Scan
from ptycho.errors import PackageError, PtychoError, SpecError
from ptycho.jobs.container import script_text, shown_folders
from ptycho.jobs.engines import NETWORK
from ptycho.jobs.job_container import resolve_container
from ptycho.jobs.resolve import bundle_archive, job_data, open_job_scan, resolve
from ptycho.jobs.resolved_job import ResolvedJob
from ptycho.jobs.spec import JobSpec
from ptycho.jobs.tables import ContainerTable, OutputTable

TIMEOUT_S = 300.0


def resolve_anywhere(spec: JobSpec, *, launched_ranks: int | None = None) -> tuple[ResolvedJob, Scan]:
    """The resolved job and its scan, as `resolve` makes them; inside the job's image where that is needed.

    It is where torch is missing here and would be asked: about a network, or about the GPUs of this machine.
    """
    asks_torch = spec.job.engine == NETWORK or (spec.resources.executor, _accelerator(spec)) == ("local", "auto")
    if spec.container.image is None or not asks_torch or find_spec("torch") is not None or launched_ranks is not None:
        return resolve(spec, launched_ranks=launched_ranks)
    job = _resolve_inside(spec)
    return job, open_job_scan(job.data)


def _accelerator(spec: JobSpec) -> str:
    return str(spec.execution.get("accelerator", "auto"))


def _resolve_inside(spec: JobSpec) -> ResolvedJob:
    data = job_data(spec)
    container = resolve_container(spec, data.scan)
    folders = shown_folders((*data.files, *container.linked, bundle_archive(spec.bundle)), [])
    script = script_text(container, folders, with_gpus=_accelerator(spec) != "cpu")
    command = ["bash", "-c", script, "inside", "python3", "-W", "ignore", "-m", "ptycho.jobs.resolve_inside"]
    # The current folder may be another one inside.
    output = OutputTable(dir=str(Path(spec.output.dir).expanduser().absolute()))
    request = _spec_adapter().dump_json(replace(spec, container=ContainerTable(), output=output))
    try:
        done = subprocess.run(command, input=request, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise PackageError(
            f"{container.image} has not answered within {TIMEOUT_S:.0f} s. Try: ptycho doctor"
        ) from error
    answer = _answer(done, container.image)
    if "error" in answer:
        raise _error_of(answer)
    job = ResolvedJob.from_json(json.dumps(answer["job"]))
    known = {f"container.{key}": "image" for key in ("digest", "version", "commit", "gpu_option")}
    return replace(job, container=container, sources=job.sources | known)


def _answer(done: subprocess.CompletedProcess[bytes], image: Path | None) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(done.stdout.decode().rstrip().rpartition("\n")[2])
    except ValueError as error:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
        raise PackageError(
            f"Torch is not installed here, and {image} could not be asked instead: "
            + (" ".join(said) or f"exit code {done.returncode}")
        ) from error
    return answer


def _error_of(answer: Mapping[str, Any]) -> PtychoError:
    """The error that was raised inside, as if it had been raised here."""
    kind = getattr(ptycho.errors, answer["error"], ptycho.errors.RequestError)
    return SpecError(answer["problems"]) if kind is SpecError else kind(answer["sentence"])


def main() -> None:
    """Resolve the spec on standard input, and print the job or the error on the last line of standard output."""
    spec: JobSpec = _spec_adapter().validate_json(sys.stdin.buffer.read())
    try:
        job, _ = resolve(spec)
    except PtychoError as error:
        problems = error.problems if isinstance(error, SpecError) else []
        _print({"error": type(error).__name__, "sentence": str(error), "problems": problems})
        return
    _print({"job": json.loads(job.to_json())})


def _print(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")


def _spec_adapter() -> TypeAdapter[JobSpec]:
    return TypeAdapter(JobSpec)


if __name__ == "__main__":
    main()
