"""A run that is killed in any stage and resumed ends where a run that was never killed ends."""

import json

import pytest

from tests.end_to_end import whole_runs

pytestmark = pytest.mark.slow

MOMENTS = {
    "train, before its first epoch ends": lambda event: event["event"] == "progress" and event["stage"] == "train",
    "train, after an epoch": lambda event: event["event"] == "epoch" and event["stage"] == "train",
    "reconstruct": lambda event: event["event"] == "stage" and event["stage"] == "reconstruct",
    "refine": lambda event: event["event"] == "epoch" and event["stage"] == "refine" and event["epoch"] == 3,
    "evaluate": lambda event: event["event"] == "stage" and event["stage"] == "evaluate",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("killed")
    whole_runs.simulate(path / "scan.h5")
    return path


@pytest.fixture(scope="module")
def never_killed(folder):
    return whole_runs.finished_run(whole_runs.write_spec(folder, name="whole", ranks=2))


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_and_resumed_run_equals_one_that_was_never_killed(folder, never_killed, moment):
    spec = whole_runs.write_spec(folder, name="".join(filter(str.isalpha, moment)), ranks=2)
    run = whole_runs.run_until(spec, MOMENTS[moment])
    assert not (run / "result.h5").exists()

    resumed = whole_runs.ptycho("resume", run, cwd=folder)

    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    difference = whole_runs.relative_difference(whole_runs.object_of(run), whole_runs.object_of(never_killed))
    assert difference <= 1e-6
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [(row["stage"], row["epoch"]) for row in rows]
    assert epochs == [("train", n) for n in (1, 2, 3)] + [("refine", n) for n in range(1, 7)]
