"""The job spec: what the user wrote, read strictly."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from ptycho.config.config import ModelConfig, TrainingConfig, validate_training_config
from ptycho.config.synthetic import SYNTHETIC
from ptycho.errors import RequestError, SpecError
from ptycho.jobs.binding import TABLES, spec_model
from ptycho.jobs.engines import LINEAR, NETWORK, NO_REFINEMENT, job_engines
from ptycho.jobs.problems import closest, shown, type_problems, value_problems
from ptycho.jobs.scan_patterns import matching_scans
from ptycho.jobs.site import load_site
from ptycho.jobs.tables import ContainerTable, DataTable, JobTable, OutputTable, ResourcesTable

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

KEYS: Mapping[str, Mapping[str, Any]] = MappingProxyType({name: table.defaults for name, table in TABLES.items()})
# Keys that name files to read.
DATA_FILES = ("scan", "train", "mask", "dark", "positions", "start")
_INPUT_PATHS = (
    *(("data", key) for key in DATA_FILES),
    ("model", "bundle"),
    ("container", "image"),
    ("synthetic", "probe_file"),
)


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """A valid spec. Paths are absolute, except output.dir, which is meant from where the user is.

    model, training, synthetic, refine, execution: only the keys that were written
    scans:   the files of a series of scans, absolute, whose runs share everything else; empty for a job of one scan
    sources: dotted path → "spec", "site" or "override", for every key that was written
    text:    the file as it was, kept in the run folder
    """

    path: Path | None
    text: str
    job: JobTable
    data: DataTable
    scans: tuple[Path, ...] = ()
    bundle: Path | None
    fine_tune: bool
    model: Mapping[str, Any]
    training: Mapping[str, Any]
    synthetic: Mapping[str, Any]
    refine: Mapping[str, Any]
    execution: Mapping[str, Any]
    resources: ResourcesTable
    container: ContainerTable
    output: OutputTable
    sources: Mapping[str, str]

    @property
    def is_series(self) -> bool:
        """Whether it asks for one run for each of several scans."""
        return bool(self.scans)

    def for_scan(self, scan: Path) -> JobSpec:
        """The spec of one run of the series, named like its scan."""
        return replace(
            self, job=replace(self.job, name=None), data=replace(self.data, scan=str(scan), scans=None), scans=()
        )


def load_spec(path: Path, overrides: Sequence[str] = ()) -> JobSpec:
    """Read a spec file and apply overrides ("table.key=value").

    Raises SpecError with every problem at once; RequestError when the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = closest(path.name, [found.name for found in path.parent.glob("*.toml")])
        hint = f" Did you mean {path.parent / near}?" if near else " Write one with: ptycho init SCAN"
        raise RequestError(f"There is no spec file {path}.{hint}") from error
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{path} is not a text file; a job spec is TOML. To reconstruct a scan: ptycho init"
        ) from error
    except OSError as error:
        raise RequestError(f"Cannot read {path}: {error.strerror or error}.") from error
    return parse_spec(text, path=path.resolve(), overrides=overrides)


def parse_spec(
    text: str, *, path: Path | None = None, overrides: Sequence[str] = (), where: Path | None = None
) -> JobSpec:
    """A spec from its text. Relative paths in it start at the spec's folder, those in overrides at `where`.

    where: the folder in which the overrides were typed; unset: the current one
    """
    where = where or Path.cwd()
    try:
        written = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError([_syntax_problem(text, path, str(error))]) from error
    given = [_parse_override(override) for override in overrides]
    base = path.parent if path else where
    site = load_site(_site_name(written, given), base)
    valid, problems = _validate(_merged(site.under(written), given), given)
    written_keys = {(table, key) for table in valid.model_fields_set for key in getattr(valid, table).model_fields_set}
    overridden = {(table, key) for table, key, _ in given}
    from_site = {place for place in written_keys - overridden if site.gives(*place, written)}
    sources = {
        f"{table}.{key}": "override" if (table, key) in overridden else "site" if (table, key) in from_site else "spec"
        for table, key in sorted(written_keys)
    }
    values = {name: _written_values(getattr(valid, name)) for name in TABLES}
    for table, key in _INPUT_PATHS:
        if values[table].get(key) is not None:
            start = where if (table, key) in overridden else base
            if site.path is not None and (table, key) in from_site:
                start = site.path.parent
            values[table][key] = str(start / Path(values[table][key]).expanduser())
    for name, row in TABLES.items():
        if row.check:
            own = {key: value for key, value in values[name].items() if key not in row.extra}
            problems += value_problems(name, own, row.check)
    if not problems:
        problems = _network_problems(values)
    problems += _joint_problems(values, named=[problem.partition(" ")[0].rstrip(":") for problem in problems])
    if problems:
        raise SpecError(problems)
    scans = _scans(values, where if ("data", "scans") in overridden else base)
    if "data.scans" in sources:
        sources["data.scan"] = sources.pop("data.scans")
    bundle, fine_tune = (values["model"].pop(key, None) for key in ("bundle", "fine_tune"))
    return JobSpec(
        path=path,
        text=text,
        job=JobTable(**values["job"]),
        data=DataTable(**values["data"]),
        scans=scans,
        bundle=Path(bundle) if bundle else None,
        fine_tune=bool(fine_tune),
        model=values["model"],
        training=values["training"],
        synthetic=values["synthetic"],
        refine=values["refine"],
        execution=values["execution"],
        resources=ResourcesTable(**values["resources"]),
        container=ContainerTable(**values["container"]),
        output=OutputTable(**values["output"]),
        sources=sources,
    )


def _syntax_problem(text: str, path: Path | None, message: str) -> str:
    """TOML's complaint with the line it is about."""
    found = re.search(r"at line (\d+)", message)
    where = f"{path.name}" if path else "spec"
    if not found:
        return f"{where}: {message}."
    number = int(found.group(1))
    line = text.splitlines()[number - 1].strip() if number <= len(text.splitlines()) else ""
    hint = " A text value needs quotes." if message.startswith("Invalid value") else ""
    return f"{where}, line {number}: {line!r} is not TOML: {message}.{hint}"


def _parse_override(override: str) -> tuple[str, str, str]:
    """Table, key and value text of "table.key=value"."""
    name, equals, value = override.partition("=")
    table, dot, key = name.strip().partition(".")
    if equals and dot and table and key:
        return table, key, value.strip()
    homes = [f"{home}.{table}" for home, keys in KEYS.items() if table in keys]
    hint = f" Did you mean {homes[0]}={value}?" if homes and equals else " Example: --set training.nepochs=5"
    raise SpecError([f"--set {override}: must be table.key=value.{hint}"])


def _site_name(written: Mapping[str, Any], given: Sequence[tuple[str, str, str]]) -> object:
    """The site profile that the overrides or else the spec ask for."""
    set_beside = [value for table, key, value in given if (table, key) == ("resources", "site")]
    table = written.get("resources")
    return _toml_value(set_beside[-1]) if set_beside else table.get("site") if isinstance(table, dict) else None


def _toml_value(text: str) -> Any:
    """A value as TOML reads it; anything that is no TOML is plain text, so that the shell needs no nested quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _merged(written: Mapping[str, Any], given: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    merged = {name: dict(table) if isinstance(table, dict) else table for name, table in written.items()}
    for table, key, value in given:
        home = merged.setdefault(table, {})
        if isinstance(home, dict):
            home[key] = _toml_value(value)
    return merged


def _validate(content: dict[str, Any], given: Sequence[tuple[str, str, str]]) -> tuple[BaseModel, list[str]]:
    """The bound spec and what was wrong with it; keys at fault are left out, so that the others can be checked too."""
    details = _faults(content)
    # An override such as job.name=2024 reads as a number, but the key wants text, and the shell has taken the quotes.
    for table, key, value in given:
        if any(detail["loc"][:2] == (table, key) and detail["type"] == "string_type" for detail in details):
            content[table][key] = value
    details = _faults(content)
    for detail in details:
        home, *keys = (str(part) for part in detail["loc"])
        if keys and isinstance(content.get(home), dict):
            content[home].pop(keys[0], None)
        else:
            content.pop(home, None)
    return spec_model().model_validate_json(_as_json(content)), type_problems(details, KEYS)


def _faults(content: Mapping[str, Any]) -> list[ErrorDetails]:
    try:
        spec_model().model_validate_json(_as_json(content))
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _as_json(content: Mapping[str, Any]) -> str:
    # Through JSON, because pydantic's strict mode then still takes a list for a tuple and text for a path.
    return json.dumps(content, default=str)


def _written_values(table: BaseModel) -> dict[str, Any]:
    return {key: getattr(table, key) for key in type(table).model_fields if key in table.model_fields_set}


def _joint_problems(values: Mapping[str, Mapping[str, Any]], named: Sequence[str]) -> list[str]:
    """What single keys cannot know: the engine, and keys that exclude one another.

    named: the dotted paths that a problem has been found with already
    """
    problems = []
    engine = values["job"].get("engine", JobTable().engine)
    refine = values["refine"].get("engine")
    if engine not in job_engines():
        near = closest(engine, job_engines())
        hint = f' Did you mean "{near}"?' if near else ""
        problems.append(f"job.engine = {shown(engine)}: must be one of {_engines()}.{hint}")
    elif engine != NETWORK:
        if refine not in (None, engine):
            problems.append(
                f"refine.engine = {shown(refine)}: job.engine is {shown(engine)}. Leave refine.engine out"
                + (
                    ", or choose another job.engine."
                    if refine == NO_REFINEMENT
                    else f", or set job.engine = {shown(refine)}."
                )
            )
        if values["model"].get("bundle"):
            problems.append(
                f'model.bundle: engine {shown(engine)} uses no network. Set job.engine = "pinn", or leave it out.'
            )
    if values["model"].get("fine_tune") and not values["model"].get("bundle"):
        problems.append("model.fine_tune = true: without model.bundle there is no network to train on from. Name one.")
    scan, scans = values["data"].get("scan"), values["data"].get("scans")
    is_synthetic = values["data"].get("source") == SYNTHETIC
    problems += _synthetic_problems(values, engine, is_synthetic)
    if scan is None and scans is None and not is_synthetic and not {"data.scan", "data.scans", "scan"} & set(named):
        problems.append('data.scan: missing. Name the scan file: scan = "path/to/scan.h5".')
    if scan is not None and scans is not None:
        problems.append("data.scan and data.scans: only one of them may be given.")
    return problems + _series_problems(values, engine)


def _series_problems(values: Mapping[str, Mapping[str, Any]], engine: str) -> list[str]:
    """What is wrong about the network of several scans."""
    problems = []
    train, scans = values["data"].get("train"), values["data"].get("scans")
    if scans is not None and values["data"].get("source") == SYNTHETIC:
        problems.append(
            'data.source = "synthetic": not with data.scans. Train such a network first'
            " (ptycho run jobs/pretrain.toml), then name its run in model.bundle."
        )
    if train is not None and scans is None:
        problems.append(f"data.train = {shown(train)}: only for several scans (data.scans). One scan trains its own.")
    if train is not None and values["model"].get("bundle"):
        problems.append("data.train and model.bundle: only one of them may be given. A trained model is not trained.")
    if train is not None and engine in job_engines() and engine != NETWORK:
        problems.append(f"data.train = {shown(train)}: engine {shown(engine)} uses no network, which could be trained.")
    return problems


def _synthetic_problems(values: Mapping[str, Mapping[str, Any]], engine: str, is_synthetic: bool) -> list[str]:
    if is_synthetic and engine != NETWORK:
        return [f'data.source = "synthetic": engine {shown(engine)} trains no network. Set job.engine = "pinn".']
    if is_synthetic and values["model"].get("architecture") == LINEAR:
        return ['model.architecture = "linear": has nothing to train. Choose another, or leave data.source out.']
    if values["synthetic"] and not is_synthetic:
        return ['synthetic: the table is for data.source = "synthetic". Set that, or leave the table out.']
    return []


def _network_problems(values: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the model and its training say about one another, such as too few neighbours for a group."""
    model = {key: value for key, value in values["model"].items() if key not in TABLES["model"].extra}
    try:
        validate_training_config(TrainingConfig(**{"model": ModelConfig(**model), **values["training"]}))
    except ValueError as error:
        return [f"training.{error}"]
    return []


def _engines() -> str:
    return ", ".join(shown(name) for name in job_engines())


def _scans(values: dict[str, dict[str, Any]], start: Path) -> tuple[Path, ...]:
    """The files of a series; none when data.scans names a single one, which is then moved to data.scan."""
    data = values["data"]
    if "scans" not in data:
        return ()
    found = matching_scans(data.pop("scans"), start)
    if len(found) == 1 and "train" not in data:
        data["scan"] = str(found[0])
        return ()
    is_network = values["job"].get("engine", NETWORK) == NETWORK
    if is_network and not values["model"].get("bundle") and "train" not in data:
        raise SpecError(
            [
                f"data.train: missing. The {len(found)} scans share one network; name the scan that it is trained on"
                f' (train = "{found[0].name}"), or a trained one in model.bundle.'
            ]
        )
    return tuple(found)
