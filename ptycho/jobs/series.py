"""A series: several scans of one spec, each with a run of its own, in one folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ptycho.errors import RequestError, WorkError
from ptycho.jobs.json_file import read_json, write_json, write_text
from ptycho.jobs.process import Process
from ptycho.jobs.run_folder import RunFolder, now
from ptycho.jobs.spec import JobSpec, parse_spec
from ptycho.whole_file import write_problem

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class SeriesScan:
    """One scan of a series. error: why it has no run, for example because the file cannot be read; else empty."""

    name: str
    path: str
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Series:
    """What a series consists of; series.json.

    spec_path, overrides, where: the spec's file, what was set beside it, and the folder in which that was typed
    trains: whether a network is trained first, which the runs of the scans then apply
    at_once: how many scans are worked on at the same time; None: one on this machine, in Slurm as many as may
    """

    name: str
    executor: str
    trains: bool
    at_once: int | None
    scans: tuple[SeriesScan, ...]
    spec_path: str | None
    overrides: tuple[str, ...]
    where: str
    created: str


@dataclass(frozen=True, kw_only=True)
class SeriesLaunch:
    """How a series was started last; launch.json.

    process:     on this machine, the one that starts the runs one after the other
    job_ids:     in Slurm: of the training, of the array and of the collecting job, as far as there are such
    """

    attempt: int
    executor: str
    process: Process
    job_ids: tuple[str, ...] = ()
    time: str = ""


@dataclass(frozen=True)
class SeriesFolder:
    """The files of a series, each under one name; every file in it is written whole."""

    path: Path

    @classmethod
    def create(cls, parent: Path, name: str) -> SeriesFolder:
        """A new, empty folder `<name>-<date>-<time>` inside `parent`. It is a series as soon as `write` was called."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for number in range(1, 1000):
                path = parent / (f"{name}-{stamp}" if number == 1 else f"{name}-{stamp}-{number}")
                try:
                    path.mkdir()
                except FileExistsError:
                    continue
                (path / "scans").mkdir()
                return cls(path.resolve())
        except OSError as error:
            raise RequestError(write_problem(parent, error)) from error
        raise RequestError(f"{parent} already holds 1000 series named {name}.")

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def series_path(self) -> Path:
        return self.path / "series.json"

    @property
    def spec_path(self) -> Path:
        return self.path / "spec.toml"

    @property
    def launch_path(self) -> Path:
        return self.path / "launch.json"

    @property
    def cancel_path(self) -> Path:
        return self.path / "cancel"

    @property
    def table_path(self) -> Path:
        """The collected table for programs; table.csv beside it is the same for spreadsheets."""
        return self.path / "table.json"

    @property
    def csv_path(self) -> Path:
        return self.path / "table.csv"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    @property
    def training(self) -> RunFolder:
        """The run that trains the network for all scans."""
        return RunFolder(self.path / "train")

    def run(self, name: str) -> RunFolder:
        """The run of one scan."""
        return RunFolder(self.path / "scans" / name)

    def runs(self) -> list[RunFolder]:
        """The runs of all scans that have one, in the order of the scans."""
        return [self.run(scan.name) for scan in self.read().scans if not scan.error]

    def submitit(self, attempt: int) -> Path:
        """submitit's own files, fresh for each start."""
        return self.path / "submitit" / f"{attempt}"

    def read(self) -> Series:
        """The content of series.json."""
        content: dict[str, Any] = read_json(self.series_path)
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise RequestError(f"{self.series_path} was written by another version of this program; start a new one.")
        scans = tuple(SeriesScan(**scan) for scan in content.pop("scans"))
        return Series(**{**content, "scans": scans, "overrides": tuple(content["overrides"])})

    def write(self, series: Series) -> None:
        """Replace series.json."""
        write_json(self.series_path, {"format": FORMAT, **asdict(series)})

    def write_spec(self, text: str) -> None:
        """Keep the spec as it was written."""
        write_text(self.spec_path, text)

    def read_spec(self) -> JobSpec:
        """The spec that the series was made from, with what was set beside it."""
        series, text = self.read(), self.spec_path.read_text(encoding="utf-8")
        path = Path(series.spec_path) if series.spec_path else None
        return parse_spec(text, path=path, overrides=series.overrides, where=Path(series.where))

    def read_launch(self) -> SeriesLaunch | None:
        """How the series was started last, or None when it never was."""
        if not self.launch_path.exists():
            return None
        content = read_json(self.launch_path)
        process, job_ids = Process(**content.pop("process")), tuple(content.pop("job_ids"))
        return SeriesLaunch(**content, process=process, job_ids=job_ids)

    def write_launch(self, attempt: int, executor: str, process: Process, job_ids: Sequence[str] = ()) -> None:
        """Replace launch.json."""
        launch = SeriesLaunch(attempt=attempt, executor=executor, process=process, job_ids=tuple(job_ids), time=now())
        write_json(self.launch_path, asdict(launch))

    def ask_to_stop(self) -> None:
        """Leave the sign at which no further run is started. Raises WorkError when it cannot be written."""
        try:
            self.cancel_path.touch()
        except OSError as error:
            raise WorkError(f"Cannot write {self.cancel_path}: {error.strerror or error}.") from error


def find_folder(path: Path | None) -> RunFolder | SeriesFolder:
    """The run or the series of this path; without one, the newest in ./runs. Raises RequestError when there is none."""
    if path is None:
        parent = Path("runs")
        series = max(parent.glob("*/series.json"), key=_last_change, default=None)
        runs = max(parent.glob("*/state.json"), key=_last_change, default=None)
        if series is None or (runs is not None and _last_change(runs) > _last_change(series)):
            return RunFolder.newest(parent)
        return SeriesFolder(series.parent.resolve())
    if (path / "series.json").is_file():
        return SeriesFolder(path.resolve())
    return RunFolder.open(path)


def _last_change(path: Path) -> float:
    """When a run or a series last told something: seconds of the epoch."""
    told = (path, path.with_name("launch.json"), path.with_name("table.json"))
    return max(one.stat().st_mtime for one in told if one.exists())
