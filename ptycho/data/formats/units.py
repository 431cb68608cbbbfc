"""Units that files write lengths and energies in."""

from __future__ import annotations

from ptycho.errors import DataError

# CODATA 2018, exact by definition.
EV_J = 1.602176634e-19

LENGTHS_M = {
    "m": 1.0, "metre": 1.0, "meter": 1.0, "metres": 1.0, "meters": 1.0, "mm": 1e-3, "millimeter": 1e-3,
    "um": 1e-6, "µm": 1e-6, "μm": 1e-6, "micron": 1e-6, "microns": 1e-6, "nm": 1e-9, "pm": 1e-12, "a": 1e-10,
    "å": 1e-10, "angstrom": 1e-10, "angstroms": 1e-10,
}  # fmt: skip
ENERGIES_EV = {"ev": 1.0, "kev": 1e3, "j": 1 / EV_J, "joule": 1 / EV_J, "joules": 1 / EV_J}


def length_in_m(value: float, units: str, what: str) -> float:
    """The length in metres. Raises DataError for units that are no length."""
    return value * _factor(LENGTHS_M, units, what, "a length")


def energy_in_ev(value: float, units: str, what: str) -> float:
    """The energy in eV. Raises DataError for units that are no energy."""
    return value * _factor(ENERGIES_EV, units, what, "an energy")


def _factor(known: dict[str, float], units: str, what: str, kind: str) -> float:
    if units.strip().lower() not in known:
        raise DataError(f"{what} has units {units!r}, which is no unit of {kind}; known are: {', '.join(known)}.")
    return known[units.strip().lower()]
