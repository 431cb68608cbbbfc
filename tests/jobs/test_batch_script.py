"""The batch script: what Slurm is asked for, and what the script does when the ranks have ended."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ptycho.jobs.batch_script import Submission
from ptycho.jobs.json_file import write_json
from ptycho.jobs.launcher import Launch, start
from ptycho.jobs.new_series import new_series
from ptycho.jobs.series_launcher import start_series
from ptycho.jobs.spec import load_spec
from ptycho.jobs.status import read_status
from tests.jobs.small_runs import make_run, ptycho, write_program, write_spec
from tests.jobs.test_series import write_series

GOLDEN = Path(__file__).parent / "golden" / "two-nodes-of-four-gpus.sbatch"


def script_text(folder, job):
    return Submission(runs=[folder], job=job, folder=folder.path / "submitit" / "1", python=None).text()


WANTED = {
    "job__name": "star", "resources__executor": "slurm", "resources__nodes": 2, "resources__gpus_per_node": 4,
    "resources__cpus_per_rank": 16, "resources__memory_gb": 240, "resources__time_limit_min": 240,
    "resources__partition": "gpu", "resources__account": "beam", "resources__qos": "normal",
    "resources__constraint": "a100", "resources__reservation": "beamtime", "resources__exclusive": True,
    "resources__mail_user": "me@example.org", "resources__mail_type": ["END", "FAIL"],
    "resources__setup": ["module load cuda"], "resources__max_requeues": 5,
    "resources__extra_sbatch": ["--switches=1", "--contiguous"],
}  # fmt: skip


def test_a_dry_run_for_two_nodes_of_four_gpus_is_the_script_that_was_looked_at(tmp_path):
    done = ptycho("submit", write_spec(tmp_path, **WANTED), "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = done.stdout.replace(str(tmp_path / "runs" / "star-DATE-TIME"), "/runs/star")
    assert text.replace(sys.executable, "python").partition("\nrank  ")[0] == GOLDEN.read_text()


def test_the_script_that_is_shown_is_the_one_that_sbatch_gets(tmp_path, fake_slurm):
    folder, job = make_run(tmp_path, **WANTED)
    start(folder, job)
    assert (tmp_path / "script").read_text().rstrip() + "\n" == script_text(folder, job)


@pytest.fixture
def submitted_series(tmp_path, fake_slurm):
    """Submits a series of three scans, two at once; the series and the scripts that sbatch was handed, in order."""

    def submit():
        write_series(tmp_path, names=("a", "b", "c"))
        wanted = ["resources.executor=slurm", "resources.max_parallel_scans=2"]
        folder, _ = new_series(load_spec(tmp_path / "job.toml", wanted))
        (tmp_path / "asked").mkdir()
        count = f'n=$(ls {tmp_path}/asked | wc -l); cp "$1" {tmp_path}/asked/$n; echo "Submitted batch job 7$n"'
        write_program(tmp_path / "bin", "sbatch", count)
        write_program(tmp_path / "bin", "squeue", "exit 0")
        start_series(folder)
        return folder, [path.read_text() for path in sorted((tmp_path / "asked").iterdir())]

    return submit


def test_an_array_has_a_task_for_each_scan_and_asks_for_itself_alone(submitted_series):
    folder, (array, table) = submitted_series()
    assert "#SBATCH --array=0-2%2\n" in array
    assert "#SBATCH --job-name=beamtime\n" in array
    assert 'job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"' in array
    assert "#SBATCH --dependency=afterany:70\n" in table
    listed = (folder.submitit(1) / "scans" / "runs.txt").read_text().splitlines()
    assert listed == [str(run.path) for run in folder.runs()]
    assert [Launch.read(run).job_id for run in folder.runs()] == ["70_0", "70_1", "70_2"]
    assert [read_status(run).job_id for run in folder.runs()] == ["70_0", "70_1", "70_2"]


def test_more_scans_than_an_array_may_have_make_a_second_one_after_it(submitted_series, monkeypatch):
    monkeypatch.setattr("ptycho.jobs.series_launcher._ARRAY_TASKS", 2)
    folder, (first, second, table) = submitted_series()
    assert "#SBATCH --array=0-1%2\n" in first
    assert "#SBATCH --dependency=afterany:70\n" in second
    assert "#SBATCH --dependency=afterany:70:71\n" in table
    assert [Launch.read(run).job_id for run in folder.runs()] == ["70_0", "70_1", "71"]


def test_no_time_limit_leaves_it_to_the_partition(tmp_path):
    folder, job = make_run(tmp_path, resources__executor="slurm", resources__max_requeues=0)
    text = script_text(folder, job)
    assert "--time" not in text
    assert "#SBATCH --no-requeue" in text


def test_a_dry_run_shows_script_command_and_shares_and_writes_nothing(tmp_path):
    spec = write_spec(tmp_path, resources__executor="slurm", resources__nodes=2, resources__ranks_per_node=4)
    before = sorted(tmp_path.rglob("*"))
    done = ptycho("submit", spec, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --ntasks-per-node=4" in done.stdout
    assert "-u -m submitit.core._submit" in done.stdout
    assert "12 frames of 16 × 16 on 8 ranks." in done.stdout
    assert [line.split()[1:3] for line in done.stdout.splitlines() if line.endswith("MB")] == [
        [frames, "0"] for frames in "12121212"
    ]
    assert re.search(
        r"Memory: estimated \d+ MB for a rank: program \d+, frames 0, canvas 0, network 0, one step 0", done.stdout
    )
    assert "Time: unknown; " in done.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_no_option_of_sbatch_is_refused_before_anything_is_written(tmp_path):
    spec = write_spec(tmp_path, resources__extra_sbatch=["switches 1"])
    done = ptycho("check", spec, cwd=tmp_path)
    assert done.returncode == 2
    assert 'resources.extra_sbatch[0] = "switches 1": must be one option: --name' in done.stderr


class Ending:
    """A batch script whose ranks are replaced by a shell command; `asked` is what it asked of Slurm."""

    def __init__(self, folder, monkeypatch):
        for name in ("scontrol", "scancel"):
            write_program(folder / "bin", name, f'echo "{name} $*" >> {folder}/asked')
        write_program(folder / "bin", "sleep", "exit 0")
        self.folder, self.path = folder, f"{folder / 'bin'}:/usr/bin:/bin"
        self.run, job = make_run(folder, resources__executor="slurm", resources__max_requeues=3)
        self.logs = self.run.path / "submitit" / "1"
        self.logs.mkdir(parents=True)
        self.text = script_text(self.run, job)

    def ranks(self, *statuses):
        return "".join(f"cp {self._record(status)} $run/ranks/rank-{n}.json;" for n, status in enumerate(statuses))

    def _record(self, status):
        path = self.folder / f"{status}.json"
        write_json(path, {"status": status})
        return path

    def after(self, ranks, restarts=0):
        lines = [line if not line.startswith("srun ") else f"({ranks})" for line in self.text.splitlines()]
        environment = {"PATH": self.path, "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
        done = subprocess.run(["bash", "-c", "\n".join(lines)], env=environment, capture_output=True, text=True)
        asked = self.folder / "asked"
        words = asked.read_text() if asked.exists() else ""
        asked.unlink(missing_ok=True)
        return done.returncode, words.strip()


@pytest.fixture
def ending(tmp_path, monkeypatch):
    return Ending(tmp_path, monkeypatch)


def test_a_run_that_stopped_to_go_on_is_requeued_up_to_the_limit(ending):
    stopped = ending.ranks("cancelled") + "touch $run/requeue; exit 1"
    assert ending.after(stopped) == (1, "scontrol requeue 7")
    assert ending.after(stopped, restarts=2) == (1, "scontrol requeue 7")
    assert ending.after(stopped, restarts=3) == (1, "")


def test_killed_ranks_are_started_again_once_at_each_place(ending):
    killed = ending.ranks("failed", "running") + "exit 1"
    assert ending.after(killed) == (1, "scontrol requeue 7")
    assert ending.after(killed, restarts=1) == (1, "")
    ending.run.metrics_path.write_text("{}\n")
    assert ending.after(killed, restarts=1) == (1, "scontrol requeue 7")


def test_a_signal_before_the_first_record_is_a_kill_too(ending):
    assert ending.after("exit 137") == (137, "scontrol requeue 7")


def test_what_ranks_explained_success_and_a_lack_of_memory_are_final(ending):
    assert ending.after(ending.ranks("failed", "followed") + "exit 1") == (1, "")
    assert ending.after(ending.ranks("finished", "finished") + "exit 0") == (0, "")
    (ending.logs / "7_0_log.err").write_text("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.\n")
    assert ending.after(ending.ranks("running") + "exit 137") == (137, "")


def test_a_cancelled_run_ends_as_cancelled(ending):
    assert ending.after(ending.ranks("cancelled") + "touch $run/cancel; exit 1") == (1, "scancel 7")
