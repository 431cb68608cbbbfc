"""Training: learns, repeats, obeys the configuration, stops and goes on as if it had never stopped."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from ptycho.errors import CancelledError, ModelError, WorkError
from ptycho.parallel import SerialRanks
from ptycho_torch.pinn.checkpoint import FILE_NAME
from ptycho_torch.pinn.inference import infer_patches, mean_photons
from ptycho_torch.pinn.progress import SilentReport
from ptycho_torch.pinn.training import train
from tests.pinn.pinn_scans import cpu, small_config, small_scan

ROOT = Path(__file__).parents[2]


class _Report(SilentReport):
    def __init__(self):
        self.epochs, self.messages, self.checkpoints = [], [], 0

    def epoch(self, stage, epoch, n_epochs, **numbers):
        self.epochs.append((epoch, n_epochs, numbers))

    def message(self, text):
        self.messages.append(text)

    def checkpoint(self, stage, epoch):
        self.checkpoints += 1


class _Seen(Callback):
    """Notes the optimiser's state at every step."""

    def __init__(self):
        self.rates, self.optimizer = [], None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.optimizer = trainer.optimizers[0]
        self.rates.append(self.optimizer.param_groups[0]["lr"])


def stop_after(n_batches):
    left = iter(range(n_batches))
    return lambda: next(left, None) is None


def weights_of(model):
    return torch.cat([value.flatten().double() for value in model.network.state_dict().values()])


def run(scan=None, execution=None, seed=0, validation_fraction=0.0, **changes):
    options = {
        name: changes.pop(name)
        for name in ("checkpoint_dir", "report", "should_stop", "callbacks", "checkpoint_every_s")
        if name in changes
    }
    scan = scan or small_scan()
    config = small_config(n_groups=scan.n_positions, **changes)
    return train(scan, config, execution or cpu(), seed=seed, validation_fraction=validation_fraction, **options)


def test_training_improves_on_the_guess_and_far_on_a_constant_object():
    report = _Report()
    model = run(gridsize=2, nepochs=6, report=report, execution=cpu(learning_rate=4e-3))
    metrics = model.metrics
    assert metrics["loss"] < 0.7 * metrics["loss_guess"] < 0.3 * metrics["loss_constant"]
    assert model.beats_constant
    assert not report.messages
    assert [row[:2] for row in report.epochs] == [(n, 6) for n in range(1, 7)]
    assert {"loss", "deviance", "learning_rate", "patterns_per_s", "seconds"} <= set(report.epochs[0][2])
    assert model.history[-1]["loss"] < model.history[0]["loss"]


def test_supervised_training_approaches_the_true_patches():
    model = run(gridsize=1, model_type="supervised", nepochs=6, execution=cpu(learning_rate=3e-3))
    assert model.metrics["loss"] < 0.8 * model.metrics["loss_guess"]


def test_supervised_training_without_truth_is_refused():
    scan = small_scan()
    object.__setattr__(scan, "truth", None)
    with pytest.raises(ModelError, match="no known object"):
        run(scan, model_type="supervised")


def test_the_same_seed_repeats_and_another_does_not():
    one, again, other = (weights_of(run(seed=seed)) for seed in (4, 4, 5))
    assert (one == again).all()
    assert (one != other).any()


def test_training_leaves_the_process_as_it_was():
    state = torch.get_rng_state()
    handler = signal.getsignal(signal.SIGTERM)
    run(nepochs=1)
    assert (torch.get_rng_state() == state).all()
    assert signal.getsignal(signal.SIGTERM) == handler
    assert not torch.are_deterministic_algorithms_enabled()


def test_sigterm_reaches_the_handler_that_was_there_before():
    heard = []
    previous = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))

    class _Kill(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    try:
        with pytest.raises(CancelledError):
            run(callbacks=[_Kill()], should_stop=lambda: bool(heard))
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert heard == [1]


def test_validation_is_reported_and_the_best_epoch_is_kept():
    report = _Report()
    model = run(small_scan(side=12, step_px=4.0), validation_fraction=0.06, nepochs=3, report=report)
    losses = [numbers["val_loss"] for _, _, numbers in report.epochs]
    assert model.metrics["loss"] == pytest.approx(min(losses), rel=1e-4)


def test_early_stopping_ends_the_training():
    execution = cpu(early_stop_patience=1, learning_rate=1e-12)
    model = run(small_scan(side=12, step_px=4.0), execution, validation_fraction=0.06, nepochs=9, optimizer="sgd")
    assert model.metrics["epochs"] < 9


def test_learning_rate_and_optimiser_of_the_configuration_are_those_of_the_optimiser():
    seen = _Seen()
    run(
        execution=cpu(learning_rate=0.0123),
        optimizer="sgd",
        momentum=0.77,
        weight_decay=1e-4,
        nepochs=1,
        callbacks=[seen],
        gradient_clip_val=1e-3,
    )
    assert isinstance(seen.optimizer, torch.optim.SGD)
    group = seen.optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.0123, 0.77, 1e-4)
    seen = _Seen()
    run(optimizer="adamw", adam_beta1=0.8, adam_beta2=0.9, nepochs=1, callbacks=[seen])
    assert isinstance(seen.optimizer, torch.optim.AdamW)
    assert seen.optimizer.param_groups[0]["betas"] == (0.8, 0.9)


@pytest.mark.parametrize("where", ["training", "execution"])
def test_a_schedule_set_anywhere_is_followed(where):
    seen = _Seen()
    name = "WarmupCosine"
    execution = cpu(learning_rate=1e-3, **({"scheduler": name} if where == "execution" else {}))
    changes = {"scheduler": name} if where == "training" else {}
    run(execution=execution, nepochs=4, lr_warmup_epochs=1, lr_min_ratio=0.1, callbacks=[seen], **changes)
    steps = len(seen.rates) // 4
    assert seen.rates[0] == pytest.approx(1e-3 / steps)
    assert max(seen.rates) == pytest.approx(1e-3)
    assert np.argmax(seen.rates) == steps - 1
    assert seen.rates[-1] == pytest.approx(1e-4, rel=0.3)


def test_exponential_schedule_ends_at_the_smallest_ratio():
    seen = _Seen()
    run(nepochs=3, scheduler="Exponential", lr_min_ratio=0.01, callbacks=[seen])
    ratios = np.diff(np.log(seen.rates))
    assert np.allclose(ratios, ratios[0])
    assert seen.rates[-1] / seen.rates[0] == pytest.approx(0.01 ** (1 - 1 / len(seen.rates)))


def test_plateau_schedule_lowers_the_rate_when_nothing_improves():
    seen = _Seen()
    changes = {"scheduler": "ReduceLROnPlateau", "plateau_patience": 0, "plateau_min_lr": 0.0, "plateau_threshold": 0.9}
    run(nepochs=3, execution=cpu(learning_rate=1e-6), callbacks=[seen], **changes)
    assert seen.rates[0] == 1e-6
    assert seen.rates[-1] == pytest.approx(0.5e-6)


def test_gradients_accumulate_over_batches():
    class _Steps(Callback):
        def on_train_end(self, trainer, pl_module):
            self.steps = trainer.global_step

    seen = _Steps()
    run(nepochs=2, execution=cpu(accum_steps=3), callbacks=[seen])
    # 25 groups in batches of at most 8: four batches, two steps, in each epoch.
    assert seen.steps == 4


def test_probe_and_intensity_train_only_when_asked_to():
    fixed = run(nepochs=1, probe_trainable=False, intensity_scale_trainable=False).network
    free = run(nepochs=1, probe_trainable=True, intensity_scale_trainable=True).network
    assert fixed.log_intensity == 0
    assert free.log_intensity != 0
    assert (fixed.probe != free.probe).any()


def test_the_probe_trains_as_fast_at_every_dose():
    def change(photons):
        scan = small_scan(photons=photons, noise=False)
        wrong = (scan.probe * np.exp(0.5j * np.abs(scan.probe) / np.abs(scan.probe).max())).astype(np.complex64)
        object.__setattr__(scan, "probe", wrong)
        trained = run(scan, nepochs=1, probe_trainable=True).probe
        start = wrong * np.linalg.norm(trained) / np.linalg.norm(wrong)
        return np.linalg.norm(trained - start) / np.linalg.norm(start)

    assert change(1e6) == pytest.approx(change(1e4), rel=0.3)
    assert change(1e6) > 0.005


def test_two_probe_modes_and_a_mask_train():
    scan = small_scan(modes=2)
    mask = np.ones((32, 32), bool)
    mask[:4] = False
    object.__setattr__(scan, "mask", mask)
    model = run(scan, gridsize=2, nepochs=2)
    assert model.metrics["loss"] < model.metrics["loss_guess"]


def test_a_loss_that_is_not_finite_ends_training_and_keeps_the_last_checkpoint(tmp_path):
    class _Poison(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == 1:
                with torch.no_grad():
                    pl_module.network.generator.last.bias.fill_(torch.nan)

    with pytest.raises(WorkError, match=r"not a finite number in epoch 2, batch 1; lower"):
        run(nepochs=3, checkpoint_dir=tmp_path, callbacks=[_Poison()])
    state = torch.load(tmp_path / FILE_NAME, weights_only=True)
    assert state["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in state["weights"].values())


def test_weights_that_a_lost_gradient_has_spoilt_are_never_saved(tmp_path):
    class _Poison(Callback):
        def on_after_backward(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                pl_module.network.generator.last.bias.grad.fill_(torch.nan)

    with pytest.raises(WorkError, match=r"weights are not finite numbers after 1 epochs; lower"):
        run(nepochs=3, checkpoint_dir=tmp_path, checkpoint_every_s=0.0, callbacks=[_Poison()])
    state = torch.load(tmp_path / FILE_NAME, weights_only=True)
    assert all(torch.isfinite(value).all() for value in state["weights"].values())


def test_ending_no_better_than_a_constant_object_is_said():
    class _Spoil(Callback):
        def on_train_end(self, trainer, pl_module):
            with torch.no_grad():
                pl_module.network.generator.last.bias.fill_(5.0)

    report = _Report()
    model = run(nepochs=1, callbacks=[_Spoil()], report=report)
    assert not model.beats_constant
    assert "no better than a constant object" in report.messages[0]


@pytest.mark.parametrize(
    "n_batches", [2, pytest.param(4, marks=pytest.mark.slow), pytest.param(6, marks=pytest.mark.slow)]
)
def test_stopping_and_going_on_equals_never_stopping(tmp_path, n_batches):
    changes = {"gridsize": 2, "nepochs": 3, "scheduler": "WarmupCosine", "probe_trainable": True}
    whole = run(**changes)
    with pytest.raises(CancelledError, match="its state is saved"):
        run(**changes, checkpoint_dir=tmp_path, should_stop=stop_after(n_batches))
    report = _Report()
    model = run(**changes, checkpoint_dir=tmp_path, report=report)
    assert torch.allclose(weights_of(model), weights_of(whole), rtol=0, atol=1e-6)
    assert report.epochs[0][0] == (n_batches + 1) // 5 + 1
    for before, after in zip(whole.history, model.history, strict=True):
        assert after["loss"] == pytest.approx(before["loss"], rel=1e-6)


def test_a_finished_training_is_not_repeated(tmp_path):
    first = run(nepochs=1, checkpoint_dir=tmp_path)
    report = _Report()
    again = run(nepochs=1, checkpoint_dir=tmp_path, report=report)
    assert not report.epochs
    assert (weights_of(first) == weights_of(again)).all()
    assert again.metrics == first.metrics


def test_plateau_and_early_stopping_survive_a_restart(tmp_path):
    changes = {"nepochs": 4, "scheduler": "ReduceLROnPlateau", "plateau_patience": 0, "plateau_threshold": 0.9}
    execution = cpu(learning_rate=1e-4)
    whole = run(execution=execution, **changes)
    with pytest.raises(CancelledError):
        run(execution=execution, **changes, checkpoint_dir=tmp_path, should_stop=stop_after(12))
    model = run(execution=execution, **changes, checkpoint_dir=tmp_path)
    assert torch.allclose(weights_of(model), weights_of(whole), rtol=0, atol=1e-6)


def test_a_checkpoint_of_another_training_or_a_broken_one_is_refused(tmp_path):
    run(nepochs=1, checkpoint_dir=tmp_path)
    with pytest.raises(WorkError, match="other settings"):
        run(nepochs=1, checkpoint_dir=tmp_path, seed=9)
    (tmp_path / FILE_NAME).write_bytes(b"torn")
    with pytest.raises(WorkError, match="cannot be read"):
        run(nepochs=1, checkpoint_dir=tmp_path)


def test_no_checkpoints_when_they_are_switched_off(tmp_path):
    run(nepochs=1, checkpoint_dir=tmp_path, execution=cpu(enable_checkpointing=False))
    assert not list(tmp_path.iterdir())


def test_a_scan_that_does_not_fit_is_refused():
    with pytest.raises(ModelError, match=r"model.N = 64, but the frames of small are 32"):
        run(N=64)
    scan = small_scan()
    object.__setattr__(scan, "probe", None)
    with pytest.raises(ModelError, match="no probe"):
        run(scan)


def test_a_different_dose_of_the_same_sample_gives_the_same_contrast():
    bright, dim = small_scan(photons=1e6), small_scan(photons=1e5)
    model = run(bright, gridsize=2, nepochs=2)
    everything = np.arange(bright.n_positions)

    def patches(scan):
        photons = mean_photons(scan, everything, SerialRanks())
        return torch.cat([batch.patches for batch in infer_patches(model, scan, everything, photons=photons)])

    weight = model.network.weight
    at_bright, at_dim = patches(bright), patches(dim)
    contrasts = [float((p.abs() * weight).sum() / weight.sum() / len(p)) for p in (at_bright, at_dim)]
    assert contrasts[1] == pytest.approx(contrasts[0], rel=0.02)


CHILD = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from ptycho.parallel import find_ranks
from ptycho_torch.pinn.progress import SilentReport
from ptycho_torch.pinn.training import train
from tests.pinn.pinn_scans import cpu, small_config, small_scan

class Report(SilentReport):
    def checkpoint(self, stage, epoch):
        print("saved", flush=True)

ranks = find_ranks()
scan = small_scan()
config = small_config(gridsize=2, n_groups=scan.n_positions, nepochs=3)
folder = Path(sys.argv[1])
report = Report() if ranks.rank == 0 else SilentReport()
model = train(scan, config, cpu(), seed=0, validation_fraction=0.0, ranks=ranks,
              checkpoint_dir=folder, checkpoint_every_s=0.0, report=report)
if ranks.rank == 0:
    torch.save(model.network.state_dict(), folder / "weights.pt")
ranks.close()
"""


def start(folder, rank=0, size=1, port=0):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if size > 1:
        environment |= {
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    # Slurm's own variables must not make Lightning take over.
    environment |= {"SLURM_NTASKS": "7", "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "3"}
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def start_all(folder, size):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [start(folder, rank, size, port) for rank in range(size)]


def finish(children):
    for child in children:
        child.communicate(timeout=900)
    assert [child.returncode for child in children] == [0] * len(children)


def kill_after(children, n_checkpoints):
    for _ in range(n_checkpoints):
        assert children[0].stdout.readline() == "saved\n"
    for child in children:
        child.kill()
    for child in children:
        child.communicate()


@pytest.mark.slow
def test_killed_in_the_middle_of_an_epoch_and_resumed_equals_never_killed(tmp_path):
    whole = run(gridsize=2, nepochs=3)
    children = start_all(tmp_path, 1)
    kill_after(children, 7)
    state = torch.load(tmp_path / FILE_NAME, weights_only=True)
    assert (state["epoch"], state["batch"]) >= (1, 1)
    assert not state["finished"]
    model = run(gridsize=2, nepochs=3, checkpoint_dir=tmp_path)
    assert torch.allclose(weights_of(model), weights_of(whole), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_two_ranks_killed_and_resumed_equal_two_ranks_and_nearly_one(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    kill_after(start_all(killed, 2), 7)
    finish(start_all(killed, 2))
    finish(start_all(whole, 2))
    resumed, never = (torch.load(folder / "weights.pt", weights_only=True) for folder in (killed, whole))
    for name, value in never.items():
        assert torch.allclose(resumed[name], value, rtol=0, atol=1e-6), name
    single = run(gridsize=2, nepochs=3).network.state_dict()
    for name, value in never.items():
        assert torch.allclose(single[name], value, rtol=0, atol=2e-3), name
