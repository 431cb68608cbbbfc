"""One process on one host, and whether it still lives."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process, told apart from a later one with the same number by its start time.

    started: clock ticks since boot (field 22 of /proc/PID/stat), or 0 where there is no /proc
    """

    host: str
    pid: int
    started: int

    @classmethod
    def current(cls) -> Process:
        """This process."""
        return cls.of_pid(os.getpid())

    @classmethod
    def of_pid(cls, pid: int) -> Process:
        """The process with this number on this host."""
        return cls(host=socket.gethostname(), pid=pid, started=_start_ticks(pid) or 0)

    @property
    def is_here(self) -> bool:
        """Whether it belongs to this host, so that it can be looked at and signalled."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether it runs on this host now; False for processes of other hosts, which cannot be seen from here."""
        if not self.is_here:
            return False
        ticks = _start_ticks(self.pid)
        if ticks is not None:
            return self.started in (0, ticks)
        if Path("/proc/self/stat").exists():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    def signal(self, number: int) -> bool:
        """Send a signal; False when the process has ended meanwhile."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def _start_ticks(pid: int) -> int | None:
    """Start time of a living process; None for one that has ended, also when nobody has collected its exit code."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in parentheses, which may itself hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
