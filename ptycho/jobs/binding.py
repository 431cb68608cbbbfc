"""The shape of a job spec: which tables and keys there are, and of which type.

Only types are checked here, by pydantic. What a value may be beyond its type, each configuration class says itself.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from ptycho.config.config import (
    ModelConfig,
    PyTorchExecutionConfig,
    TrainingConfig,
    validate_model_config,
    validate_training_config,
)
from ptycho.config.refine import RefineConfig
from ptycho.config.synthetic import SyntheticConfig
from ptycho.jobs.tables import ContainerTable, DataTable, JobTable, OutputTable, ResourcesTable

_STRICT = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

# Fields that a job decides elsewhere: paths in [data] and [output], the model in [model].
NOT_IN_TRAINING = frozenset(
    {"model", "train_data_file", "test_data_file", "output_dir", "backend", "n_images", "positions_provided"}
)
# N is the size of the frames after cropping; it comes from the scan.
NOT_IN_MODEL = frozenset({"N"})

_BUNDLE = Annotated[
    str | None,
    Field(
        description="A trained model: wts.h5.zip, its folder or its run, from the spec file on. Training is skipped."
    ),
]
_FINE_TUNE = Annotated[
    bool | None,
    Field(description="With bundle: train on from it, for training.nepochs epochs, instead of applying it as it is."),
]


@dataclass(frozen=True)
class Table:
    """One table of the spec.

    config: the dataclass that says which keys there are and what their defaults are
    about:  one sentence for documents and editors
    texts:  key → what it means in a job, where that differs from what the dataclass says of itself
    check:  raises ValueError when the values given for some keys are not allowed; None where types say it all
    """

    name: str
    config: type[Any]
    about: str
    without: frozenset[str] = frozenset()
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    check: Callable[[Mapping[str, Any]], object] | None = None

    @property
    def hints(self) -> dict[str, Any]:
        """Key → type, with pydantic's annotations."""
        hints = get_type_hints(self.config, include_extras=True)
        own = {f.name: hints[f.name] for f in dataclasses.fields(self.config) if f.name not in self.without}
        return {**self.extra, **own}

    @property
    def defaults(self) -> dict[str, Any]:
        """Key → default value, as the dataclass gives it."""
        found: dict[str, Any] = dict.fromkeys(self.extra)
        for field in dataclasses.fields(self.config):
            if field.name in self.without:
                continue
            made = field.default_factory
            found[field.name] = field.default if made is dataclasses.MISSING else made()
        return found

    def model(self) -> type[BaseModel]:
        """The pydantic model that knows which keys were written."""
        texts = descriptions(self.config) | dict(self.texts)
        fields: dict[str, Any] = {
            name: (self.hints[name], Field(default, description=texts[name]) if texts.get(name) else default)
            for name, default in self.defaults.items()
        }
        return create_model(self.name, __config__=_STRICT, __doc__=self.about, **fields)


def descriptions(config: type[Any]) -> dict[str, str]:
    """Field → what it means: its metadata["help"], or its entry ("name: text") in the class's docstring."""
    found: dict[str, str] = {}
    names = {field.name for field in dataclasses.fields(config)}
    current = ""
    for line in inspect.cleandoc(config.__doc__ or "").splitlines():
        name, colon, text = line.partition(":")
        if colon and name in names:
            current = name
            found[current] = text.strip()
        elif line.startswith("    ") and current:
            found[current] += " " + line.strip()
        else:
            current = ""
    return found | {f.name: str(f.metadata["help"]) for f in dataclasses.fields(config) if "help" in f.metadata}


def _check_model(values: Mapping[str, Any]) -> None:
    validate_model_config(ModelConfig(**values))


def _check_training(values: Mapping[str, Any]) -> None:
    validate_training_config(TrainingConfig(**{"model": ModelConfig(), **values}))


# What a client's settings mean in a job, where it is not what they mean to the client.
EXECUTION_TEXTS = {
    "devices": "No effect in a job: [resources] says how many ranks there are, and each takes one device.",
    "strategy": "No effect in a job: ranks train together with DDP.",
    "enable_progress_bar": "No effect in a job: `ptycho run` shows progress in a terminal.",
    "persistent_workers": "No effect: batches of every epoch are made by new loading processes.",
    "checkpoint_monitor_metric": "No effect: the loss on held-out frames decides or, without any, the training loss.",
    "checkpoint_mode": "No effect: the smallest loss is the best.",
    "logger_backend": "Where metrics are logged beside metrics.jsonl, which is always written (csv: nowhere else).",
    "recon_log_every_n_epochs": "Write predicted patches so often, as NPZ files beside the checkpoints; unset: never.",
    "recon_log_num_patches": "Patches written, of the first frames.",
    "recon_log_fixed_indices": "Frames whose patches are written, instead of the first ones.",
    "recon_log_stitch": "No effect: the stitched image is made when training has ended.",
    "recon_log_max_stitch_samples": "No effect: part of recon_log_stitch.",
    "middle_trim": "No effect in a job: patches are weighted by the probe's intensity instead of being cut.",
    "pad_eval": "No effect in a job: the image has the pixels of its grid.",
}

TABLES = {
    table.name: table
    for table in (
        Table("job", JobTable, "What to do."),
        Table("data", DataTable, "What to reconstruct."),
        Table(
            "model",
            ModelConfig,
            "The network.",
            without=NOT_IN_MODEL,
            extra={"bundle": _BUNDLE, "fine_tune": _FINE_TUNE},
            check=_check_model,
        ),
        Table(
            "training",
            TrainingConfig,
            "How the network is trained.",
            without=NOT_IN_TRAINING,
            texts={"n_groups": "Groups drawn from the scan; unset: one for each scan position."},
            check=_check_training,
        ),
        Table(
            "synthetic",
            SyntheticConfig,
            'The random scenes of data.source = "synthetic".',
            check=lambda values: SyntheticConfig(**values),
        ),
        Table(
            "refine",
            RefineConfig,
            "How an iterative engine improves object and probe.",
            check=lambda values: RefineConfig(**values),
        ),
        Table(
            "execution",
            PyTorchExecutionConfig,
            "How the computation runs on a machine.",
            texts=EXECUTION_TEXTS,
            check=lambda values: PyTorchExecutionConfig(**values),
        ),
        Table("resources", ResourcesTable, "Where to run, and with how much."),
        Table("container", ContainerTable, "The container in which the ranks run."),
        Table("output", OutputTable, "Where results go."),
    )
}


@cache
def spec_model() -> type[BaseModel]:
    """The pydantic model of a whole spec: one optional table each."""
    fields: dict[str, Any] = {}
    for name, table in TABLES.items():
        model = table.model()
        fields[name] = (model, Field(default_factory=model, description=table.about))
    return create_model("JobSpec", __config__=_STRICT, **fields)
