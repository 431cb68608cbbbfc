"""What two nodes with two ranks each compute of a real scan is what one process computes."""

import json
import subprocess
import sys

import pytest
import torch

from ptycho.data.image import read_image
from ptycho.jobs.resolve import open_job_scan
from ptycho.jobs.resolved_job import ResolvedJob
from ptycho.parallel import SerialRanks
from ptycho_torch.pinn.bundle import load_bundle
from ptycho_torch.stages.network import stitch_scan
from tests.end_to_end import whole_runs

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

DEMO = whole_runs.ROOT / "jobs" / "demo.toml"
# A quarter of the detector's pixels and one epoch fewer, to spare minutes.
SHORTER = ["--set", "data.crop_px=64", "--set", "training.nepochs=1"]
ALONE = ["--set", "resources.ranks_per_node=1"]
ON_CLUSTER = ["--set", "resources.executor=slurm", "--set", "resources.nodes=2"]


def start_demo(folder, *options):
    command = [sys.executable, "-m", "ptycho", "run", str(DEMO), *SHORTER, "--set", f"output.dir={folder}", *options]
    return subprocess.Popen(
        command, env=whole_runs.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def r_factor(folder):
    return json.loads((folder / "state.json").read_text())["result"]["r_factor"]


def test_the_demo_on_two_nodes_gives_the_image_that_one_process_gives(cluster, tmp_path):
    where = {"together": ON_CLUSTER, "alone": ALONE}
    demos = {name: start_demo(tmp_path / name, *options) for name, options in where.items()}
    output = {name: demo.communicate(timeout=1500)[0] for name, demo in demos.items()}
    assert [demo.returncode for demo in demos.values()] == [0, 0], output
    (four,), (one,) = ([*(tmp_path / name).iterdir()] for name in demos)

    launch = json.loads((four / "launch.json").read_text())
    assert cluster.accounted_states(launch["job_id"]) == ["COMPLETED"]
    hosts = [json.loads((four / "ranks" / f"rank-{n}.json").read_text())["process"]["host"] for n in range(4)]
    assert hosts == ["n1", "n1", "n2", "n2"]
    assert r_factor(four) == pytest.approx(r_factor(one), rel=0.02)

    scan = open_job_scan(ResolvedJob.read(four / "resolved.json").data)
    same_weights = stitch_scan(load_bundle(four / "model"), scan, SerialRanks(), torch.device("cpu"))
    image = read_image(four / "network.h5").object
    assert whole_runs.relative_difference(image, same_weights.object) <= 1e-5
