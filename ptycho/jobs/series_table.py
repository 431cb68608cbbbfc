"""The table of a series: one row for each scan, as CSV, as JSON and as a page with pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ptycho.jobs.json_file import write_json, write_text
from ptycho.jobs.run_folder import now
from ptycho.jobs.series import SeriesFolder
from ptycho.jobs.series_status import ScanStatus, SeriesStatus, read_series_status

# The columns that every table has, before the numbers that its runs have reached.
_FIRST_COLUMNS = ("scan", "status", "seconds", "error", "file", "run")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One scan of the table.

    seconds: wall-clock time of all stages that are done
    result:  the numbers that the run reached
    run:     its folder, and report and thumbnail inside it, relative to the series'; empty where there is none
    """

    scan: str
    file: str
    status: str
    seconds: float | None = None
    error: str = ""
    result: dict[str, float | int | None] = field(default_factory=dict)
    run: str = ""
    report: str = ""
    thumbnail: str = ""


def collect(folder: SeriesFolder) -> SeriesStatus:
    """Write table.csv, table.json and report.html from whatever the runs have reached; returns the status shown."""
    from ptycho.report.series import SeriesPage, write_page

    status = read_series_status(folder)
    rows = [_row(folder, scan) for scan in status.scans]
    write_json(
        folder.table_path,
        {"name": status.name, "collected": now(), "status": status.status, "counts": status.counts}
        | {"scans": [asdict(row) for row in rows]},
    )
    write_text(folder.csv_path, csv_text(rows))
    training = status.training
    page = SeriesPage(
        title=status.name,
        headline=status.headline,
        collected=now(),
        is_complete=status.status == "finished",
        training=None if training is None else f"{training.status}" + (f": {training.error}" if training.error else ""),
        training_log="train/logs/rank-0.log" if (folder.training.log_path(0)).exists() else "",
        rows=tuple(_page_row(folder, row) for row in rows),
    )
    write_page(page, folder.report_path)
    return status


def _row(folder: SeriesFolder, scan: ScanStatus) -> Row:
    if scan.run is None:
        return Row(scan=scan.name, file=scan.path, status=scan.status, error=scan.error or "")
    run = folder.run(scan.name)
    stages = run.read_state()["stages"]
    seconds = [entry["seconds"] for entry in stages.values() if "seconds" in entry]

    def inside(path: Path) -> str:
        return str(path.relative_to(folder.path)) if path.exists() else ""

    return Row(
        scan=scan.name,
        file=scan.path,
        status=scan.status,
        seconds=round(sum(seconds), 3) if seconds else None,
        error=scan.error or "",
        result=dict(scan.run.result),
        run=inside(run.path),
        report=inside(run.report_path),
        thumbnail=inside(run.thumbnail_path),
    )


def csv_text(rows: Sequence[Row]) -> str:
    """The table with a header line; the numbers that the runs reached have a column each."""
    numbers = list(dict.fromkeys(name for row in rows for name in row.result))
    first, rest = _FIRST_COLUMNS[:2], _FIRST_COLUMNS[2:]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*first, *numbers, *rest], restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values: dict[str, Any] = {**asdict(row), **row.result}
        writer.writerow({key: "" if value is None else value for key, value in values.items()})
    return text.getvalue()


def _page_row(folder: SeriesFolder, row: Row) -> Any:
    from ptycho.report.series import PageRow

    picture = (folder.path / row.thumbnail).read_bytes() if row.thumbnail else None
    log = f"{row.run}/logs/rank-0.log" if row.run else ""
    r_factor = row.result.get("r_factor")
    return PageRow(
        scan=row.scan,
        file=row.file,
        status=row.status,
        r_factor=r_factor if isinstance(r_factor, int | float) else None,
        seconds=row.seconds,
        error=row.error,
        report=row.report,
        log=log if log and (folder.path / log).exists() else "",
        thumbnail=picture,
    )
