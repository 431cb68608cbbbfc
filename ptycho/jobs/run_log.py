"""The log of one rank: logs/rank-<r>.log."""

from __future__ import annotations

import faulthandler
import logging
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
    with path.open("a", encoding="utf-8") as stream:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter(_FORMAT))
        root = logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(min(level, logging.INFO) if level else logging.INFO)
        logging.captureWarnings(True)
        if whole_process:
            faulthandler.enable(file=stream)
        try:
            yield
        finally:
            if whole_process:
                faulthandler.disable()
            logging.captureWarnings(False)
            root.setLevel(level)
            root.removeHandler(handler)
            handler.flush()
