"""The clocks of the ranks' machines, compared."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from ptycho.errors import RanksError
from ptycho.parallel import Ranks

# Clocks that are further apart are wrong, not merely uncorrected; Slurm's own credentials fail at five minutes.
MOST_APART_S = 60.0


def clock_ahead_s(ranks: Ranks, hosts: Mapping[int, str]) -> float:
    """How far this machine's clock is ahead of rank 0's, to about the time that a message takes.

    hosts: the machine of each rank, as far as known, for the message

    Every rank must call it. Raises RanksError on every rank when two clocks are further apart than MOST_APART_S: files
    would look older than what they were made from, and times in logs could not be put in order.
    """
    if ranks.size == 1:
        return 0.0
    ranks.barrier()
    here_s = time.time()
    ahead_s = np.zeros(ranks.size)
    ahead_s[ranks.rank] = here_s - ranks.broadcast(here_s)
    ranks.all_sum(ahead_s)
    worst = int(np.argmax(np.abs(ahead_s)))
    if abs(ahead_s[worst]) > MOST_APART_S:
        direction = "ahead of" if ahead_s[worst] > 0 else "behind"
        raise RanksError(
            f"The clock of {hosts.get(worst, '?')} (rank {worst}) is {abs(ahead_s[worst]):.0f} s {direction} that of"
            f" {hosts.get(0, '?')} (rank 0). Have the clocks set right, or leave that node out:"
            f' extra_sbatch = ["--exclude={hosts.get(worst, "NODE")}"].'
        )
    return float(ahead_s[ranks.rank])
