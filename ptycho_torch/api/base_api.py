"""The classes that ptychodus calls; thin, what is computed is computed in `client_work`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from time import localtime, strftime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho.data.formats import open_scan
from ptycho.data.grid import ObjectGrid
from ptycho.data.scan import Scan
from ptycho.errors import DataError, ModelError
from ptycho.parallel import SerialRanks
from ptycho.raw_data import STAGED_FRAMES, client_scan
from ptycho_torch.api.checkpoint_file import SUFFIX, ClientConfigs, read_checkpoint, write_checkpoint
from ptycho_torch.api.client_work import end_with_parent, image_for_client, train_for_client
from ptycho_torch.api.settings import training_of
from ptycho_torch.config_bridge import to_execution_config
from ptycho_torch.config_params import DataConfig, DatagenConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptycho_torch.device import rank_device
from ptycho_torch.model import PtychoPINN_Lightning
from ptycho_torch.pinn.inference import DEFAULT_BATCH_SIZE
from ptycho_torch.pinn.window import cut_window
from ptycho_torch.stages.network import ScanPatches, infer_scan

# Release 1.3 of ptychodus takes the configurations from here.
__all__ = [
    "ConfigManager",
    "DataConfig",
    "DatagenConfig",
    "DataloaderFormats",
    "InferenceConfig",
    "InferenceEngine",
    "ModelConfig",
    "PtychoDataLoader",
    "PtychoModel",
    "Trainer",
    "TrainingConfig",
]

log = logging.getLogger(__name__)

# Parts of a pixel by which the middle of a scan may miss the middle of its object; more, and its size is a guess.
_OFF_CENTRE_PX, _FAR_OFF_CENTRE_PX = 0.02, 0.25


@dataclass
class ConfigManager:
    """The client's configurations."""

    data_config: DataConfig
    model_config: ModelConfig
    training_config: TrainingConfig
    inference_config: InferenceConfig
    datagen_config: DatagenConfig = field(default_factory=DatagenConfig)

    @classmethod
    def from_loaded_model(cls, ptycho_model: PtychoModel) -> ConfigManager:
        """The configurations that a model was trained with."""
        return cls(
            ptycho_model.data_config,
            ptycho_model.model_config,
            ptycho_model.training_config,
            ptycho_model.inference_config,
        )

    def validate_arch_compatibility(self, ptycho_model: PtychoModel) -> None:
        """Raise ModelError when these configurations describe another network than the model's."""
        own = _lightning(ptycho_model).trained.config
        wanted = {"gridsize": self.data_config.grid_size[0], "n_filters_scale": self.model_config.n_filters_scale}
        for name, value in wanted.items():
            if getattr(own, name) != value:
                raise ModelError(
                    f"The model was trained with {name} = {getattr(own, name)}, not {value}; load another."
                )

    @property
    def configs(self) -> ClientConfigs:
        """The four that are kept with a model."""
        return ClientConfigs(
            data=self.data_config,
            model=self.model_config,
            training=self.training_config,
            inference=self.inference_config,
        )


class DataloaderFormats(Enum):
    """How older programs held their data; every one means the same here."""

    LIGHTNING_ONLY_MODULE = "lightning_only_module"
    LIGHTNING_MODULE = "lightning_module"
    TENSORDICT = "tensordict"


class PtychoDataLoader:
    """A scan: from a folder, to train on, or from arrays, to reconstruct.

    output_dir: a new folder below the one that was given, in which a training writes; it appears with the model
    """

    def __init__(
        self,
        data_dir: str | Path,
        config_manager: ConfigManager,
        data_format: DataloaderFormats = DataloaderFormats.LIGHTNING_ONLY_MODULE,
        output_dir: str | Path = "training_outputs",
    ) -> None:
        """data_dir: holds train_data.npz, or one other NPZ, or diffraction.h5 and product.h5. Raises DataError."""
        self.config_manager, self.data_format = config_manager, data_format
        self.scan = _scan_of_folder(Path(data_dir))
        self.grid: ObjectGrid | None = None
        self.output_dir = _new_run_folder(Path(output_dir))

    @classmethod
    def from_np(
        cls,
        diff_patterns: NDArray[Any],
        probe: NDArray[Any],
        positions: NDArray[Any],
        config_manager: ConfigManager,
    ) -> PtychoDataLoader:
        """The scan in a client's arrays, which is to be reconstructed.

        diff_patterns: (pattern, N, N) counts, zero frequency at index N // 2, of any type and memory order
        probe:         (N, N) or (mode, N, N) complex
        positions:     (pattern, 2), (y, x) of the window's middle, index (N − 1) / 2, in pixels of the client's object
        Raises DataError when the arrays do not fit each other, or the object's size cannot be told from the positions.
        """
        loader = cls.__new__(cls)
        loader.config_manager, loader.data_format = config_manager, DataloaderFormats.LIGHTNING_ONLY_MODULE
        where = np.asarray(positions, np.float64)
        loader.scan = client_scan(np.asarray(diff_patterns), np.asarray(probe), where)
        loader.grid = ObjectGrid(shape=centred_shape(where, loader.scan.patch_size))
        loader.output_dir = Path()
        return loader


@dataclass
class PtychoModel:
    """A model with the configurations it belongs to; `model` is assigned by the client."""

    model_config: ModelConfig
    data_config: DataConfig
    training_config: TrainingConfig
    inference_config: InferenceConfig
    model: PtychoPINN_Lightning | None = None

    @classmethod
    def _new_model(cls, model: type[PtychoPINN_Lightning], config_manager: ConfigManager) -> PtychoModel:
        """A model that is still to be trained."""
        configs: dict[str, Any] = {
            "model_config": config_manager.model_config,
            "data_config": config_manager.data_config,
            "training_config": config_manager.training_config,
            "inference_config": config_manager.inference_config,
        }
        return cls(**configs, model=model(**configs))

    @staticmethod
    def _extract_configs_from_checkpoint(
        path: str | Path,
    ) -> tuple[DataConfig, ModelConfig, TrainingConfig, InferenceConfig]:
        """The configurations in a model file. Raises ModelError for a missing, damaged or foreign one."""
        _, configs = read_checkpoint(Path(path))
        return configs.data, configs.model, configs.training, configs.inference


@dataclass
class _CallbackList:
    """Where a client adds Lightning callbacks before the training begins."""

    callbacks: list[Any] = field(default_factory=list)


class Trainer:
    """A training that is still to begin."""

    def __init__(self, model: PtychoModel, dataloader: PtychoDataLoader, config_manager: ConfigManager) -> None:
        self._model, self._dataloader, self._config_manager = model, dataloader, config_manager
        self._trainer = _CallbackList()

    @classmethod
    def _from_lightning(
        cls,
        model: PtychoModel,
        dataloader: PtychoDataLoader,
        orchestration: str = "lightning",
        config_manager: ConfigManager | None = None,
    ) -> Trainer:
        """A training of this model. orchestration: only "lightning" is known; ValueError for another."""
        _require_lightning(orchestration)
        return cls(model, dataloader, config_manager or dataloader.config_manager)

    def train(self, orchestration: str = "lightning", experiment_name: str = "") -> None:
        """Train, and write the model into the data loader's output_dir.

        experiment_name: without effect, as there is no tracking server
        Raises ValueError for settings that cannot be followed, ModelError or DataError for data that do not fit them.
        """
        _require_lightning(orchestration)
        configs, scan = self._config_manager.configs, self._dataloader.scan
        training, execution, chosen = training_of(configs, scan)
        trained = train_for_client(scan, training, execution, self._trainer.callbacks, chosen=chosen)
        _lightning(self._model).take(trained)
        path = Path(self._dataloader.output_dir) / f"model{SUFFIX}"
        write_checkpoint(path, trained, replace(configs, data=replace(configs.data, N=scan.patch_size)))
        log.info("the model is in %s", path)


class InferenceEngine:
    """Applies a trained model."""

    def __init__(self, config_manager: ConfigManager, ptycho_model: PtychoModel) -> None:
        self._config_manager, self._model = config_manager, ptycho_model

    def predict_and_stitch(self, loader: PtychoDataLoader) -> NDArray[np.complex64]:
        """The object (y, x) complex64 on the pixels of the client's object; 1 where no light fell.

        Raises ModelError when model and patterns do not fit.
        """
        end_with_parent()
        scan, settings = loader.scan, self._config_manager.inference_config
        if scan.probe is None:
            raise DataError(f"{scan.name} has no probe, which the network needs.")
        device = rank_device(str(to_execution_config(replace(self._config_manager.training_config)).accelerator))
        model = _lightning(self._model).trained.with_probe(scan.probe, scan.mask)
        # The image does not depend on it; a client's usual 1000 groups would fill the memory.
        step = max(1, min(settings.batch_size, DEFAULT_BATCH_SIZE))
        found = infer_scan(model, scan, SerialRanks(), device, batch_size=step)
        if settings.patch_weighting == "uniform":
            found = _uniform(found, settings.middle_trim)
        return image_for_client(found, loader.grid or scan.object_grid or scan.grid, device)


def centred_shape(positions_px: NDArray[np.float64], size: int) -> tuple[int, int]:
    """Height and width of the object whose middle is the middle of the scanned area, as ptychodus makes it.

    positions_px: (position, 2), (y, x) from the object's first pixel: the smallest and the largest of an axis then add
    up to its length less one. Raises DataError when they do not, or when the object would not hold every window.
    """
    length = positions_px.min(axis=0) + positions_px.max(axis=0) + 1
    shape = np.rint(length).astype(int)
    off = float(np.abs(length - shape).max())
    reach = positions_px.max(axis=0) + size / 2
    if off > _FAR_OFF_CENTRE_PX or (shape < reach - 1).any():
        raise DataError(
            f"The positions reach from {positions_px.min(axis=0).round(2)} to {positions_px.max(axis=0).round(2)} px,"
            " which is not centred on any object, so its size cannot be told. Give the product an object made for"
            " its scan, or use the library PtychoPINN, which is told the object."
        )
    if off > _OFF_CENTRE_PX:
        log.warning("the scan lies %.2f px off the middle of the object; its size is taken to be %s", off, tuple(shape))
    return int(shape[0]), int(shape[1])


def _scan_of_folder(folder: Path) -> Scan:
    archives = sorted(folder.glob("*.npz"))
    if not archives and (folder / STAGED_FRAMES).is_file():
        return open_scan(folder / STAGED_FRAMES)
    if not archives:
        raise DataError(f"{folder} holds no scan: an NPZ, or diffraction.h5 and product.h5, is needed.")
    named = [path for path in archives if path.name == "train_data.npz"]
    chosen = (named or archives)[0]
    if len(archives) > 1:
        others = ", ".join(path.name for path in archives if path != chosen)
        log.info("training on %s; left aside, because a network is trained on one scan: %s", chosen.name, others)
    return open_scan(chosen)


def _new_run_folder(folder: Path) -> Path:
    name = strftime("run_%Y%m%d_%H%M%S", localtime())
    names = (name, *(f"{name}_{number}" for number in range(2, 1000)))
    return next(folder / name for name in names if not (folder / name).exists())


def _require_lightning(orchestration: str) -> None:
    if orchestration.lower() != "lightning":
        raise ValueError(f'orchestration = {orchestration!r}: training runs in Lightning; set it to "lightning".')


def _lightning(model: PtychoModel) -> PtychoPINN_Lightning:
    if model.model is None:
        raise ModelError("The PtychoModel has no model yet; assign one that is new or loaded from a checkpoint.")
    return model.model


def _uniform(found: ScanPatches, trim_px: int) -> ScanPatches:
    """The patches with equal weights in their middle `trim_px` pixels (0: in all) and none around."""
    weight = torch.zeros_like(found.weight)
    cut_window(weight, min(trim_px, len(weight)) or len(weight)).fill_(1)
    return replace(found, weight=weight)
