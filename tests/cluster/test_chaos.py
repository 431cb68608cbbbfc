"""Runs that are hit again and again, at random moments of every stage, end as if nothing had happened."""

import json
import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from ptycho.data.image import read_image
from ptycho.jobs.events import EventFollower
from ptycho.jobs.ranks_record import read_records
from ptycho.jobs.run_folder import RunFolder
from tests.end_to_end import whole_runs

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SEED = 3
TRAINING_EPOCHS, REFINE_EPOCHS = 4, 14
# One frame at a time makes "reconstruct" long enough to be hit.
SETTINGS = {
    "model.gridsize": 1, "training.nepochs": TRAINING_EPOCHS,
    "refine.epochs": REFINE_EPOCHS, "refine.stop_at_plateau": "false",
    "execution.inference_batch_size": 1, "resources.ranks_per_node": 2, "resources.max_requeues": 20,
}  # fmt: skip
# The first run lives on n1 alone; n2 dies, or is taken away by another job, under the second one only.
RUNS = {
    "one-node": {"resources.extra_sbatch": '["--nodelist=n1"]'},
    "two-nodes": {"resources.nodes": 2},
}
N_RANKS = {"one-node": 2, "two-nodes": 4}
KINDS = {
    "one-node": ("one rank", "all ranks", "USR2", "scontrol requeue"),
    "two-nodes": ("one rank", "node", "preemption", "USR2"),
}
# Signals that only ask a run to stop, and how Slurm sends them.
WARNING = signal.SIGUSR2

MOST_S_UNTIL_ALL_HAVE_ENDED = 60.0
# Only so that a test that hangs ends some day: how long Slurm lets a job wait says nothing about the run.
MOST_S_UNTIL_IT_GOES_ON = 1200.0


@dataclass(frozen=True)
class Hit:
    """What hit a run, where it was, seconds until all its ranks had ended, and until it worked again."""

    run: str
    kind: str
    stage: str
    epoch: int
    ended_s: float
    went_on_s: float


def plan(kinds, draw):
    """(kind, stage, epoch) of every hit, each further on in the run than the one before; every kind at least once."""
    epochs = [("train", (1, 2)), ("train", (3,)), ("reconstruct", (None,)), ("refine", range(1, 5))]
    epochs += [("refine", range(8, 12)), ("evaluate", (None,))]
    places = [(stage, draw.choice(among)) for stage, among in epochs]
    chosen = [*kinds, *draw.choices(kinds, k=len(places) - len(kinds))]
    draw.shuffle(chosen)
    return [(kind, *place) for kind, place in zip(chosen, places, strict=True)]


def settings(values):
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


class Victim:
    """A submitted run."""

    def __init__(self, cluster, folder, name, draw):
        self.cluster, self.name, self.draw = cluster, name, draw
        spec = whole_runs.write_spec(folder, name=name)
        options = settings({**SETTINGS, **RUNS[name], "resources.executor": "slurm"})
        done = whole_runs.ptycho("submit", spec, *options, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        self.folder = RunFolder(whole_runs.only_run(spec))
        self.job_id = json.loads(self.folder.launch_path.read_text())["job_id"]
        self.follower = EventFollower(self.folder.events_path)
        self.stage, self.epoch = "", None
        self.hit_at = ("", 0)

    def suffer(self, kind, stage, epoch):
        """Let the run come to this place, hit it, and wait until it works again."""
        if epoch is None:
            self.wait_for(lambda event: event["event"] == "stage" and event["stage"] == stage)
        else:
            # Two deaths without an epoch in between would be final.
            epoch = max(epoch, self.hit_at[1] + 1) if self.hit_at[0] == stage else epoch
            self.wait_for(lambda event: event["event"] == "epoch" and self.is_past(event, stage, epoch))
            time.sleep(self.draw.uniform(0, 0.2))
        ranks = [record.process.pid for record in read_records(self.folder)]
        # Held still while Slurm takes its time, so that they are hit here and not a stage later.
        send(signal.SIGSTOP, ranks)
        self.look()
        place = self.hit_at = self.stage, self.epoch or 0
        getattr(self, kind.replace(" ", "_"))(ranks)
        hit_s = time.monotonic()
        send(signal.SIGCONT, ranks)
        wait_until(
            lambda: not any(map(is_alive, ranks)),
            MOST_S_UNTIL_ALL_HAVE_ENDED,
            lambda: f"{kind} in {place}\n{self.survivors(ranks)}",
        )
        ended_s = time.monotonic() - hit_s
        if kind == "node":
            self.cluster.control("restore-node", "n2")
        self.wait_for(lambda event: event["event"] == "started")
        self.wait_for(lambda event: event["event"] in ("epoch", "progress", "result", "finished"))
        return Hit(self.name, kind, *place, ended_s, time.monotonic() - hit_s)

    @staticmethod
    def is_past(event, stage, epoch):
        return event["stage"] == stage and event["epoch"] >= epoch

    def one_rank(self, ranks):
        send(signal.SIGKILL, [self.draw.choice(ranks)])

    def all_ranks(self, ranks):
        send(signal.SIGKILL, ranks)

    def USR2(self, ranks):  # noqa: N802
        self.cluster.run("scancel", f"--signal={WARNING.name}", self.job_id)
        wait_until(lambda: all(is_pending(WARNING, pid) for pid in ranks), 60, "no signal has come")

    def scontrol_requeue(self, ranks):
        self.cluster.run("scontrol", "requeue", self.job_id)

    def node(self, ranks):
        self.cluster.control("kill-node", "n2")

    def preemption(self, ranks):
        self.cluster.submit("sleep 1", self.folder.path, "--partition=high", "--nodelist=n2", "--exclusive")
        wait_until(lambda: all(is_pending(WARNING, pid) for pid in ranks), 60, "no signal has come")

    def look(self):
        """The newest events; remembers the place that they tell."""
        events = list(self.follower.new_events())
        for event in events:
            if event["event"] == "stage":
                self.stage, self.epoch = event["stage"], None
            elif event["event"] == "epoch":
                self.epoch = event["epoch"]
        return events

    def wait_for(self, is_it):
        wait_until(lambda: any(is_it(event) for event in self.look()), MOST_S_UNTIL_IT_GOES_ON, self.story)

    def story(self):
        logs = [path.read_text()[-2000:] for path in sorted(self.folder.path.glob("submitit/*/*_log.*"))]
        return "\n".join([str(self.cluster.job(self.job_id)), f"{self.stage} {self.epoch}", *logs])

    def survivors(self, ranks):
        """Which ranks still live, and where: a rank writes the stacks of its threads to its log when it aborts."""
        living = [pid for pid in ranks if is_alive(pid)]
        send(signal.SIGABRT, living)
        time.sleep(1)
        logs = [f"{path.name}\n{path.read_text()[-4000:]}" for path in sorted(self.folder.logs.glob("rank-*"))]
        return "\n".join([f"ranks {ranks}, alive {living}", *logs])

    def rows(self):
        return [json.loads(line) for line in self.folder.metrics_path.read_text().splitlines()]


def wait_until(is_so, seconds, complaint):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, complaint() if callable(complaint) else complaint
        time.sleep(0.003)


def send(number, pids):
    for pid in pids:
        if is_alive(pid):
            os.kill(pid, number)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def is_pending(number, pid):
    """Whether a held process will get this signal when it goes on; also true of one that has ended."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:
        return True
    return bool((int(lines["SigPnd"], 16) | int(lines["ShdPnd"], 16)) >> (number - 1) & 1)


def live_through(cluster, folder, name, draw):
    """Submit a run and hit it as planned, until it ends: the victim and its hits."""
    victim = Victim(cluster, folder, name, draw)
    hits = [victim.suffer(*blow) for blow in plan(KINDS[name], draw)]
    wait_until(lambda: cluster.job(victim.job_id)["JobState"] == "COMPLETED", MOST_S_UNTIL_IT_GOES_ON, victim.story)
    return victim, hits


def run_in_peace(folder, n_ranks):
    """The folder of the same run on so many ranks of this machine, which nothing hits."""
    spec = whole_runs.write_spec(folder, name=f"in-peace-{n_ranks}")
    options = settings({**SETTINGS, "resources.ranks_per_node": n_ranks})
    done = whole_runs.ptycho("run", spec, *options, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return whole_runs.only_run(spec)


def differences(run, reference):
    """Of the network's image, and of the final object and probe, relative to those of a run that was never hit."""
    pairs = [(read_image(folder / name) for folder in (run, reference)) for name in ("network.h5", "refined.h5")]
    (network, whole_network), (final, whole_final) = pairs
    return [
        whole_runs.relative_difference(network.object, whole_network.object),
        whole_runs.relative_difference(final.object, whole_final.object),
        whole_runs.relative_difference(final.probe, whole_final.probe),
    ]


def table(hits, worst):
    lines = [
        f"{'run':10s} {'hit by':17s} {'in stage':12s} {'epoch':>5s} {'ended s':>8s} {'on again s':>10s} difference"
    ]
    for hit in hits:
        where = f"{hit.stage:12s} {hit.epoch or '':>5}"
        times = f"{hit.ended_s:8.1f} {hit.went_on_s:10.1f}"
        lines.append(f"{hit.run:10s} {hit.kind:17s} {where} {times} {worst[hit.run]:.1e}")
    return "\n".join(["", *lines, ""])


def test_runs_that_are_hit_twelve_times_in_every_stage_end_with_the_image_of_runs_that_were_not(
    cluster, tmp_path, capsys
):
    whole_runs.simulate(tmp_path / "scan.h5", n_positions=72, patch_size=32, step_px=4, jitter_px=1)
    with ThreadPoolExecutor(4) as pool:
        lives = [pool.submit(live_through, cluster, tmp_path, name, random.Random(f"{SEED} {name}")) for name in RUNS]
        references = {name: pool.submit(run_in_peace, tmp_path, n_ranks) for name, n_ranks in N_RANKS.items()}
    victims = [life.result()[0] for life in lives]
    hits = [hit for life in lives for hit in life.result()[1]]
    worst = {victim.name: max(differences(victim.folder.path, references[victim.name].result())) for victim in victims}
    with capsys.disabled():
        sys.stdout.write(table(hits, worst))
    assert len(hits) >= 12
    assert {hit.kind for hit in hits} == {kind for kinds in KINDS.values() for kind in kinds}
    assert {hit.stage for hit in hits} == {"train", "reconstruct", "refine", "evaluate"}
    assert max(worst.values()) <= 1e-6
    epochs = [("train", n + 1) for n in range(TRAINING_EPOCHS)] + [("refine", n + 1) for n in range(REFINE_EPOCHS)]
    for victim in victims:
        assert [(row["stage"], row["epoch"]) for row in victim.rows()] == epochs
        state = victim.folder.read_state()
        assert (state["status"], state["n_ranks"]) == ("finished", N_RANKS[victim.name])
