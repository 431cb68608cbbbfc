"""Verbs about job specs: init, check."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptycho.cli.arguments import AsJson, DataKeysSet, Overrides, SpecPath
from ptycho.cli.axes import axes_facts, compare_axes, say_axes
from ptycho.cli.console import next_step, say, show_json, show_table
from ptycho.errors import DataError, RequestError

if TYPE_CHECKING:
    from ptycho.data.scan import Scan
    from ptycho.jobs.resolved_job import ResolvedJob
    from ptycho.jobs.spec import JobSpec

_STARTER = """\
# A job for `ptycho run`. Every key that is left out has a sensible default: see docs/job-spec.md.

[job]
engine = "{engine}"{engine_note}
# name = "{name}"
# seed = 0

[data]
scan = "{scan}"{facts}{said}
# crop_px = {crop}          # keep the central detector pixels only: faster, coarser
{network}
[refine]
# engine = "none"      # keep the network's image as it is
# epochs = {defaults[refine][epochs]}

[resources]
# site = "NAME"          # a site profile: docs/running-on-a-cluster.md
# executor = "local"     # here | local | slurm
# ranks_per_node = 2   # processes; one for each GPU is the default
"""

_NETWORK = """
[model]
# gridsize = 2           # network sees groups of 2 x 2 neighbouring frames
# bundle = "runs/NAME/model/wts.h5.zip"   # apply a trained model instead of training one

[training]
# nepochs = {defaults[training][nepochs]}
# batch_size = {defaults[training][batch_size]}

[execution]
# accelerator = "auto"   # cpu | cuda
# learning_rate = {defaults[execution][learning_rate]}
"""


def add_to(app: typer.Typer) -> None:
    """Add these verbs to the command."""
    app.command()(init)
    app.command()(check)


def init(
    scan: Annotated[
        Path | None, typer.Argument(metavar="SCAN", help="The scan file the job is for.", show_default=False)
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write the spec; beside you, named like the scan, when left out."),
    ] = None,
    engine: Annotated[str, typer.Option(help="The engine to start with.")] = "pinn",
    said: DataKeysSet = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of job specs, for editors.")] = False,
) -> None:
    """Write a commented job spec for a scan.

    What its file leaves open is said by --set, as a key of [data], and written into the spec.
    """
    if schema:
        from ptycho.jobs.schema import schema_text

        say(schema_text().rstrip())
        return
    if scan is None:
        raise RequestError("Name the scan file: ptycho init SCAN. No scan yet? Make one: ptycho simulate scan.h5")
    from ptycho.jobs.resolve import job_data, open_job_scan, stated_spec
    from ptycho.jobs.spec import KEYS, parse_spec

    stated = stated_spec(scan, said or ())
    try:
        opened = open_job_scan(job_data(stated))
    except DataError as error:
        if not any(f"{key} = " in str(error) for key in KEYS["data"]):
            raise
        raise DataError(f"{error} Say it so: ptycho init {scan} --set KEY=VALUE") from error
    target = spec or Path(f"{scan.stem}.toml")
    if target.exists():
        raise RequestError(f"{target} exists already. Choose another name: ptycho init {scan} --output OTHER.toml")
    text = _starter(opened, scan, target, engine, _said_lines(stated, target))
    parse_spec(text, path=target.resolve())
    from ptycho.jobs.json_file import write_text

    write_text(target, text)
    say(f"Wrote {target} for {opened.n_positions} frames of {opened.patch_size} × {opened.patch_size}.")
    next_step(f"ptycho check {target}, then ptycho run {target}")


def _said_lines(stated: JobSpec, target: Path) -> list[str]:
    """What was said about the scan's file, as lines of [data]; paths are relative to the new spec."""
    from ptycho.jobs.spec import DATA_FILES

    keys = [path.partition(".")[2] for path in sorted(stated.sources) if path not in ("data.scan", "data.scans")]
    values = {key: getattr(stated.data, key) for key in keys}
    return [
        f"{key} = {toml_text(_beside(Path(value), target) if key in DATA_FILES else value)}"
        for key, value in values.items()
    ]


def _beside(path: Path, target: Path) -> str:
    """The path as the spec at `target` names it."""
    return Path(relpath(path.resolve(), target.resolve().parent)).as_posix()


def toml_text(value: Any) -> str:
    """A key's value as TOML, on one line."""
    if is_dataclass(value) and not isinstance(value, type):
        given = {field.name: getattr(value, field.name) for field in fields(value)}
        parts = (f"{key} = {toml_text(part)}" for key, part in given.items() if part is not None)
        return "{ " + ", ".join(parts) + " }"
    return json.dumps(value, ensure_ascii=False)


def _starter(scan: Scan, path: Path, target: Path, engine: str, said: Sequence[str]) -> str:
    from ptycho.jobs.spec import KEYS

    is_network = engine == "pinn"
    return _STARTER.format(
        engine=engine,
        engine_note="        # train a network, then refine its image" if is_network else "",
        name=path.stem,
        scan=_beside(path, target),
        said="".join(f"\n{line}" for line in said),
        facts=f"   # {scan.n_positions} frames, {scan.patch_size} × {scan.patch_size}",
        crop=scan.patch_size // 2,
        network=_NETWORK.format(defaults=KEYS) if is_network else "",
        defaults=KEYS,
    )


def check(
    spec: SpecPath,
    overrides: Overrides = None,
    everything: Annotated[bool, typer.Option("--all", help="Show the values that are defaults too.")] = False,
    axes: Annotated[
        bool,
        typer.Option(
            "--axes/--no-axes",
            help="Whether to compare all eight axes of the positions on a few frames, a matter of seconds.",
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Check a job spec and its scan.

    Shows every value with its source, compares the scan's axes, and starts nothing.
    """
    from ptycho.jobs.resolve_inside import resolve_anywhere
    from ptycho.jobs.spec import load_spec

    loaded = load_spec(spec, overrides or ())
    if loaded.is_series:
        from ptycho.cli.series import check_series

        check_series(loaded, spec, overrides or (), everything=everything, axes=axes, as_json=as_json)
        return
    job, scan = resolve_anywhere(loaded)
    shown = values_of(job)
    verdict = compare_axes(scan) if axes and job.data.scan is not None else None
    if as_json:
        show_json(
            {
                "name": job.name,
                "engine": job.engine,
                "stages": list(job.stages),
                "n_ranks": job.resources.n_ranks,
                "scan": {"path": str(scan.path), "n_positions": scan.n_positions, "patch_size": scan.patch_size},
                "assumptions": list(scan.assumptions),
                "axes": axes_facts(verdict, job.data),
                "values": {path: {"value": value, "source": job.sources[path]} for path, value in shown.items()},
            }
        )
        return
    show_values(job, everything=everything)
    _describe(job, scan)
    if verdict is not None:
        say_axes(verdict, job.data)
    next_step(f"ptycho run {spec}" + "".join(f" --set {override}" for override in overrides or ()))


def values_of(job: ResolvedJob) -> dict[str, object]:
    """Dotted path → value, of everything that a user can set."""
    values = {f"{table}.{key}": value for table, keys in job.values().items() for key, value in keys.items()}
    return {path: value for path, value in values.items() if path in job.sources}


def show_values(job: ResolvedJob, *, everything: bool) -> None:
    """The values with their sources, without those that are defaults unless everything is wanted."""
    rows = [(path, value, job.sources[path]) for path, value in values_of(job).items()]
    show_table(("key", "value", "from"), [row for row in rows if everything or row[2] != "default"])


def _describe(job: ResolvedJob, scan: Scan) -> None:
    say()
    say(f"{scan.n_positions} frames of {scan.patch_size} × {scan.patch_size} from {scan.path or 'a simulated scan'}")
    for assumption in scan.assumptions:
        say(f"Assumed: {assumption}")
    ranks = job.resources.n_ranks
    say(f"Stages: {', '.join(job.stages)}; {ranks} rank{'s' if ranks > 1 else ''}, {job.execution.accelerator}.")
    say("The spec is valid.")
