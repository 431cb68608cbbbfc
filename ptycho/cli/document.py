"""Writes the generated documents: docs/cli.md, docs/job-spec.md, the tables of docs/data-formats.md
and jobs/spec.schema.json.

python -m ptycho.cli.document            write them
python -m ptycho.cli.document --check    exit with 1 and name those that differ from the code
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from ptycho.cli.main import app
from ptycho.data.formats.table import formats_table, keys_table
from ptycho.jobs.binding import TABLES
from ptycho.jobs.engines import job_engines
from ptycho.jobs.problems import shown
from ptycho.jobs.schema import schema, schema_text

ROOT = Path(__file__).parents[2]
_WIDTH = "80"

_CLI_HEAD = """\
# The command `ptycho`

Made from `--help` by `python -m ptycho.cli.document`; edit the commands, not this page.

A job takes four commands: `ptycho init scan.h5` writes a spec, `ptycho check scan.toml` proves it before a queue does,
`ptycho run scan.toml` does the work (or `ptycho submit`, which returns at once), `ptycho status` says how it goes.
Every verb ends with what it did and what to type next. Verbs that read have `--json` with stable keys.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | the work failed; what was done is kept, `ptycho resume` goes on |
| 2 | the request was wrong: one sentence says what, nothing was started |
| 3 | not ready: the run is still going, or has no result yet |
| 130 | cancelled, with its state saved |
"""

_SPEC_HEAD = """\
# The job spec

Made from the code by `python -m ptycho.cli.document`; edit the tables' classes, not this page.

A spec is a TOML file. Two lines are enough:

```toml
[data]
scan = "scan.h5"
```

- Every key that is left out has the default below. An unknown key is an error that names the closest known one.
- Paths of files to read start at the spec file's folder; `output.dir` starts where you are.
- `--set table.key=value` on the command line overrides any key; paths in it start where you are.
- `ptycho check SPEC` shows what was filled in and where each value came from; a run keeps it as `resolved.json`:
  `spec`, `override` (`--set`), `data` (the scan), `bundle` (the trained model), `execution` (this machine, or a key of
  `[execution]`), `default`.
- Editors complete and check specs that begin with `#:schema ./spec.schema.json`
  (the schema: `jobs/spec.schema.json`, or `ptycho init --schema`).
"""


def command_names() -> list[str]:
    """The verbs, in the order of `ptycho --help`."""
    return [str(command.name or getattr(command.callback, "__name__", "")) for command in app.registered_commands]


def _help_of(*arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments, "--help"], prog_name="ptycho", env={"COLUMNS": _WIDTH})
    return "\n".join(line.rstrip() for line in done.output.strip().splitlines())


def cli_page() -> str:
    """docs/cli.md."""
    parts = [_CLI_HEAD, f"```text\n{_help_of()}\n```\n"]
    parts += [f"## ptycho {name}\n\n```text\n{_help_of(name)}\n```\n" for name in command_names()]
    return "\n".join(parts)


def spec_page() -> str:
    """docs/job-spec.md."""
    return "\n".join([_SPEC_HEAD, *(part for name in TABLES for part in _table(name))])


def _table(name: str) -> Iterator[str]:
    table = TABLES[name]
    content = schema()["$defs"][name]["properties"]
    yield f"## [{name}]\n\n{table.about}\n"
    yield "| key | values | default | meaning |\n| --- | --- | --- | --- |"
    for key, default in table.defaults.items():
        text = content[key].get("description", "")
        yield f"| `{key}` | {_values(name, key, content[key])} | {_default(default)} | {_cell(text)} |"
    yield ""


def _values(table: str, key: str, content: dict[str, Any]) -> str:
    if (table, key) == ("job", "engine"):
        return ", ".join(f"`{shown(engine)}`" for engine in job_engines())
    options = content.get("anyOf", [content])
    return _cell(" or ".join(text for text in map(_kind, options) if text))


def _kind(option: dict[str, Any]) -> str:
    choices = option.get("enum") or ([option["const"]] if "const" in option else None)
    if choices is not None:
        return ", ".join(f"`{shown(choice)}`" for choice in choices)
    if option.get("type") == "null":
        return ""
    if "$ref" in option:
        return "table"
    if option.get("type") == "array":
        parts = option.get("prefixItems") or [option["items"]]
        return f"list of {len(parts)} numbers" if "prefixItems" in option else f"list of {_kind(parts[0])}"
    kinds = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "string": "text"}
    return kinds[option["type"]] + _limits(option)


def _limits(option: dict[str, Any]) -> str:
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {option[name]:.10g}" for name, sign in words.items() if name in option]
    return f" {', '.join(found)}" if found else ""


def _default(value: object) -> str:
    return "" if value is None else f"`{shown(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def formats_page() -> str:
    """docs/data-formats.md: written by hand but for its tables."""
    page = (ROOT / "docs" / "data-formats.md").read_text("utf-8")
    for name, table in (("formats", formats_table()), ("keys", keys_table())):
        head, start, rest = page.partition(f"<!-- made from the code: {name} -->\n")
        _, end, tail = rest.partition("<!-- end -->")
        page = f"{head}{start}{table}{end}{tail}"
    return page


def documents() -> dict[Path, str]:
    """Path → text of every generated document."""
    return {
        ROOT / "docs" / "cli.md": cli_page(),
        ROOT / "docs" / "job-spec.md": spec_page(),
        ROOT / "docs" / "data-formats.md": formats_page(),
        ROOT / "jobs" / "spec.schema.json": schema_text(),
    }


def stale_documents() -> list[Path]:
    """The documents that differ from what the code says."""
    return [path for path, text in documents().items() if not path.exists() or path.read_text("utf-8") != text]


def _write() -> None:
    for path, text in documents().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        typer.echo(f"Wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    os.chdir(ROOT)
    if "--check" in sys.argv:
        stale = [str(path.relative_to(ROOT)) for path in stale_documents()]
        sys.exit(f"{', '.join(stale)}: not what the code says; run python -m ptycho.cli.document" if stale else 0)
    _write()
