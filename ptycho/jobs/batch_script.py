"""The batch script of a cluster job: what Slurm is asked for, and what happens when the ranks have ended."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    scancel "$SLURM_JOB_ID"; sleep 30
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
    timeout 60 scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
exit $code"""


def script_text(folder: RunFolder, job: ResolvedJob, submitit_folder: Path, python: str | None) -> str:
    """The batch script as `start` hands it to sbatch; made without Slurm, so that it can be looked at anywhere."""
    import submitit

    class Writer(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 1

    executor: Any = Writer(submitit_folder, python=python)
    executor.update_parameters(**_parameters(folder, job, submitit_folder))
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "JOB")
    return text.rstrip() + "\n"


def cluster_executor(
    folder: RunFolder, job: ResolvedJob, submitit_folder: Path, python: str | None
) -> submitit.Executor:
    """submitit's executor with all that the job asks of Slurm.

    python: the command that stands for Python inside a container; None for this environment's
    """
    import submitit

    executor = submitit.SlurmExecutor(submitit_folder, python=python)
    executor.update_parameters(**_parameters(folder, job, submitit_folder))
    return executor


def _parameters(folder: RunFolder, job: ResolvedJob, submitit_folder: Path) -> dict[str, Any]:
    resources = job.resources
    wanted = {
        "job_name": job.name,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.ranks_per_node,
        "gpus_per_node": resources.gpus_per_node or None,
        "cpus_per_task": resources.cpus_per_rank,
        "mem": f"{resources.memory_gb:g}GB" if resources.memory_gb else None,
        "time": resources.time_limit_min,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "mail_user": resources.mail_user,
        "mail_type": ",".join(resources.mail_type) if resources.mail_type else None,
        "exclusive": resources.exclusive or None,
        "signal_delay_s": resources.warning_s,
        "additional_parameters": _further_options(resources),
        "srun_args": _srun_options(resources),
        "setup": _before_ranks(folder, resources, submitit_folder),
        "teardown": _AFTER_RANKS.splitlines(),
    }
    # submitit would take "no time" for five minutes; told None, it leaves the limit to the partition.
    return {key: value for key, value in wanted.items() if value is not None or key == "time"}


def _further_options(resources: Resources) -> dict[str, object]:
    options: dict[str, object] = {"requeue" if resources.max_requeues else "no-requeue": True}
    if resources.reservation:
        options["reservation"] = resources.reservation
    for line in resources.extra_sbatch or ():
        name, equals, value = line.removeprefix("--").partition("=")
        options[name] = value if equals else True
    return options


def _srun_options(resources: Resources) -> list[str]:
    # Ranks notice by themselves when one has died. One that hangs, or that never came to where it could notice, is
    # ended with the others; srun alone would wait for it for ever.
    options = [f"--wait={LAST_RANK_WITHIN_S}"]
    # Since Slurm 22.05 srun no longer takes this from the job.
    return options + ([f"--cpus-per-task={resources.cpus_per_rank}"] if resources.cpus_per_rank else [])


def _before_ranks(folder: RunFolder, resources: Resources, submitit_folder: Path) -> list[str]:
    run = shlex.quote(str(folder.path))
    log = shlex.quote(str(submitit_folder)) + '/"$SLURM_JOB_ID"_0_log.err'
    return [
        f"run={run} log={log} max_requeues={resources.max_requeues}",
        # What an earlier allocation left must not be read as this one's.
        'rm -f "$run"/ranks/rank-*.json "$run"/requeue',
        *(resources.setup or ()),
    ]
