"""A new series: every scan is opened, and the run of each that can be read is frozen in a folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ptycho.errors import DataError, ModelError, RequestError, SpecError
from ptycho.jobs.launcher import check_programs
from ptycho.jobs.new_run import spec_copy
from ptycho.jobs.resolve import BUNDLE_NAME
from ptycho.jobs.resolve_inside import resolve_anywhere
from ptycho.jobs.resolved_job import ResolvedJob
from ptycho.jobs.run_folder import RunFolder, now
from ptycho.jobs.scan_patterns import distinct_names, plain_name
from ptycho.jobs.series import Series, SeriesFolder, SeriesScan
from ptycho.jobs.spec import JobSpec


@dataclass(frozen=True, kw_only=True)
class ResolvedSeries:
    """A series with every value filled in, before anything is written.

    training: the job that trains the network for all scans, or None
    jobs:     name of the scan → its job, for every scan that can be read
    scans:    all scans, those that cannot be read with their error
    """

    name: str
    training: ResolvedJob | None
    jobs: dict[str, ResolvedJob]
    scans: tuple[SeriesScan, ...]

    @property
    def broken(self) -> list[SeriesScan]:
        """The scans that have no job, and why."""
        return [scan for scan in self.scans if scan.error]

    @property
    def first_job(self) -> ResolvedJob:
        """One of the jobs: they share their resources and all settings that do not come from the scan."""
        return next(iter(self.jobs.values()))


def resolve_series(spec: JobSpec) -> ResolvedSeries:
    """Resolve the job of every scan.

    A scan that cannot be read is noted and does not stop the others. Raises RequestError in its various kinds for what
    concerns all: a wrong spec, a scan to train on that cannot be read, not one scan that can.
    """
    title = spec.job.name or (plain_name(spec.path) if spec.path else "series")
    training = resolve_training(spec, f"{title}-train")
    names = distinct_names(spec.scans)
    jobs: dict[str, ResolvedJob] = {}
    scans = []
    for name, path in zip(names, spec.scans, strict=True):
        try:
            jobs[name] = replace(resolve_member(spec, path, training), name=name)
        except (DataError, ModelError, SpecError) as error:
            scans.append(SeriesScan(name=name, path=str(path), error=str(error)))
        else:
            scans.append(SeriesScan(name=name, path=str(path)))
    if not jobs:
        raise DataError(f"None of the {len(scans)} scans can be worked on. The first: {scans[0].error}")
    return ResolvedSeries(name=title, training=training, jobs=jobs, scans=tuple(scans))


def resolve_training(spec: JobSpec, name: str) -> ResolvedJob | None:
    """The job that trains the network which the runs of the scans then apply; None where none is trained."""
    if spec.data.train is None:
        return None
    job, _ = resolve_anywhere(spec.for_scan(Path(spec.data.train)))
    return replace(job, name=name, train_only=True)


def resolve_member(spec: JobSpec, path: Path, training: ResolvedJob | None) -> ResolvedJob:
    """The job of one scan. Where a network is to be trained, the caller adds the path of its archive."""
    job, scan = resolve_anywhere(spec.for_scan(path))
    if training is not None and job.training.model != training.training.model:
        raise ModelError(
            f"{path} has frames of {scan.patch_size} × {scan.patch_size}, the network is trained on frames of"
            f" {training.training.model.N} × {training.training.model.N} ({training.data.scan})."
            " Set data.crop_px to a size that all have."
        )
    return job


def new_series(spec: JobSpec, overrides: Sequence[str] = ()) -> tuple[SeriesFolder, ResolvedSeries]:
    """Freeze the series in a new folder. Raises what `resolve_series` raises; then nothing is left behind."""
    resolved = resolve_series(spec)
    check_programs(resolved.first_job)
    resources = resolved.first_job.resources
    folder = SeriesFolder.create(resolved.first_job.output_dir, resolved.name)
    try:
        text = spec_copy(spec, overrides)
        if resolved.training is not None:
            create_run(folder.training, resolved.training, text)
        for name, job in resolved.jobs.items():
            create_member(folder, name, job, text, trains=resolved.training is not None)
        folder.write_spec(spec.text)
        folder.write(
            Series(
                name=resolved.name,
                executor=resources.executor,
                trains=resolved.training is not None,
                at_once=resources.max_parallel_scans,
                scans=resolved.scans,
                spec_path=str(spec.path) if spec.path else None,
                overrides=tuple(overrides),
                where=str(Path.cwd()),
                created=now(),
            )
        )
    except BaseException:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    return folder, resolved


def create_member(folder: SeriesFolder, name: str, job: ResolvedJob, text: str, *, trains: bool) -> None:
    """Freeze the run of one scan; where the series trains its network, with the archive that will be there."""
    if trains:
        sources = {path: "bundle" if path.startswith("model.") else source for path, source in job.sources.items()}
        job = replace(job, bundle=folder.training.model / BUNDLE_NAME, sources=sources)
    create_run(folder.run(name), replace(job, name=name), text)


def create_run(folder: RunFolder, job: ResolvedJob, text: str) -> None:
    """A run folder with this exact path."""
    RunFolder.create_at(folder.path, {"spec.toml": text, "resolved.json": job.to_json()})


def repair(folder: SeriesFolder) -> list[SeriesScan]:
    """Look again at the scans that could not be read; those that now can get their run. Returns those that cannot."""
    series = folder.read()
    if not any(scan.error for scan in series.scans):
        return []
    spec = folder.read_spec()
    training = ResolvedJob.read(folder.training.resolved_path) if series.trains else None
    scans = []
    for scan in series.scans:
        if scan.error:
            try:
                job = resolve_member(spec, Path(scan.path), training)
                create_member(folder, scan.name, job, spec_copy(spec, series.overrides), trains=series.trains)
            except (DataError, ModelError, SpecError) as error:
                scans.append(replace(scan, error=str(error)))
                continue
        scans.append(replace(scan, error=""))
    folder.write(replace(series, scans=tuple(scans)))
    return [scan for scan in scans if scan.error]


def refuse_under_mpi(n_ranks: int) -> None:
    """Raise RequestError: a series starts its runs itself."""
    if n_ranks > 1:
        raise RequestError(
            "data.scans: a series starts the ranks of each run itself. Use ptycho submit without mpirun or srun, or one"
            " scan: --set data.scan=FILE"
        )
