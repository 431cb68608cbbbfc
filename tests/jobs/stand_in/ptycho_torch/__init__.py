"""Put before the repository on PYTHONPATH: the real package, but with the stages of this folder."""

from pathlib import Path

__path__.append(str(Path(__file__).parents[4] / "ptycho_torch"))
