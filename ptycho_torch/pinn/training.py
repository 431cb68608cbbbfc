"""Training: from a scan and a configuration to a trained model, over any number of ranks, resumable at any batch."""

from __future__ import annotations

import hashlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import Callback, Trainer
from numpy.typing import NDArray

from ptycho.config.config import PyTorchExecutionConfig, TrainingConfig
from ptycho.config.synthetic import SyntheticConfig
from ptycho.data.scan import Scan
from ptycho.errors import ModelError, WorkError
from ptycho.parallel import Ranks, SerialRanks
from ptycho_torch.device import rank_device
from ptycho_torch.pinn.baseline import final_metrics
from ptycho_torch.pinn.card import ModelCard
from ptycho_torch.pinn.checkpoint import TrainingState, config_facts, fingerprint_of
from ptycho_torch.pinn.datamodule import GroupDataModule
from ptycho_torch.pinn.environment import ranks_options
from ptycho_torch.pinn.module import PtychoPINN
from ptycho_torch.pinn.network import LINEAR, PtychoNetwork, prepared_probe
from ptycho_torch.pinn.progress import SilentReport, TrainingReport, TrainingWatch
from ptycho_torch.pinn.sampling import VALIDATION_FRACTION, choose_groups
from ptycho_torch.pinn.synthetic import SyntheticDataModule
from ptycho_torch.pinn.trained import TrainedModel
from ptycho_torch.pinn.window import lit_window
from ptycho_torch.ranks import ensure_process_group

log = logging.getLogger(__name__)

CHECKPOINT_EVERY_S = 60.0


def train(
    scan: Scan,
    config: TrainingConfig,
    execution: PyTorchExecutionConfig,
    *,
    seed: int = 0,
    validation_fraction: float = VALIDATION_FRACTION,
    ranks: Ranks | None = None,
    checkpoint_dir: Path | None = None,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    report: TrainingReport | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    callbacks: Sequence[Callback] = (),
    start: TrainedModel | None = None,
) -> TrainedModel:
    """The network trained on a scan: a function of scan, configuration and seed, whatever the number of ranks.

    validation_fraction: share of the frames held out, as one region; 0: none
    checkpoint_dir:     where the state is kept; training goes on from what is there
    checkpoint_every_s: how often, beside the end of every epoch, the state is written
    should_stop:        asked by every rank after every batch, and answered alike
    callbacks:          further Lightning callbacks
    start:              a model whose generator is trained on, instead of a fresh one

    Raises ModelError when model and scan do not fit, WorkError when the loss diverges or the disk is full, and
    CancelledError, its state saved, when it was asked to stop.
    """
    ranks = ranks or SerialRanks()
    ensure_process_group(ranks)
    if scan.probe is None:
        raise ModelError(f"{scan.name} has no probe, which the network needs; give a file that has one.")
    _require_same_size(scan, config)
    _require_something_to_train(config)
    window = lit_window(prepared_probe(scan.probe, config.model), config.model.probe_big)
    split = choose_groups(scan.positions_px, config, window, seed, validation_fraction)
    data = GroupDataModule(scan, split, config, execution, seed=seed, ranks=ranks, window=window)
    network = _seeded_network(config, scan.probe, data.mean_photons, scan.mask, seed)
    if start is not None:
        network.take_generator(start.network)
    loop = TrainingLoop(ranks, report or SilentReport(), checkpoint_dir, checkpoint_every_s, should_stop, callbacks)
    model = loop.run(network, data, config, execution, _scan_facts(scan, data, start), seed)
    n_patterns = len(model.history) * data.split.training.size
    return replace(model, card=ModelCard.of_scan(scan, data.mean_photons, n_patterns))


def train_on_scenes(
    synthetic: SyntheticConfig,
    config: TrainingConfig,
    execution: PyTorchExecutionConfig,
    *,
    seed: int = 0,
    ranks: Ranks | None = None,
    checkpoint_dir: Path | None = None,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    report: TrainingReport | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    callbacks: Sequence[Callback] = (),
    start: TrainedModel | None = None,
) -> TrainedModel:
    """The network trained on random scenes, for any scan; arguments, errors and promises as for `train`."""
    ranks = ranks or SerialRanks()
    ensure_process_group(ranks)
    _require_something_to_train(config)
    device = rank_device(str(execution.accelerator))
    data = SyntheticDataModule(synthetic, config, execution, seed=seed, ranks=ranks, device=device)
    network = _seeded_network(config, data.reference_probe().numpy(), data.mean_photons, None, seed)
    if start is not None:
        network.take_generator(start.network)
    facts: dict[str, object] = {"synthetic": data.facts(), "start": _digest(start)}
    loop = TrainingLoop(ranks, report or SilentReport(), checkpoint_dir, checkpoint_every_s, should_stop, callbacks)
    model = loop.run(network, data, config, execution, facts, seed)
    n_patterns = len(model.history) * synthetic.batches_per_epoch * config.batch_size * config.model.gridsize**2
    return replace(model, card=ModelCard.of_scenes(synthetic, n_patterns))


@dataclass(frozen=True)
class TrainingLoop:
    """How a training runs, whatever it is trained on."""

    ranks: Ranks
    report: TrainingReport
    checkpoint_dir: Path | None
    checkpoint_every_s: float
    should_stop: Callable[[], bool]
    callbacks: Sequence[Callback]

    def run(
        self,
        network: PtychoNetwork,
        data: GroupDataModule | SyntheticDataModule,
        config: TrainingConfig,
        execution: PyTorchExecutionConfig,
        facts: dict[str, object],
        seed: int,
    ) -> TrainedModel:
        """The trained model; `facts` are those that decide what is trained on."""
        module = _build_module(network, config, execution, data, self.ranks)
        folder = self.checkpoint_dir if execution.enable_checkpointing else None
        state = _earlier_state(folder, fingerprint_of(facts | _facts(config, execution, seed)), self.ranks)
        if state.weights:
            module.network.load_state_dict(state.weights)
        watch = TrainingWatch(
            state,
            self.ranks,
            self.report,
            self.should_stop,
            folder=folder,
            checkpoint_every_s=self.checkpoint_every_s,
            n_epochs=config.nepochs,
            batches_per_epoch=data.batches_per_epoch,
            group_size=config.model.gridsize**2,
            patience=execution.early_stop_patience,
            keep_best=execution.checkpoint_save_top_k != 0 and data.has_validation,
        )
        if not state.finished:
            data.resume_at(state.epoch, state.batch)
            _fit(module, data, watch, execution, self.ranks, config.nepochs - state.epoch, self.callbacks, folder)
        return _finish(module, data, state, self.ranks, self.report, rank_device(str(execution.accelerator)))


def _seeded_network(
    config: TrainingConfig,
    probe: NDArray[np.complex64],
    mean_photons: float,
    mask: NDArray[np.bool_] | None,
    seed: int,
) -> PtychoNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PtychoNetwork(config.model, probe, mean_photons, mask)


def _build_module(
    network: PtychoNetwork,
    config: TrainingConfig,
    execution: PyTorchExecutionConfig,
    data: GroupDataModule | SyntheticDataModule,
    ranks: Ranks,
) -> PtychoPINN:
    clip = (config.gradient_clip_val, config.gradient_clip_algorithm)
    if config.gradient_clip_val is None:
        clip = (execution.gradient_clip_val, execution.gradient_clip_algorithm)
    return PtychoPINN(
        network,
        config,
        learning_rate=execution.learning_rate,
        scheduler=config.scheduler if config.scheduler != "Default" else execution.scheduler,
        gradient_clip=clip,
        steps_per_epoch=math.ceil(data.batches_per_epoch / execution.accum_steps),
        n_ranks=ranks.size,
        own_probe=isinstance(data, GroupDataModule),
    )


def _require_something_to_train(config: TrainingConfig) -> None:
    if config.model.architecture == LINEAR:
        raise ModelError('Architecture "linear" has nothing to train; apply it, or choose another.')


def _require_same_size(scan: Scan, config: TrainingConfig) -> None:
    if scan.patch_size != config.model.N:
        raise ModelError(
            f"model.N = {config.model.N}, but the frames of {scan.name} are {scan.patch_size} pixels wide;"
            f" set model.N = {scan.patch_size} or crop the data."
        )


def _earlier_state(folder: Path | None, fingerprint: str, ranks: Ranks) -> TrainingState:
    """The state that rank 0 finds, on every rank; a fresh one where there is none."""
    if folder is None:
        return TrainingState(fingerprint)
    found: TrainingState | WorkError | None = None
    if ranks.rank == 0:
        try:
            found = TrainingState.load(folder, fingerprint)
        except WorkError as error:
            # Every rank has to hear of it, or the others would wait for rank 0 in the next collective.
            found = error
    state = ranks.broadcast(found)
    if isinstance(state, WorkError):
        raise state
    assert state is not None
    if ranks.rank != 0:
        # Sums over ranks, which rank 0 carries on.
        state.sums = [0.0, 0.0, 0.0]
    return state


def _facts(config: TrainingConfig, execution: PyTorchExecutionConfig, seed: int) -> dict[str, object]:
    """Settings that decide what is trained. The number of ranks does not, and may change between attempts."""
    return {
        "config": config_facts(config),
        "learning_rate": execution.learning_rate,
        "scheduler": execution.scheduler,
        "clip": (execution.gradient_clip_val, execution.gradient_clip_algorithm),
        "accum_steps": execution.accum_steps,
        "precision": execution.precision,
        "seed": seed,
    }


def _scan_facts(scan: Scan, data: GroupDataModule, start: TrainedModel | None) -> dict[str, object]:
    assert scan.probe is not None
    return {
        "groups": hashlib.sha256(data.split.training.tobytes() + data.split.validation.tobytes()).hexdigest(),
        "frames": scan.frames.shape,
        "positions": float(np.abs(scan.positions_px).sum()),
        "probe": float(np.abs(scan.probe).sum()),
        "mean_photons": f"{data.mean_photons:.9g}",
        "start": _digest(start),
    }


def _digest(start: TrainedModel | None) -> str:
    """What the weights that training starts from are known by."""
    if start is None:
        return ""
    parts = start.network.generator.state_dict().values()
    return hashlib.sha256(b"".join(part.cpu().contiguous().numpy().tobytes() for part in parts)).hexdigest()


def _fit(
    module: PtychoPINN,
    data: GroupDataModule | SyntheticDataModule,
    watch: TrainingWatch,
    execution: PyTorchExecutionConfig,
    ranks: Ranks,
    n_epochs: int,
    callbacks: Sequence[Callback],
    folder: Path | None,
) -> None:
    device = rank_device(str(execution.accelerator))
    with _quiet_lightning(), _restored_determinism():
        trainer = Trainer(
            accelerator=device.type,
            devices=1 if device.type == "cpu" else [device.index],
            precision=execution.precision,
            deterministic=execution.deterministic,
            max_epochs=n_epochs,
            accumulate_grad_batches=execution.accum_steps,
            callbacks=[watch, *callbacks],
            default_root_dir=folder,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            limit_val_batches=1.0 if data.has_validation else 0,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            **ranks_options(ranks, is_deterministic=execution.deterministic is not False),
        )
        trainer.fit(module, datamodule=data)


def _finish(
    module: PtychoPINN,
    data: GroupDataModule | SyntheticDataModule,
    state: TrainingState,
    ranks: Ranks,
    report: TrainingReport,
    device: torch.device,
) -> TrainedModel:
    if state.best_weights:
        module.network.load_state_dict(state.best_weights)
    module.to(device).eval()
    metrics = {"epochs": float(state.epoch)} | final_metrics(module, data, ranks)
    if not metrics["beats_constant"]:
        text = (
            f"The network ended no better than a constant object (loss {metrics['loss']:.4g} against"
            f" {metrics['loss_constant']:.4g}): do not trust its image. Check probe, positions and the detector's"
            " orientation, train longer, or lower execution.learning_rate."
        )
        log.warning(text)
        report.message(text)
    return TrainedModel(module.network.cpu(), metrics, state.history)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without Lightning's advice about loggers and loading processes, which do not apply to data in memory."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            # Lightning about its own use of torch.
            warnings.filterwarnings("ignore", ".*treespec, LeafSpec")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _restored_determinism() -> Iterator[None]:
    """Lightning switches torch's deterministic mode for the whole process; put it back afterwards.

    The mode also fills every new tensor with NaN, to show reads of memory that nobody wrote: 5 % of a training, and no
    part of what makes it repeatable.
    """
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    mode: Any = torch.utils.deterministic  # its one setting is made when it is imported, which types cannot see
    fill, mode.fill_uninitialized_memory = mode.fill_uninitialized_memory, False
    try:
        yield
    finally:
        mode.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
