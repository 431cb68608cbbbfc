"""Jobs inside the image: submitted from a machine without torch, on two nodes, preempted, and under srun with PMIx."""

import hashlib
import json
import subprocess
import sys
import time

import h5py
import pytest

from ptycho.jobs.run_folder import RunFolder
from tests.end_to_end.whole_runs import ROOT, simulate

pytestmark = [pytest.mark.container, pytest.mark.slurm]

SPEC = """
[job]
name = "{name}"
engine = "rpie"
seed = 3

[data]
scan = "scan.h5"

[refine]
epochs = {epochs}

[resources]
executor = "slurm"
ranks_per_node = 2
warning_s = 5

[container]
image = "{image}"
"""
# Loading torch from an image takes a few seconds on a quiet machine and minutes on a busy one.
PATIENCE_S = 900


def write_spec(folder, image, name, epochs):
    simulate(folder / "scan.h5", n_positions=64, patch_size=32)
    path = folder / f"{name}.toml"
    path.write_text(SPEC.format(name=name, image=image.path, epochs=epochs))
    return path


def ptycho(python, *arguments, cwd, env):
    command = [python, "-m", "ptycho", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def only_run(folder):
    (path,) = (folder / "runs").iterdir()
    return RunFolder(path)


def refine_epochs(folder):
    rows = folder.metrics_path.read_text().splitlines() if folder.metrics_path.exists() else []
    return [row["epoch"] for row in map(json.loads, rows) if row["stage"] == "refine"]


def provenance(folder):
    with h5py.File(folder.result_path) as file:
        return json.loads(file["provenance"][()])


@pytest.fixture
def environment(cluster, with_apptainer):
    return with_apptainer | cluster.environment | {"PATH": with_apptainer["PATH"]}


def test_the_demo_from_a_machine_without_torch_on_two_nodes(cluster, environment, image, without_torch, tmp_path):
    """The Siemens star, shortened: half the detector, an epoch on 64 groups, eight epochs of refinement."""
    assert subprocess.run([without_torch, "-c", "import torch"], capture_output=True).returncode != 0
    shorter = ["data.crop_px=64", "training.nepochs=1", "training.n_groups=64", "refine.epochs=8"]
    there = ["resources.executor=slurm", "resources.nodes=2", f"container.image={image.path}"]
    options = [word for value in (*shorter, *there) for word in ("--set", value)]
    ptycho(without_torch, "run", ROOT / "jobs" / "demo.toml", *options, cwd=tmp_path, env=environment)
    folder = only_run(tmp_path)
    job_id = json.loads(folder.launch_path.read_text())["job_id"]
    assert cluster.accounted_states(job_id) == ["COMPLETED"]
    hosts = [json.loads((folder.ranks / f"rank-{n}.json").read_text())["process"]["host"] for n in range(4)]
    assert hosts == ["n1", "n1", "n2", "n2"]
    result = folder.read_state()["result"]
    assert result["r_factor"] < 0.8 * result["flat_r_factor"]
    told = provenance(folder)
    assert told["image sha256"] == hashlib.sha256(image.path.read_bytes()).hexdigest()
    assert told["image"] == str(image.path)
    assert "Next:" in ptycho(without_torch, "status", folder.path, cwd=tmp_path, env=environment)


def test_a_preempted_run_inside_the_image_goes_on_and_finishes(cluster, environment, image, tmp_path):
    spec = write_spec(tmp_path, image, "long", epochs=200)
    ptycho(sys.executable, "submit", spec, cwd=tmp_path, env=environment)
    folder = only_run(tmp_path)
    job_id = json.loads(folder.launch_path.read_text())["job_id"]
    end = time.monotonic() + PATIENCE_S
    while len(refine_epochs(folder)) < 3:
        assert time.monotonic() < end, cluster.job(job_id)
        time.sleep(0.1)
    cluster.submit("sleep 1", tmp_path, "--partition=high", "--nodes=2", "--exclusive")
    cluster.wait_for(job_id, "PENDING", restarts=1, timeout_s=PATIENCE_S)
    saved = len(refine_epochs(folder))
    cluster.wait_for(job_id, "COMPLETED", restarts=1, timeout_s=PATIENCE_S)
    assert cluster.accounted_states(job_id) == ["PREEMPTED", "COMPLETED"]
    assert folder.read_state()["status"] == "finished"
    assert folder.read_state()["attempts"] == 2
    # Every epoch once; the engine may end before the last when nothing moves any more.
    epochs = refine_epochs(folder)
    assert epochs == list(range(1, len(epochs) + 1))
    assert len(epochs) > saved


def test_ranks_that_srun_starts_inside_the_image_meet_through_pmix(cluster, environment, image, tmp_path):
    spec = write_spec(tmp_path, image, "pmix", epochs=2)
    step = ["srun", "--mpi=pmix", "--nodes=2", "--ntasks-per-node=2", "--export=ALL"]
    inside = ["apptainer", "exec", f"--bind={tmp_path}", image.path, "ptycho", "run", spec, "--set", "output.dir=runs"]
    done = subprocess.run(
        [*step, *inside], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = only_run(tmp_path)
    assert folder.read_state()["n_ranks"] == 4
    labels = image.apptainer("inspect", str(image.path)).stdout
    assert provenance(folder)["image commit"] in labels


def test_ranks_on_this_machine_run_inside_the_image(with_apptainer, image, tmp_path):
    spec = write_spec(tmp_path, image, "local", epochs=2)
    ptycho(sys.executable, "run", spec, "--set", "resources.executor=local", cwd=tmp_path, env=with_apptainer)
    folder = only_run(tmp_path)
    inside = subprocess.run(
        [folder.path / "inside", "sh", "-c", f"echo $APPTAINER_CONTAINER; touch scan.h5; touch {folder.path}/here"],
        cwd=tmp_path, env=with_apptainer, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert inside.stdout.strip() == str(image.path)
    assert "scan.h5" in inside.stderr and "Read-only" in inside.stderr
    assert (folder.path / "here").exists()
    assert provenance(folder)["image"] == str(image.path)
