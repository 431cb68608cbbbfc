"""The training checkpoint: everything that training needs to go on at a batch as if it had never stopped."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ptycho.errors import WorkError
from ptycho.whole_file import whole_file

FILE_NAME = "training.pt"


@dataclass
class TrainingState:
    """Where training stands.

    fingerprint: of everything that decides what is trained; a state of another job is not continued
    epoch, batch: the next batch to do
    sums:        training loss, deviance and groups of the unfinished epoch so far, over all ranks
    best_loss, best_weights, epochs_since_best: the best epoch by validation loss
    There is no random state: batches are functions of seed, epoch and number, and the network draws nothing.
    """

    fingerprint: str
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    history: list[dict[str, float]] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    best_loss: float = float("inf")
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    epochs_since_best: int = 0
    finished: bool = False

    def save(self, folder: Path) -> None:
        """Write the state whole or not at all. Raises WorkError when the disk refuses."""
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / FILE_NAME) as temporary, temporary.open("wb") as file:
            torch.save({name: getattr(self, name) for name in self.__dataclass_fields__}, file)

    @classmethod
    def load(cls, folder: Path, fingerprint: str) -> TrainingState:
        """The state in a folder, or a fresh one when there is none. Raises WorkError for a broken or foreign one."""
        path = folder / FILE_NAME
        if not path.exists():
            return cls(fingerprint)
        try:
            # What is no zip archive torch would take for its older format, a bare pickle.
            if not zipfile.is_zipfile(path):
                raise EOFError("not a complete archive")
            state = cls(**torch.load(path, map_location="cpu", weights_only=True))
        except (OSError, RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
            raise WorkError(f"The checkpoint {path} cannot be read ({error}); delete it to train afresh.") from error
        if state.fingerprint != fingerprint:
            raise WorkError(
                f"The checkpoint {path} belongs to a training with other settings, another scan or another seed;"
                " delete it to train afresh, or train in another folder."
            )
        return state


def fingerprint_of(facts: Mapping[str, object]) -> str:
    """A short digest of JSON-like facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def config_facts(config: Any) -> dict[str, object]:
    """The fields of a configuration dataclass that decide what is trained: all but the places of files."""
    facts = asdict(config)
    for name in ("train_data_file", "test_data_file", "output_dir"):
        facts.pop(name, None)
    return facts
