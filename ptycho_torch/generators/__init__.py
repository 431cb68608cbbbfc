"""Generators: networks that turn features of diffraction patterns into object patches.

A generator maps features (batch, frame, channel, y, x) float32 to patches (batch, frame, y, x) complex64. The first
two channels are a first guess of the patch (real part − 1, imaginary part); a generator returns that guess, corrected,
and at the start of training the guess itself. It knows no probe and no loss. A generator of several `n_steps` is called
that often, `generator(features, step)`, its last result projected onto the measured moduli before each further call.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ptycho.config.config import ModelConfig
from ptycho.errors import ModelError
from ptycho_torch.generators.cnn import CorrectionCNN
from ptycho_torch.generators.fourier import FourierOperator
from ptycho_torch.generators.none import GuessAsItIs
from ptycho_torch.generators.unrolled import UnrolledCorrector

# guess: real − 1, imaginary; its last change: real, imaginary; probe: modulus, real, imaginary (largest modulus 1)
FEATURE_CHANNELS = 7

GENERATORS: dict[str, Callable[[ModelConfig, int], nn.Module]] = {
    "cnn": CorrectionCNN.from_config,
    "unrolled": UnrolledCorrector.from_config,
    "fno": FourierOperator.full,
    "fno_vanilla": FourierOperator.vanilla,
    "ffno": FourierOperator.factorised,
    "linear": GuessAsItIs.from_config,
}


def build_generator(config: ModelConfig) -> nn.Module:
    """The generator that the configuration names. Raises ModelError for a name that is not in the table."""
    if config.architecture not in GENERATORS:
        raise ModelError(
            f'Architecture "{config.architecture}" is not available; available: {", ".join(sorted(GENERATORS))}.'
            " Set model.architecture to one of these."
        )
    return GENERATORS[config.architecture](config, FEATURE_CHANNELS)
