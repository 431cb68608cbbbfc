"""Programs that some tests need: where they are missing a test is skipped, or fails where they were promised."""

import os
import shutil
from typing import NoReturn

import pytest

# Name -> the commands that show that it is here, and how to get it.
PROGRAMS = {
    "mpirun": (("mpirun",), "apt-get install openmpi-bin"),
    "chromium": (("chromium", "chromium-browser", "google-chrome"), "apt-get install chromium"),
    "sbatch": (("sbatch",), "containers/test-cluster/cluster install"),
    "apptainer": (("apptainer",), "containers/README.md"),
    "image": ((), "make container"),
}


def require(name: str) -> str:
    """Path of the program "mpirun", "chromium", "sbatch" or "apptainer".

    Skips the test without it, unless PTYCHO_TESTS_REQUIRE, a list of names parted by spaces, holds the name: a test
    that CI silently skips tests nothing.
    """
    commands, source = PROGRAMS[name]
    found = next(filter(None, map(shutil.which, commands)), None)
    return found or cannot_run(name, f"{name} is not installed (see {source})")


def cannot_run(name: str, reason: str) -> NoReturn:
    """Skips or fails the running test, as `require` does, for a reason found later than by looking for the program."""
    if name in os.environ.get("PTYCHO_TESTS_REQUIRE", "").split():
        pytest.fail(f"{name} is required here (PTYCHO_TESTS_REQUIRE): {reason}", pytrace=False)
    pytest.skip(reason)
