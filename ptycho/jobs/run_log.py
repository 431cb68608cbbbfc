"""The log of one rank: logs/rank-<r>.log."""

from __future__ import annotations

import faulthandler
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@contextmanager
def log_to(path: Path, *, whole_process: bool) -> Iterator[None]:
    """While inside, everything logged in this process is appended to the file, warnings included.

    whole_process: also write there what a crash of the interpreter itself (a segmentation fault) leaves behind;
                   for processes that do nothing but this run
    """
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO) if level else logging.INFO)
    logging.captureWarnings(True)
    if whole_process:
        faulthandler.enable(file=handler.stream)
    try:
        yield
    finally:
        if whole_process and faulthandler.is_enabled():
            faulthandler.enable(file=sys.__stderr__) if sys.__stderr__ else faulthandler.disable()
        logging.captureWarnings(False)
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()
