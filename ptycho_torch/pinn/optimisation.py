"""Optimiser, learning-rate schedule and gradient clipping, exactly as the configuration says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from ptycho.config.config import TrainingConfig

# Adaptive clipping leaves weights smaller than this alone: Brock et al. 2021, section 4.1.
AGC_SMALLEST_NORM = 1e-3


def build_optimizer(config: TrainingConfig, parameters: Iterable[Tensor], learning_rate: float) -> Optimizer:
    """Adam, AdamW or SGD. Raises ValueError for another name."""
    betas = (config.adam_beta1, config.adam_beta2)
    decay = config.weight_decay
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, learning_rate, betas, weight_decay=decay)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, learning_rate, betas, weight_decay=decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, learning_rate, config.momentum, weight_decay=decay)
    raise ValueError(f"optimizer {config.optimizer!r} is unknown; choose adam, adamw or sgd")


def build_scheduler(
    config: TrainingConfig, optimizer: Optimizer, scheduler: str, steps_per_epoch: int
) -> LRScheduler | ReduceLROnPlateau:
    """The schedule of that name; all but ReduceLROnPlateau are stepped after every update, that one every epoch.

    Default: constant. Exponential: falls to lr_min_ratio at the last epoch. WarmupCosine: half a cosine to
    lr_min_ratio. All three rise linearly over lr_warmup_epochs first. Raises ValueError for another name.
    """
    if scheduler == "ReduceLROnPlateau":
        return ReduceLROnPlateau(
            optimizer,
            factor=config.plateau_factor,
            patience=config.plateau_patience,
            min_lr=config.plateau_min_lr,
            threshold=config.plateau_threshold,
        )
    shape = _shapes(config.lr_min_ratio).get(scheduler)
    if shape is None:
        raise ValueError(
            f"scheduler {scheduler!r} is unknown; choose Default, Exponential, WarmupCosine or ReduceLROnPlateau"
        )
    warm = config.lr_warmup_epochs * steps_per_epoch
    rest = max(1, config.nepochs * steps_per_epoch - warm)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return shape(min(1.0, (step - warm) / rest))

    return LambdaLR(optimizer, factor)


def _shapes(lowest: float) -> dict[str, Callable[[float], float]]:
    return {
        "Default": lambda done: 1.0,
        "Exponential": lambda done: lowest**done,
        "WarmupCosine": lambda done: lowest + (1 - lowest) * (1 + math.cos(math.pi * done)) / 2,
    }


def clip_gradients(parameters: Iterable[Tensor], limit: float | None, algorithm: str) -> None:
    """Clip in place by total norm, by value, or each parameter's norm relative to its own weights ("agc")."""
    if not limit:
        return
    known = [parameter for parameter in parameters if parameter.grad is not None]
    if algorithm == "norm":
        torch.nn.utils.clip_grad_norm_(known, limit)
    elif algorithm == "value":
        torch.nn.utils.clip_grad_value_(known, limit)
    elif algorithm == "agc":
        for parameter in known:
            assert parameter.grad is not None
            largest = limit * parameter.detach().norm().clamp(min=AGC_SMALLEST_NORM)
            parameter.grad.mul_((largest / parameter.grad.norm().clamp(min=1e-12)).clamp(max=1))
    else:
        raise ValueError(f"gradient_clip_algorithm {algorithm!r} is unknown; choose norm, value or agc")
