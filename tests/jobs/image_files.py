"""Image files in Apptainer's format that hold labels and nothing else."""

import json
import struct
from importlib.metadata import version
from pathlib import Path

LABELS = {
    "org.opencontainers.image.version": version("ptychopinn"),
    "org.opencontainers.image.revision": "a" * 40,
    "ptycho.torch": "2.13.0+cpu",
    "ptycho.flavour": "cpu",
}


def write_image(path: Path, **labels: str) -> Path:
    """An image file of this version for CPUs; labels by their last part, as in flavour="cu130"."""
    told = {name: labels.get(name.rpartition(".")[2], value) for name, value in LABELS.items()}
    text = json.dumps({"data": {"attributes": {"labels": told}}, "type": "container"}).encode()
    # github.com/apptainer/sif, pkg/sif/sif.go: header, one descriptor, its data.
    counts = struct.pack("<qqqqqqqq", 0, 0, 0, 1, 128, 585, 713, len(text))
    header = b"#!/usr/bin/env run-singularity\n\0" + b"SIF_MAGIC\0" + b"01\0" + b"02\0" + bytes(16) + counts
    name = b"inspect-metadata.json".ljust(128, b"\0")
    numbers = struct.pack("<i?IIIqqqqqqq", 0x4006, True, 1, 1, 0, 713, len(text), len(text), 0, 0, 0, 0)
    path.write_bytes(header + numbers + name + bytes(384) + text)
    return path


def write_image_folder(path: Path, **labels: str) -> Path:
    """The same as a folder."""
    (path / ".singularity.d").mkdir(parents=True)
    told = {name: labels.get(name.rpartition(".")[2], value) for name, value in LABELS.items()}
    (path / ".singularity.d" / "labels.json").write_text(json.dumps(told))
    return path
