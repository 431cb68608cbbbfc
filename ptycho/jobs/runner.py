"""The runner: what every rank of a job does, stage after stage."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptycho.data.fingerprint import scan_fingerprint
from ptycho.data.scan import Scan
from ptycho.errors import CancelledError, PackageError, PtychoError, RequestError
from ptycho.jobs import lock
from ptycho.jobs.clocks import clock_ahead_s
from ptycho.jobs.events import Reporter
from ptycho.jobs.json_file import read_json
from ptycho.jobs.process import Process
from ptycho.jobs.rank_environment import peak_memory_mb, set_submitit_variables
from ptycho.jobs.ranks_record import CANCELLED, FAILED, FINISHED, FOLLOWED, RankRecord, read_records
from ptycho.jobs.resolve import open_job_scan
from ptycho.jobs.resolved_job import ResolvedJob
from ptycho.jobs.run_folder import RunFolder, now, seconds_between
from ptycho.jobs.run_log import log_to
from ptycho.jobs.stopping import StopFlag, agreed, signals_set
from ptycho.jobs.watch import RunWatch
from ptycho.parallel import Ranks, find_ranks

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

log = logging.getLogger(__name__)

# Stages live above this room, among the code that needs torch, and are named by strings only.
STAGES_MODULE = "ptycho_torch.stages"
# A rank's own error is only believed to be the first cause when no other rank reports one within this time.
PEERS_FIRST_S = 2.5
# What the libraries that connect ranks say when the other end is gone.
_BROKEN_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """What a stage works with. Stages leave everything they make in the run folder.

    scan:        opened and prepared (cropped, masked), frames not yet read
    should_stop: every rank asks at the same point of its loop (it is a collective) and all answer alike; a stage
                 that hears True saves a checkpoint and returns, or raises CancelledError
    """

    job: ResolvedJob
    scan: Scan
    ranks: Ranks
    folder: RunFolder
    report: Reporter
    should_stop: Callable[[], bool]


@dataclass(frozen=True)
class JobRunner:
    """One rank's work. Importable and holding one path, so that any launcher can send it anywhere."""

    folder: Path

    def __call__(self) -> None:
        """Run as a process started by submitit: all that this process will ever do."""
        set_submitit_variables(os.environ, self.folder)
        rank = _Rank(RunFolder(self.folder), int(os.environ["RANK"]))
        if os.environ["SUBMITIT_EXECUTOR"] != "slurm":
            rank.run(find_ranks, whole_process=True)
            return
        if rank.is_root:
            # The command that submitted the job is long gone; from now on this process keeps the folder.
            lock.hand_over(rank.folder, rank.record.process)
        try:
            rank.run(find_ranks, whole_process=True)
        except CancelledError:
            # Everybody's state is saved, and nobody asked for an end: a time limit or a preemption has.
            if rank.is_root and not rank.folder.cancel_path.exists():
                rank.folder.requeue_path.touch()
            raise
        finally:
            if rank.is_root:
                lock.release(rank.folder)

    def run_here(self, ranks: Ranks) -> None:
        """Run in this process as one of the ranks that its launcher set up."""
        _Rank(RunFolder(self.folder), ranks.rank).run(lambda: ranks, whole_process=False)

    def checkpoint(self) -> DelayedSubmission:
        """The same job again, for a signal that comes before the ranks listen: nothing has been done yet."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class _Rank:
    """One rank of one attempt, from its first log line to its last record."""

    def __init__(self, folder: RunFolder, rank: int) -> None:
        self.folder = folder
        self.attempt = current_attempt(folder)
        self.record = RankRecord(rank=rank, attempt=self.attempt, process=Process.current())
        self.report = Reporter(folder, rank, self.attempt)
        self.flag = StopFlag()
        self.is_alone = False

    @property
    def is_root(self) -> bool:
        return self.record.rank == 0

    def run(self, find: Callable[[], Ranks], *, whole_process: bool) -> None:
        """Do all stages that are not done; record how it ended; raise what a stage raised."""
        self.record.write(self.folder)
        watch = RunWatch(self.folder, self.record, self.flag, self._followed)

        def meet() -> Ranks:
            ranks = find()
            watch.expect(ranks.size)
            return ranks

        log_path = self.folder.log_path(self.record.rank)
        with log_to(log_path, whole_process=whole_process), signals_set(self.flag), watch:
            try:
                self._work(meet())
            except CancelledError as error:
                self._end(CANCELLED, str(error))
                raise
            except Exception as error:
                if not self._stopped_elsewhere(error):
                    self._failed(error, watch)
                    raise
                sentence = "Stopped together with the other ranks, one of which left before this one had heard of it."
                self._end(CANCELLED, sentence)
                raise CancelledError(sentence) from error
            self._end(FINISHED, "")

    def _work(self, ranks: Ranks) -> None:
        self.is_alone = ranks.size == 1
        job = ResolvedJob.read(self.folder.resolved_path)
        log.info("rank %d of %d on %s, process %d", ranks.rank, ranks.size, socket.gethostname(), os.getpid())
        hosts = {record.rank: record.process.host for record in read_records(self.folder)}
        self.record = replace(self.record, clock_ahead_s=clock_ahead_s(ranks, hosts))
        state = ranks.broadcast(self.folder.read_state() if self.is_root else None)
        assert state is not None
        state |= {"status": "running", "attempts": self.attempt, "n_ranks": ranks.size, "error": None}
        scan = open_job_scan(job.data)
        self._refuse_another_scan(scan, ranks, state)
        state |= {"n_frames": scan.n_positions, "frame_px": scan.patch_size}
        self._write_state(state)
        self.report.started(name=job.name, n_ranks=ranks.size, host=socket.gethostname(), stages=list(job.stages))
        context = StageContext(
            job=job,
            scan=scan,
            ranks=ranks,
            folder=self.folder,
            report=self.report,
            should_stop=self._asking(agreed(self.flag, ranks)),
        )
        for name in job.stages:
            if state["stages"].get(name, {}).get("status") != "done":
                self._stage(name, context, state)
        ranks.close()
        self._write_state({**state, "status": "finished", "stage": None})
        self.report.finished(**state.get("result", {}))

    def _refuse_another_scan(self, scan: Scan, ranks: Ranks, state: dict[str, Any]) -> None:
        """Go on only with the scan that the run began with: a stage trusts what an earlier one made of it."""
        found = ranks.broadcast(scan_fingerprint(scan) if self.is_root else "")
        if state.setdefault("scan", found) != found:
            raise RequestError(
                f"{scan.path or scan.name} is not the scan that this run began with."
                " Put that one back, or start a new run with this one."
            )

    def _stage(self, name: str, context: StageContext, state: dict[str, Any]) -> None:
        if context.should_stop():
            self._cancel(name)
        self.record = replace(self.record, stage=name)
        started = now()
        state["stage"] = name
        state["stages"][name] = {"status": "running", "started": started}
        self._write_state(state)
        self.report.stage(name)
        stage_function(name)(context)
        # A stage that was asked to stop may have returned early. Taking it up again costs little; believing it done
        # could cost half an image.
        if context.should_stop():
            self._cancel(name)
        context.ranks.barrier()
        finished = now()
        seconds = round(seconds_between(started, finished), 3)
        state["stages"][name] = {"status": "done", "started": started, "finished": finished, "seconds": seconds}
        state["result"] = {**state.get("result", {}), **self.report.results}
        self._write_state(state)

    def _asking(self, ask: Callable[[], bool]) -> Callable[[], bool]:
        """The same question, told to those who watch when the answer is yes for the first time."""
        told = False

        def should_stop() -> bool:
            nonlocal told
            stops = ask()
            if stops and not told:
                told = True
                self.report.cancelling(self.flag.reason)
            return stops

        return should_stop

    def _cancel(self, stage: str) -> None:
        raise CancelledError(
            f"Stopped in stage {stage} ({self.flag.reason}); what was done is saved."
            f" Go on with: ptycho resume {self.folder.path}"
        )

    def _write_state(self, state: dict[str, Any]) -> None:
        if self.is_root:
            self.folder.write_state(state)

    def _stopped_elsewhere(self, error: Exception) -> bool:
        """Whether the error is only the closed connection to a rank that all had agreed to stop with.

        Nothing makes ranks leave their last collective at the same moment, and a rank writes its record before it ends.
        """
        if self.is_alone or isinstance(error, PtychoError):
            return False
        records = [record for record in read_records(self.folder) if record.attempt == self.attempt]
        return any(record.status == CANCELLED for record in records)

    def _failed(self, error: Exception, watch: RunWatch) -> None:
        """Record the failure, unless it is only the echo of another rank's."""
        log.error("failed in stage %s", self.record.stage or "start", exc_info=error)
        # An explained error is certainly this rank's own; any other may be a connection that a dead rank broke.
        is_own = self.is_alone or isinstance(error, PtychoError)
        cause = None if is_own else watch.cause_elsewhere(within_s=PEERS_FIRST_S)
        if cause:
            self._followed(cause)
            return
        sentence = sentence_of(error)
        if not is_own and any(words in sentence for words in _BROKEN_CONNECTION):
            sentence = f"The connection to another rank broke: its process or its machine has ended ({sentence})."
        self.record = replace(self.record, sentence=sentence, is_certain=is_own)
        self._end(FAILED, self.record.sentence)

    def _followed(self, cause: str) -> None:
        replace(self.record, status=FOLLOWED, sentence=cause).write(self.folder)
        self._write_end("failed", cause)

    def _end(self, status: str, sentence: str) -> None:
        log.info("rank ends: %s; peak memory %d MB", status, peak_memory_mb())
        self.record = replace(self.record, status=status, sentence=sentence, peak_memory_mb=peak_memory_mb())
        self.record.write(self.folder)
        if status != FINISHED:
            self._write_end(status, sentence)

    def _write_end(self, status: str, sentence: str) -> None:
        """How the run ended, in state.json and in the events."""
        if not self.is_root:
            return
        error = {"message": sentence, "rank": self.record.rank, "host": self.record.process.host}
        state = self.folder.read_state()
        self._write_state({**state, "status": status, "error": {**error, "stage": self.record.stage or None}})
        if status == FAILED:
            self.report.error(sentence, rank=self.record.rank, host=self.record.process.host)


def stage_function(name: str) -> Callable[[StageContext], None]:
    """The stage of this name. Raises PackageError when the packages that it needs are not installed."""
    try:
        module = import_module(STAGES_MODULE)
    except (ImportError, RuntimeError) as error:
        # ptycho_torch says with a RuntimeError that torch is missing or too old, and how to install it.
        raise PackageError(f"Stage {name} cannot be loaded: {error}") from error
    function: Callable[[StageContext], None] = getattr(module, name)
    return function


def current_attempt(folder: RunFolder) -> int:
    """The number of this execution: the launcher's count, plus Slurm's own restarts of the same job."""
    launched: int = read_json(folder.launch_path)["attempt"]
    return launched + int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def sentence_of(error: BaseException) -> str:
    """One sentence for people; our own errors are sentences already."""
    if isinstance(error, PtychoError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"Out of memory ({error}). Use more ranks, a smaller batch_size or a smaller crop."
    return f"{type(error).__name__}: {error}"
