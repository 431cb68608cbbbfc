"""What two nodes with two ranks each compute is what one process computes."""

import json

import pytest

from ptycho.data.image import read_image
from tests.end_to_end import whole_runs

pytestmark = pytest.mark.slurm

ON_CLUSTER = ["--set", "resources.executor=slurm", "--set", "resources.nodes=2"]


def r_factor(folder):
    return json.loads((folder / "state.json").read_text())["result"]["r_factor"]


def test_two_nodes_give_the_image_that_one_process_gives(cluster, tmp_path):
    whole_runs.simulate(tmp_path / "scan.h5")
    local = whole_runs.finished_run(whole_runs.write_spec(tmp_path, name="local"))

    trained = whole_runs.write_spec(tmp_path, name="trained", ranks=2)
    done = whole_runs.ptycho("run", trained, *ON_CLUSTER, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = whole_runs.only_run(trained)
    launch = json.loads((folder / "launch.json").read_text())
    assert cluster.accounted_states(launch["job_id"]) == ["COMPLETED"]
    hosts = [json.loads((folder / "ranks" / f"rank-{n}.json").read_text())["process"]["host"] for n in range(4)]
    assert hosts == ["n1", "n1", "n2", "n2"]
    assert r_factor(folder) == pytest.approx(r_factor(local), rel=0.02)

    same_weights = ["--set", f"model.bundle={local}"]
    alone = whole_runs.write_spec(tmp_path, name="alone")
    together = whole_runs.write_spec(tmp_path, name="together", ranks=2)
    for spec, where in ((alone, []), (together, ON_CLUSTER)):
        done = whole_runs.ptycho("run", spec, *where, *same_weights, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    one, four = whole_runs.only_run(alone), whole_runs.only_run(together)
    image, reference = (read_image(run / "network.h5").object for run in (four, one))
    assert whole_runs.relative_difference(image, reference) <= 1e-5
    assert r_factor(four) == pytest.approx(r_factor(one), rel=0.02)
