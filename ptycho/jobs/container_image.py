"""An Apptainer image: what it holds and which one it is, found without Apptainer."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ptycho.errors import RequestError, WorkError
from ptycho.jobs.json_file import write_json

# The Singularity Image Format (github.com/apptainer/sif, pkg/sif): a header of 128 bytes, descriptors of 585 bytes.
_MAGIC = b"SIF_MAGIC\0"
_MAGIC_OFFSET, _COUNTS_OFFSET = 32, 80
_DESCRIPTOR = struct.Struct("<i?IIIqqqqqqq128s384s")
_GENERIC_JSON = 0x4006
_METADATA_NAME = "inspect-metadata.json"
_LABELS_INSIDE = Path(".singularity.d/labels.json")

# Label → field; containers/install.sh writes them.
_LABELS = {
    "org.opencontainers.image.version": "version",
    "org.opencontainers.image.revision": "commit",
    "ptycho.torch": "torch",
    "ptycho.flavour": "flavour",
    "ptycho.lock.sha256": "lock_sha256",
}


@dataclass(frozen=True, kw_only=True)
class ContainerImage:
    """An image of this program.

    digest:  SHA-256 of the file, as sha256sum prints it; empty for an image that is a folder
    commit:  of the sources it was built from; torch: the build's version
    flavour: "cpu", or which GPUs torch was built for, as in "cu130" or "rocm7.1"
    """

    path: Path
    digest: str
    version: str
    commit: str = ""
    torch: str = ""
    flavour: str = ""
    lock_sha256: str = ""

    @property
    def gpu_option(self) -> str | None:
        """Apptainer's option that shows GPUs inside; None for an image that could not use one."""
        if self.flavour == "cpu":
            return None
        return "--rocm" if self.flavour.startswith("rocm") else "--nv"


def read_image(path: Path) -> ContainerImage:
    """The image in a file or a folder. Raises RequestError when it is none, or holds another program."""
    try:
        labels = _labels_of_folder(path) if path.is_dir() else _labels_of_file(path)
        found = {field: labels[label] for label, field in _LABELS.items() if label in labels}
        if "version" not in found:
            raise RequestError(f"{path} is an image that does not hold ptycho. Build one with: make container")
        return ContainerImage(path=path, digest="" if path.is_dir() else digest_of(path), **found)
    except OSError as error:
        raise RequestError(f"Cannot read the image {path}: {error.strerror or error}.") from error


def this_image() -> ContainerImage | None:
    """The image inside which this process runs, or None outside of any."""
    path = os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER")
    if not path or not Path("/", _LABELS_INSIDE).exists():
        return None
    labels = _labels_of_folder(Path("/"))
    found = {field: labels[label] for label, field in _LABELS.items() if label in labels}
    # The file itself can seldom be seen from inside.
    return ContainerImage(path=Path(path), digest="", **{"version": "unknown", **found})


def _labels_of_folder(path: Path) -> dict[str, str]:
    place = path / _LABELS_INSIDE
    if not place.is_file():
        raise _no_image(path)
    labels: dict[str, str] = json.loads(place.read_text(encoding="utf-8"))
    return labels


def _labels_of_file(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        file.seek(_MAGIC_OFFSET)
        if file.read(len(_MAGIC)) != _MAGIC:
            raise _no_image(path)
        try:
            metadata = _metadata(file)
            labels: dict[str, str] = metadata["data"]["attributes"]["labels"] if metadata else {}
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise RequestError(f"{path} is damaged or incomplete. Copy or build it again.") from error
    return labels


def _metadata(file: BinaryIO) -> Any:
    """What `apptainer inspect --json` prints, as the build left it in the file; None when it left nothing."""
    file.seek(_COUNTS_OFFSET)
    _, total, offset = struct.unpack("<qqq", file.read(24))
    file.seek(offset)
    for _ in range(total):
        kind, used, *_, start, size, _, _, _, _, _, name, _ = _DESCRIPTOR.unpack(file.read(_DESCRIPTOR.size))
        if used and kind == _GENERIC_JSON and name.rstrip(b"\0").decode() == _METADATA_NAME:
            file.seek(start)
            return json.loads(file.read(size))
    return None


def _no_image(path: Path) -> RequestError:
    return RequestError(f"{path} is not an Apptainer image. Build one with: make container")


def digest_of(path: Path) -> str:
    """SHA-256 of a file, remembered from one call to the next: a GPU image has gigabytes and takes half a minute."""
    status = path.stat()
    key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ino}"
    remembered = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ptycho" / "image-digests.json"
    try:
        known: dict[str, str] = json.loads(remembered.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if key in known:
        return known[key]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_json(remembered, {**dict(list(known.items())[-20:]), key: digest})
    except (OSError, WorkError):
        # A home that cannot be written costs time at the next start, nothing else.
        return digest
    return digest


def described(image: ContainerImage) -> str:
    """One line for people."""
    parts = [f"ptycho {image.version}", f"torch {image.torch}" if image.torch else "", image.flavour]
    commit = image.commit[:12] if image.commit not in ("", "unknown") else ""
    digest = f"sha256 {image.digest[:12]}" if image.digest else "a folder"
    return ", ".join(part for part in (*parts, commit and f"commit {commit}", digest) if part)
