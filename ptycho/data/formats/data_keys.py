"""Where an HDF5 file that follows no known layout keeps what a scan needs, as a person says it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal, get_args, get_type_hints

from annotated_types import MinLen

LengthUnits = Literal["px", "m", "mm", "um", "nm", "angstrom"]
Name = Annotated[str, MinLen(1)]


def _told(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass(frozen=True, kw_only=True)
class DataKeys:
    """Names of datasets in the scan file. Units are those of the dataset's attribute `units` unless stated here."""

    frames: Name = field(metadata=_told("the diffraction frames; the only key that is always needed"))
    frames_axes: Literal["nyx", "nxy", "yxn", "xyn", "nnyx", "nnxy", "yxnn"] | None = field(
        default=None,
        metadata=_told(
            "the frames' axes as HDF5 has them: n the position (twice for a raster, the second one fastest), y, x."
            " Unset: nyx; in a MATLAB file nxy, because MATLAB's (y, x, n) is stored the other way round"
        ),
    )
    positions: Name | None = field(default=None, metadata=_told("(position, 2) or (2, position)"))
    positions_order: Literal["yx", "xy"] = field(default="yx", metadata=_told("whether y or x is the first of the two"))
    y: Name | None = field(
        default=None, metadata=_told("instead of positions: y of every frame, or of every line of a raster")
    )
    x: Name | None = field(default=None, metadata=_told("x of every frame, or of every column of a raster"))
    positions_units: LengthUnits | None = field(default=None, metadata=_told("px are object pixels"))
    energy: Name | None = field(default=None, metadata=_told("of a photon"))
    energy_units: Literal["eV", "keV", "J"] | None = field(default=None, metadata=_told(""))
    wavelength: Name | None = field(default=None, metadata=_told("instead of energy"))
    wavelength_units: LengthUnits | None = field(default=None, metadata=_told(""))
    distance: Name | None = field(default=None, metadata=_told("sample to detector"))
    distance_units: LengthUnits | None = field(default=None, metadata=_told(""))
    detector_pixel: Name | None = field(default=None, metadata=_told("one number, or height and width"))
    detector_pixel_units: LengthUnits | None = field(default=None, metadata=_told(""))
    mask: Name | None = field(default=None, metadata=_told("(y, x)"))
    mask_good: Literal["zero", "nonzero"] | None = field(
        default=None, metadata=_told("which values of the mask mark good pixels; needed with mask")
    )
    probe: Name | None = field(default=None, metadata=_told("(y, x) or (mode, y, x), complex"))


def described() -> list[tuple[str, str, str]]:
    """(name, values, meaning) of every key, for documents."""
    found = []
    for name, hint in get_type_hints(DataKeys).items():
        choices = [str(word) for part in (hint, *get_args(hint)) for word in get_args(part) if isinstance(word, str)]
        values = ", ".join(dict.fromkeys(f"`{word}`" for word in choices)) or "name of a dataset"
        text = next(known.metadata["help"] for known in fields(DataKeys) if known.name == name)
        found.append((name, values, text))
    return found
