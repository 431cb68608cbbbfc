"""A run folder: one execution, its state and its results."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ptycho.errors import NotReadyError, RequestError, WorkError
from ptycho.jobs.json_file import read_json, write_json, write_text
from ptycho.whole_file import write_problem

FORMAT = 1


def now() -> str:
    """The time in UTC as people and programs read it, to the millisecond."""
    seconds = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"


def seconds_between(earlier: str, later: str) -> float:
    """Seconds from one time written by `now` to another."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, each under one name; every file in it is written whole."""

    path: Path

    @classmethod
    def create(cls, parent: Path, name: str, files: Mapping[str, str]) -> RunFolder:
        """A new folder `<name>-<date>-<time>` inside `parent`, holding the given texts from its first moment.

        Raises RequestError when the folder cannot be written; then nothing is left behind.
        """
        return cls._create(parent, name, files, dated=True)

    @classmethod
    def create_at(cls, path: Path, files: Mapping[str, str]) -> RunFolder:
        """A new folder with exactly this path, which must not exist yet; otherwise as `create`."""
        return cls._create(path.parent, path.name, files, dated=False)

    @classmethod
    def _create(cls, parent: Path, name: str, files: Mapping[str, str], *, dated: bool) -> RunFolder:
        draft = parent / f".{name}-{os.getpid()}.draft"
        try:
            draft.mkdir(parents=True)
            for file_name, text in files.items():
                write_text(draft / file_name, text)
            state = {"format": FORMAT, "status": "created", "stages": {}, "attempts": 0, "created": now()}
            write_json(draft / "state.json", state)
            for subfolder in ("logs", "ranks", "checkpoints", "figures", "model"):
                (draft / subfolder).mkdir()
            if dated:
                return cls(settle_name(draft, parent, f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"))
            draft.rename(parent / name)
            return cls((parent / name).resolve())
        except WorkError as error:
            raise RequestError(str(error)) from error
        except OSError as error:
            raise RequestError(write_problem(parent, error)) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder. Raises RequestError when the path is none, naming the newest run beside it."""
        folder = cls(path.resolve())
        if folder.state_path.is_file():
            return folder
        if not path.exists():
            raise RequestError(f"There is no run folder {path}. The newest runs: {_newest(path.parent)}.")
        inside = _newest(path / "scans" if (path / "scans").is_dir() else path)
        hint = f" It holds the runs: {inside}." if inside != "none" else ""
        raise RequestError(f"{path} is not a run folder: it has no state.json.{hint}")

    @classmethod
    def newest(cls, parent: Path) -> RunFolder:
        """The newest run inside a folder. Raises RequestError when there is none."""
        found = sorted(parent.glob("*/state.json"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise RequestError(f"There are no runs in {parent}. Name a run folder, or start one: ptycho run SPEC")
        return cls(found[-1].parent.resolve())

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def spec_path(self) -> Path:
        return self.path / "spec.toml"

    @property
    def resolved_path(self) -> Path:
        return self.path / "resolved.json"

    @property
    def state_path(self) -> Path:
        return self.path / "state.json"

    @property
    def events_path(self) -> Path:
        return self.path / "events.ndjson"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def lock_path(self) -> Path:
        return self.path / "lock.json"

    @property
    def launch_path(self) -> Path:
        return self.path / "launch.json"

    @property
    def cancel_path(self) -> Path:
        return self.path / "cancel"

    @property
    def requeue_path(self) -> Path:
        """The sign for the batch script that the run has stopped in order to go on in another allocation."""
        return self.path / "requeue"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def ranks(self) -> Path:
        return self.path / "ranks"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def model(self) -> Path:
        """The folder of the trained model: model/wts.h5.zip."""
        return self.path / "model"

    @property
    def network_path(self) -> Path:
        """The network's stitched image, before refinement."""
        return self.path / "network.h5"

    @property
    def result_path(self) -> Path:
        return self.path / "result.h5"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    @property
    def thumbnail_path(self) -> Path:
        """A small picture of the result, for tables of many runs."""
        return self.path / "thumbnail.png"

    def log_path(self, rank: int) -> Path:
        """The log of one rank."""
        return self.logs / f"rank-{rank}.log"

    def read_state(self) -> dict[str, Any]:
        """The content of state.json."""
        state = read_json(self.state_path)
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise RequestError(f"{self.state_path} was written by another version of this program; start a new run.")
        return state

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Replace state.json. Only rank 0, or the launcher when no rank lives, may call this."""
        write_json(self.state_path, {**state, "updated": now()})

    def result(self) -> Path:
        """The path of result.h5. Raises NotReadyError while there is none."""
        if not self.result_path.is_file():
            raise NotReadyError(f"{self.path} has no result yet. See how far it is: ptycho status {self.path}")
        return self.result_path


def settle_name(draft: Path, parent: Path, name: str) -> Path:
    """Give the draft its final name, with a number when two runs start within one second."""
    for number in range(1, 1000):
        final = parent / (name if number == 1 else f"{name}-{number}")
        if not final.exists():
            try:
                draft.rename(final)
            except OSError:
                if final.exists():
                    continue
                raise
            return final.resolve()
    raise RequestError(f"{parent} already holds 1000 runs named {name}.")


def _newest(parent: Path) -> str:
    """The names of the newest runs in a folder, for error messages."""
    try:
        found = sorted(parent.glob("*/state.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        found = []
    return ", ".join(str(path.parent) for path in found[:3]) or "none"
