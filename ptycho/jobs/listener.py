"""Listening for the heartbeats of a process on another machine, whose clock may say anything."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

# A look counts for at most this long: a process that was itself held up must not take its own pause for the silence
# of the other.
_MOST_A_LOOK_S = 3.0


@dataclass
class Listener:
    """For how long nobody has touched a file, by this process's own clock.

    The time stamp is only compared with the one before, never with a clock.
    """

    path: Path
    _stamp: tuple[int, int] | None = field(default=None, init=False)
    _looked_s: float = field(default=0.0, init=False)
    _silent_s: float = field(default=0.0, init=False)

    def silent_s(self) -> float:
        """Seconds of silence so far; 0 at the first look. Raises OSError when there is no file."""
        stamp, now_s = self._read_stamp(), time.monotonic()
        if stamp != self._stamp:
            self._stamp, self._silent_s = stamp, 0.0
        else:
            self._silent_s += min(now_s - self._looked_s, _MOST_A_LOOK_S)
        self._looked_s = now_s
        return self._silent_s

    def hears_within(self, seconds: float) -> bool:
        """Whether the file is touched before so many seconds have passed."""
        self.silent_s()
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            time.sleep(seconds / 50)
            if self.silent_s() == 0:
                return True
        return False

    def _read_stamp(self) -> tuple[int, int]:
        # Opening makes a network file system ask its server, where a mere stat is answered from memory.
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            found = os.fstat(descriptor)
            return found.st_mtime_ns, found.st_ino
        finally:
            os.close(descriptor)
