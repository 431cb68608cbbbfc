"""Programs that some tests need: absent, a test is skipped, unless the environment says that it must run."""

import os
import shutil
from typing import NoReturn

import pytest

# Name -> how to get it. PTYCHO_TESTS_REQUIRE lists the names (separated by blanks) that must not be missing.
PROGRAMS = {
    "mpirun": "apt-get install openmpi-bin",
    "chromium": "apt-get install chromium",
    "sbatch": "containers/test-cluster/cluster install",
    "apptainer": "see containers/README.md",
}


def require(name: str) -> None:
    """Skips the running test when the program is missing; fails it when PTYCHO_TESTS_REQUIRE lists the program."""
    if shutil.which(name) is None:
        cannot_run(name, f"{name} is not installed ({PROGRAMS[name]})")


def cannot_run(name: str, reason: str) -> NoReturn:
    """Skips or fails the running test, which needs the program, for another reason than that it is missing."""
    if name in os.environ.get("PTYCHO_TESTS_REQUIRE", "").split():
        pytest.fail(f"{reason}; PTYCHO_TESTS_REQUIRE lists {name}", pytrace=False)
    pytest.skip(reason)
