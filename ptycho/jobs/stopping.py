"""The request to stop, by signal or by file: it only sets a flag, and normal code saves the state."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np

from ptycho.parallel import Ranks

log = logging.getLogger(__name__)

STOP_SIGNALS = {
    signal.SIGINT: "Ctrl-C",
    signal.SIGTERM: "asked to end",
    signal.SIGUSR1: "time limit or preemption",
    signal.SIGUSR2: "time limit or preemption",
}


class StopFlag:
    """Set once, with the first reason; safe to set from a signal handler or another thread."""

    def __init__(self) -> None:
        self._reason = ""

    def set(self, reason: str) -> None:
        """Ask for a stop; later reasons are ignored."""
        self._reason = self._reason or reason

    @property
    def is_set(self) -> bool:
        return bool(self._reason)

    @property
    def reason(self) -> str:
        """Why, in words: "signal SIGTERM", "ptycho cancel"."""
        return self._reason


@contextmanager
def signals_set(flag: StopFlag) -> Iterator[None]:
    """While inside, the signals set the flag instead of ending the process.

    Python delivers signals to the main thread only; elsewhere (a notebook's worker, a test) nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        found = signal.Signals(number)
        flag.set(f"signal {found.name}: {STOP_SIGNALS[found]}")

    previous = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def agreed(flag: StopFlag, ranks: Ranks) -> Callable[[], bool]:
    """A question that every rank asks at the same point of its loop and that all answer alike.

    Signals reach ranks at different moments. Without agreement one rank would leave the loop a step before the
    others, which would wait for it in their next collective.
    """

    def should_stop() -> bool:
        asked = np.array([flag.is_set], dtype=np.float32)
        ranks.all_sum(asked)
        stops = bool(asked[0] > 0)
        if stops:
            flag.set("another rank was asked to stop")
        # Not the flag itself: a signal may have set it since, which the others have not counted.
        return stops

    return should_stop
