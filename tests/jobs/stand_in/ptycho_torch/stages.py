"""Stages that do nothing but count, save and stop as real ones do; what goes wrong is asked for by the run's name."""

import json
import os
import signal
import time

import numpy as np

from ptycho.errors import WorkError

N_EPOCHS = 6


def train(context):
    count_epochs(context, "train")
    context.folder.model.joinpath("wts.h5.zip").write_text("weights")


def reconstruct(context):
    context.report.progress("reconstruct", 1, 1)
    context.folder.network_path.write_text("network")


def refine(context):
    count_epochs(context, "refine")


def evaluate(context):
    if context.ranks.rank == 0:
        context.folder.result_path.write_text("image")
        context.folder.report_path.write_text("<html></html>")
        context.report.result(r_factor=0.163, n_ranks=context.ranks.size)


def count_epochs(context, stage):
    """Sum over ranks what every epoch adds; the total tells whether an epoch was lost or done twice."""
    saved = context.folder.checkpoints / f"{stage}.json"
    epoch, total = json.loads(saved.read_text()) if saved.exists() else (0, 0.0)
    while epoch < N_EPOCHS:
        if context.should_stop():
            return
        epoch += 1
        added = np.array([epoch * (context.ranks.rank + 1)], dtype=np.float64)
        misbehave(context, stage, epoch)
        context.ranks.all_sum(added)
        total += float(added[0])
        context.report.epoch(stage, epoch, N_EPOCHS, loss=total)
        if context.ranks.rank == 0:
            draft = saved.with_suffix(".draft")
            draft.write_text(json.dumps([epoch, total]))
            draft.replace(saved)
        context.report.checkpoint(stage, epoch)
        context.ranks.barrier()
        hold(context, epoch)


def hold(context, epoch):
    """After epoch 2 of the first attempt, wait to be stopped or killed."""
    if "held" in context.job.name and epoch == 2 and context.report.attempt == 1:
        while not context.should_stop():
            time.sleep(0.02)


def misbehave(context, stage, epoch):
    """In epoch 3 of the first attempt, on the last rank."""
    is_last = context.ranks.rank == context.ranks.size - 1
    if epoch != 3 or not is_last or context.report.attempt > 1:
        return
    if "raises" in context.job.name:
        raise WorkError("The engine diverged in epoch 3; lower object_step.")
    if "surprises" in context.job.name:
        raise ZeroDivisionError("division by zero")
    if "vanishes" in context.job.name:
        os.kill(os.getpid(), signal.SIGKILL)
