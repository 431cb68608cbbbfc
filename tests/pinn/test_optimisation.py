"""Clipping and schedules by themselves."""

import pytest
import torch

from ptycho.config.config import ModelConfig, TrainingConfig
from ptycho_torch.pinn.optimisation import build_optimizer, build_scheduler, clip_gradients


def parameter(gradient):
    made = torch.nn.Parameter(torch.full((4,), 2.0))
    made.grad = torch.tensor(gradient)
    return made


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [("norm", [0.3, 0.4, 0.0, 0.0]), ("value", [0.5, 0.5, 0.0, 0.0]), ("agc", [1.2, 1.6, 0.0, 0.0])],
)
def test_each_algorithm_clips_as_it_says(algorithm, expected):
    clipped = parameter([3.0, 4.0, 0.0, 0.0])
    clip_gradients([clipped], 0.5, algorithm)
    torch.testing.assert_close(clipped.grad, torch.tensor(expected))


@pytest.mark.parametrize("limit", [None, 0.0])
def test_no_limit_clips_nothing(limit):
    kept = parameter([3.0, 4.0, 0.0, 0.0])
    clip_gradients([kept], limit, "norm")
    torch.testing.assert_close(kept.grad, torch.tensor([3.0, 4.0, 0.0, 0.0]))


def test_unknown_names_are_refused():
    config = TrainingConfig(model=ModelConfig(), optimizer="adagrad")
    with pytest.raises(ValueError, match="adam, adamw or sgd"):
        build_optimizer(config, [parameter([0.0] * 4)], 1e-3)
    optimizer = torch.optim.SGD([parameter([0.0] * 4)], 1e-3)
    with pytest.raises(ValueError, match="ReduceLROnPlateau"):
        build_scheduler(config, optimizer, "Cyclic", 3)
    with pytest.raises(ValueError, match="agc"):
        clip_gradients([parameter([0.0] * 4)], 1.0, "median")
