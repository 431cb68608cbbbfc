"""Verbs about job specs: init, check."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptycho.cli.arguments import AsJson, Overrides, SpecPath
from ptycho.cli.console import next_step, say, show_json, show_table
from ptycho.errors import PackageError, RequestError

if TYPE_CHECKING:
    from ptycho.data.orientation import AxesVerdict
    from ptycho.data.scan import Scan
    from ptycho.jobs.resolved_job import ResolvedJob

# Named by a string, because it needs torch and checking a spec does not.
AXES_MODULE = "ptycho_torch.axes_check"

_STARTER = """\
# A job for `ptycho run`. Every key that is left out has a sensible default: see docs/job-spec.md.

[job]
engine = "{engine}"{engine_note}
# name = "{name}"
# seed = 0

[data]
scan = "{scan}"{facts}
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
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of job specs, for editors.")] = False,
) -> None:
    """Write a commented job spec for a scan."""
    if schema:
        from ptycho.jobs.schema import schema_text

        say(schema_text().rstrip())
        return
    if scan is None:
        raise RequestError("Name the scan file: ptycho init SCAN. No scan yet? Make one: ptycho simulate scan.h5")
    from ptycho.data.formats import open_scan
    from ptycho.jobs.spec import parse_spec

    opened = open_scan(scan)
    target = spec or Path(f"{scan.stem}.toml")
    if target.exists():
        raise RequestError(f"{target} exists already. Choose another name: ptycho init {scan} --output OTHER.toml")
    text = _starter(opened, scan, target, engine)
    parse_spec(text, path=target.resolve())
    from ptycho.jobs.json_file import write_text

    write_text(target, text)
    say(f"Wrote {target} for {opened.n_positions} frames of {opened.patch_size} × {opened.patch_size}.")
    next_step(f"ptycho check {target}, then ptycho run {target}")


def _starter(scan: Scan, path: Path, target: Path, engine: str) -> str:
    from os.path import relpath

    from ptycho.jobs.spec import KEYS

    is_network = engine == "pinn"
    return _STARTER.format(
        engine=engine,
        engine_note="        # train a network, then refine its image" if is_network else "",
        name=path.stem,
        scan=Path(relpath(path.resolve(), target.resolve().parent)).as_posix(),
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
        typer.Option("--axes", help="Reconstruct a few frames with all eight axes of the positions, and compare."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a job spec and its scan.

    Shows every value with its source, and starts nothing.
    """
    from ptycho.jobs.resolve import resolve
    from ptycho.jobs.spec import load_spec

    job, scan = resolve(load_spec(spec, overrides or ()))
    values = {f"{table}.{key}": value for table, keys in job.values().items() for key, value in keys.items()}
    shown = {path: value for path, value in values.items() if path in job.sources}
    verdict = _axes_verdict(scan) if axes else None
    if as_json:
        show_json(
            {
                "name": job.name,
                "engine": job.engine,
                "stages": list(job.stages),
                "n_ranks": job.resources.n_ranks,
                "scan": {"path": str(scan.path), "n_positions": scan.n_positions, "patch_size": scan.patch_size},
                "assumptions": list(scan.assumptions),
                "axes": None if verdict is None else _axes_facts(verdict, job),
                "values": {path: {"value": value, "source": job.sources[path]} for path, value in shown.items()},
            }
        )
        return
    rows = [(path, value, job.sources[path]) for path, value in shown.items()]
    show_table(("key", "value", "from"), [row for row in rows if everything or row[2] != "default"])
    _describe(job, scan)
    if verdict is not None:
        _say_axes(verdict, job)
    next_step(f"ptycho run {spec}" + "".join(f" --set {override}" for override in overrides or ()))


def _axes_verdict(scan: Scan) -> AxesVerdict:
    try:
        module = import_module(AXES_MODULE)
    except (ImportError, RuntimeError) as error:
        raise PackageError(f'Comparing axes needs torch: {error} pip install "ptychopinn[torch]"') from error
    verdict: AxesVerdict = module.check_axes(scan)
    return verdict


def _axes_facts(verdict: AxesVerdict, job: ResolvedJob) -> dict[str, object]:
    return {
        "r_factors": verdict.r_factors,
        "is_likely_wrong": verdict.is_likely_wrong,
        "position_axes": _better_axes(verdict, job),
    }


def _better_axes(verdict: AxesVerdict, job: ResolvedJob) -> str:
    from ptycho.data.orientation import composed

    return composed(job.data.read.position_axes or "yx", verdict.best)


def _say_axes(verdict: AxesVerdict, job: ResolvedJob) -> None:
    say(f"Axes, on {verdict.n_frames} frames: {verdict.sentence}.")
    if verdict.is_likely_wrong:
        say(
            f'Warning: positions and frames disagree. Set data.position_axes = "{_better_axes(verdict, job)}", or turn'
            " the frames instead: data.frame_axes."
        )


def _describe(job: ResolvedJob, scan: Scan) -> None:
    say()
    say(f"{scan.n_positions} frames of {scan.patch_size} × {scan.patch_size} from {scan.path}")
    for assumption in scan.assumptions:
        say(f"Assumed: {assumption}")
    ranks = job.resources.n_ranks
    say(f"Stages: {', '.join(job.stages)}; {ranks} rank{'s' if ranks > 1 else ''}, {job.execution.accelerator}.")
    say("The spec is valid.")
