"""Everything that is computed with torch: physics, engines, networks, stitching."""

from importlib.util import find_spec

MINIMUM_TORCH = (2, 2)


def _require_torch() -> None:
    """Raise RuntimeError with what to install when torch is missing or too old; no silent fallback exists."""
    how = 'Install it with: pip install "ptychopinn[torch]" (see https://pytorch.org for the build that fits your GPU).'
    if find_spec("torch") is None:
        raise RuntimeError(f"ptycho_torch needs PyTorch 2.2 or newer, which is not installed. {how}")
    import torch

    found = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if found < MINIMUM_TORCH:
        raise RuntimeError(f"ptycho_torch needs PyTorch 2.2 or newer; {torch.__version__} is installed. {how}")


_require_torch()
