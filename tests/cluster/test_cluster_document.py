"""The commands of docs/running-on-a-cluster.md, as they stand there, on the test cluster."""

import json
import os
import subprocess
import sys
import time

import pytest

from tests.jobs.small_runs import ROOT, stand_in_environment, write_small_scan

pytestmark = pytest.mark.slurm


def commands():
    """The indented lines of the document, in order."""
    text = (ROOT / "docs" / "running-on-a-cluster.md").read_text()
    return [line.strip() for line in text.splitlines() if line.startswith("    ") and line[4] != " "]


def example_spec():
    """The spec that the document shows."""
    text = (ROOT / "docs" / "running-on-a-cluster.md").read_text()
    return text.partition("```toml\n")[2].partition("```")[0]


def test_every_command_of_the_document_works(cluster, tmp_path):
    write_small_scan(tmp_path / "my_scan.h5")
    (tmp_path / "my_series.toml").write_text(example_spec())
    (tmp_path / "scans").mkdir()
    for name in ("scan_1", "scan_2"):
        write_small_scan(tmp_path / "scans" / f"{name}.h5")
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "ptycho"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ptycho "$@"\n')
    program.chmod(0o755)
    environment = stand_in_environment() | {
        "HOME": str(tmp_path), "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    }  # fmt: skip
    environment.pop("XDG_CONFIG_HOME", None)
    done = {}
    for command in commands():
        if command.startswith("scancel"):
            continue  # tried on a running job in test_cluster_jobs.py
        words = command.split()
        ended = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        allowed = (0, 3) if words[:2] in (["ptycho", "status"], ["ptycho", "logs"]) else (0,)
        assert ended.returncode in allowed, f"{command}\n{ended.stdout}\n{ended.stderr}"
        done[command] = ended.stdout
        if words[:2] == ["ptycho", "submit"] and "--dry-run" not in words and "my_scan.toml" in words:
            wait_for_a_log(cluster, tmp_path)
    assert any("#SBATCH --nodes=2" in text for command, text in done.items() if "--dry-run" in command)
    assert done["ptycho collect"].startswith("2 scans: 2 finished.")
    assert "2 scans: 2 finished" in done["ptycho status --watch"]
    assert "is finished already" in done["ptycho resume"]
    assert sum("Finished" in text for text in done.values()) == 2, "both MPI runs"


def wait_for_a_log(cluster, folder):
    """`logs` needs a rank's log, and the queue may hold the job for some seconds."""
    (launch,) = folder.glob("runs/*/launch.json")
    cluster.wait_for(json.loads(launch.read_text())["job_id"], "RUNNING", "COMPLETED")
    end = time.monotonic() + 300
    while not list(folder.glob("runs/*/logs/rank-0.log")):
        assert time.monotonic() < end
        time.sleep(0.2)
