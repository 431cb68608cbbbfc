"""The two-node test cluster as a fixture."""

import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.requirements import cannot_run, require

SCRIPT = Path(__file__).parents[2] / "containers" / "test-cluster" / "cluster"

# States that a job does not leave by itself.
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}


@dataclass(frozen=True)
class Cluster:
    """A test cluster with its files in `folder` and its ports from `port` on; `control` starts and stops it."""

    folder: Path
    port: int

    def control(self, command: str, *arguments: str, timeout_s: float = 400) -> subprocess.CompletedProcess[str]:
        """Runs `cluster COMMAND ARGUMENTS`, whatever its exit code."""
        environment = os.environ | {"PTYCHO_TEST_CLUSTER_PORT": str(self.port)}
        words = [str(SCRIPT), command, *arguments, str(self.folder)]
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=timeout_s)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point a process at this cluster: SLURM_CONF and PATH."""
        words = shlex.split(self.control("env").stdout)
        return dict(word.split("=", 1) for word in words if "=" in word)

    def run(self, *words: str, timeout_s: float = 300) -> str:
        """Standard output of a command on the login node; fails with its standard error when it does."""
        environment = os.environ | self.environment
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=timeout_s)
        assert done.returncode == 0, f"{shlex.join(words)}: exit code {done.returncode}\n{done.stderr}"
        return done.stdout

    def submit(self, script: str, folder: Path, *options: str) -> str:
        """Job number of a batch job that runs the lines of `script`; its output goes to folder/output."""
        where = [f"--chdir={folder}", "--output=output", "--open-mode=append"]
        return self.run("sbatch", "--parsable", *where, *options, f"--wrap={script}").strip()

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says: JobState, Reason, Restarts, …"""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "--oneliner", "show", "job", number)))

    def wait_for(
        self, number: str, *states: str, restarts: int = 0, at_most: int | None = None, timeout_s: float = 300
    ) -> dict[str, str]:
        """The job, once in one of the states after so many restarts (or more, up to `at_most`).

        Fails when it ends otherwise or takes longer.
        """
        deadline = time.monotonic() + timeout_s
        most = restarts if at_most is None else at_most
        while True:
            job = self.job(number)
            if job["JobState"] in states and restarts <= int(job["Restarts"]) <= most:
                return job
            late = f"not {states} with {restarts} restarts within {timeout_s} s: {job}"
            assert time.monotonic() < deadline and job["JobState"] not in ENDED, late
            time.sleep(0.3)

    def wait_for_lines(self, path: Path, line: str, count: int, timeout_s: float = 300) -> None:
        """Returns when the file has so many lines that equal the given one; fails after that time."""
        deadline = time.monotonic() + timeout_s
        while not path.exists() or path.read_text().splitlines().count(line) < count:
            assert time.monotonic() < deadline, f"{path} has not {count} lines {line!r} after {timeout_s} s"
            time.sleep(0.2)

    def accounted_states(self, number: str) -> list[str]:
        """The state of every run of the job in the accounting database, the oldest first."""
        words = ["--noheader", "--parsable2", "--allocations", "--duplicates", "--format=State"]
        return [line.split()[0] for line in self.run("sacct", *words, "--jobs", number).splitlines()]


def start(cluster: Cluster) -> None:
    """Starts the cluster; skips the test where it cannot run (not root, packages missing)."""
    up = cluster.control("up")
    if up.returncode == 2:
        cannot_run("sbatch", up.stderr.strip())
    assert up.returncode == 0, up.stderr


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The test cluster, up; the tests' own environment points at it. One that was up before stays up."""
    require("sbatch")
    folder = Path(os.environ.get("PTYCHO_TEST_CLUSTER", "/tmp/ptycho-test-cluster"))
    cluster = Cluster(folder, int(os.environ.get("PTYCHO_TEST_CLUSTER_PORT", "16800")))
    was_up = cluster.control("status").returncode == 0
    start(cluster)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.environment.items():
            patch.setenv(name, value)
        yield cluster
    if not was_up:
        down = cluster.control("down")
        assert down.returncode == 0, down.stderr


@pytest.fixture
def second_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Another cluster, up, to be stopped or broken by the test."""
    require("sbatch")
    cluster = Cluster(tmp_path / "cluster", port=18800)
    start(cluster)
    yield cluster
    cluster.control("down")
