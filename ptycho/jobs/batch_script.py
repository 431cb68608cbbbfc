"""The batch script of a cluster job: what Slurm is asked for, and what happens when the ranks have ended."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptycho.jobs.json_file import write_text
from ptycho.jobs.resolved_job import ResolvedJob, Resources
from ptycho.jobs.run_folder import RunFolder

if TYPE_CHECKING:
    import submitit

# The ranks part in good order, so the first and the last end at almost the same time.
LAST_RANK_WITHIN_S = 20

# Run by the host's shell, not by the ranks, because inside a container there is no scontrol. A run that stopped to be
# continued left the file "requeue". Ranks that were killed left a record that says "running", or a signal's exit code;
# such a run is only started again when it has come further than at the last such end, so that it cannot go round for
# ever. What the ranks explained themselves is final, and so is a lack of memory.
_AFTER_RANKS = """\
code=$?
again=
if [ -e "$run/cancel" ]; then
    scancel "$job"; sleep 30
elif [ -e "$run/requeue" ]; then
    again="the run has saved its state"
elif [ "$code" -ge 128 ] || grep -qs '"status": "running"' "$run"/ranks/rank-*.json; then
    reached="$(cat "$run/metrics.jsonl" 2>/dev/null | wc -l) $(grep -c '"status": "done"' "$run/state.json")"
    if grep -qs -e 'oom.kill' -e 'Out Of Memory' "$log"; then echo "ptycho: not requeued: out of memory"
    elif [ "$reached" = "$(cat "$run/ranks/killed-at" 2>/dev/null)" ]; then
        echo "ptycho: not requeued: ranks were killed twice at the same place"
    else echo "$reached" > "$run/ranks/killed-at"; again="ranks were killed"; fi
fi
if [ -n "$again" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$max_requeues" ]; then
    echo "ptycho: requeued: $again"
    timeout 60 scontrol requeue "$job" && sleep 60
fi
exit $code"""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What one sbatch starts: a run, or an array of runs that share their resources.

    runs:       the run folders; more than one make a job array, a task each
    job:        whose resources they share
    folder:     submitit's own files, fresh for each submission
    python:     the command that stands for Python inside a container; None for this environment's
    name:       shown by squeue; unset: the job's
    at_once:    how many tasks of the array may run at the same time; None: all
    dependency: in Slurm's words, "afterok:12"; the job leaves the queue when it can never be met
    """

    runs: Sequence[RunFolder]
    job: ResolvedJob
    folder: Path
    python: str | None
    name: str = ""
    at_once: int | None = None
    dependency: str | None = None

    @property
    def list_path(self) -> Path:
        """The file that tells each task of an array its run folder, by line."""
        return self.folder / "runs.txt"

    def executor(self) -> submitit.SlurmExecutor:
        """submitit's executor with all that the job asks of Slurm."""
        import submitit

        executor = submitit.SlurmExecutor(self.folder, python=self.python)
        executor.update_parameters(**self._parameters())
        return executor

    def text(self) -> str:
        """The batch script that sbatch is handed; made without Slurm, so that it can be looked at anywhere."""
        import submitit

        class Writer(submitit.SlurmExecutor):
            @classmethod
            def affinity(cls) -> int:
                return 1

        executor: Any = Writer(self.folder, python=self.python)
        executor.update_parameters(**self._parameters())
        if len(self.runs) > 1:
            executor.parameters["map_count"] = len(self.runs)
        text: str = executor._make_submission_file_text(executor._submitit_command_str, "JOB")
        return text.rstrip() + "\n"

    def write_list(self) -> None:
        """Write the list of run folders, where there is more than one."""
        if len(self.runs) > 1:
            write_text(self.list_path, "".join(f"{run.path}\n" for run in self.runs))

    def _parameters(self) -> dict[str, Any]:
        resources = self.job.resources
        wanted = place_parameters(resources) | {
            "job_name": self.name or self.job.name,
            "nodes": resources.nodes,
            "ntasks_per_node": resources.ranks_per_node,
            "gpus_per_node": resources.gpus_per_node or None,
            "cpus_per_task": resources.cpus_per_rank,
            "mem": f"{resources.memory_gb:g}GB" if resources.memory_gb else None,
            "time": resources.time_limit_min,
            "exclusive": resources.exclusive or None,
            "signal_delay_s": resources.warning_s,
            "dependency": self.dependency,
            "array_parallelism": min(self.at_once or len(self.runs), len(self.runs)),
            "additional_parameters": self._further_options(),
            "srun_args": self._srun_options(),
            "setup": self._before_ranks(),
            "teardown": _AFTER_RANKS.splitlines(),
        }
        # submitit would take "no time" for five minutes; told None, it leaves the limit to the partition.
        return {key: value for key, value in wanted.items() if value is not None or key == "time"}

    def _further_options(self) -> dict[str, object]:
        resources = self.job.resources
        options: dict[str, object] = {"requeue" if resources.max_requeues else "no-requeue": True}
        if self.dependency:
            options["kill-on-invalid-dep"] = "yes"
        if resources.reservation:
            options["reservation"] = resources.reservation
        for line in resources.extra_sbatch or ():
            name, equals, value = line.removeprefix("--").partition("=")
            options[name] = value if equals else True
        return options

    def _srun_options(self) -> list[str]:
        # Ranks notice by themselves when one has died. One that hangs, or that never came to where it could notice, is
        # ended with the others; srun alone would wait for it for ever.
        options = [f"--wait={LAST_RANK_WITHIN_S}"]
        cpus = self.job.resources.cpus_per_rank
        # Since Slurm 22.05 srun no longer takes this from the job.
        return options + ([f"--cpus-per-task={cpus}"] if cpus else [])

    def _before_ranks(self) -> list[str]:
        if len(self.runs) > 1:
            # SLURM_JOB_ID of an array's last task is the number of the whole array.
            job = '"${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"'
            run = f'"$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(self.list_path))})"'
        else:
            job, run = '"$SLURM_JOB_ID"', shlex.quote(str(self.runs[0].path))
        log = shlex.quote(str(self.folder)) + '/"$job"_0_log.err'
        return [
            f"job={job} max_requeues={self.job.resources.max_requeues}",
            f"run={run}",
            f"log={log}",
            # What an earlier allocation left must not be read as this one's.
            'rm -f "$run"/ranks/rank-*.json "$run"/requeue',
            *(self.job.resources.setup or ()),
        ]


def place_parameters(resources: Resources) -> dict[str, Any]:
    """Where in the cluster a job may run, and who hears of it, in submitit's words."""
    return {
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "mail_user": resources.mail_user,
        "mail_type": ",".join(resources.mail_type) if resources.mail_type else None,
    }
