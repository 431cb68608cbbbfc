"""Site profiles: what every job on one cluster has in common, in a file of its own."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptycho.errors import SpecError
from ptycho.jobs.problems import closest, shown

# What belongs to a place and not to a measurement.
SITE_TABLES = ("resources", "execution", "container")


@dataclass(frozen=True)
class Site:
    """A profile: table → key → value, as written. Without a path: none was asked for, and it is empty."""

    path: Path | None = None
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def under(self, written: Mapping[str, Any]) -> dict[str, Any]:
        """The spec's own content, with the profile's values where it says nothing."""
        merged = dict(written)
        for name, values in self.tables.items():
            own = written.get(name, {})
            # What is no table is the spec's fault, and is reported with its others.
            merged[name] = {**values, **own} if isinstance(own, dict) else own
        return merged

    def gives(self, table: str, key: str, written: Mapping[str, Any]) -> bool:
        """Whether this value is the profile's."""
        return key in self.tables.get(table, {}) and key not in written.get(table, {})


def load_site(name: object, base: Path) -> Site:
    """The profile of this name or path. Raises SpecError when there is none, or it is no profile.

    base: the folder of the spec
    """
    if not isinstance(name, str):
        return Site()
    path = _find(name, base)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError([f"resources.site = {shown(name)}: {path} cannot be read as TOML: {error}."]) from error
    foreign = [table for table in content if table not in SITE_TABLES or not isinstance(content[table], dict)]
    if foreign or "site" in content.get("resources", {}):
        wrong = f"[{foreign[0]}]" if foreign else "resources.site"
        allowed = ", ".join(f"[{table}]" for table in SITE_TABLES)
        raise SpecError([f"resources.site: {path} holds {wrong}. A site profile holds {allowed} and names no other."])
    return Site(path, content)


def _find(name: str, base: Path) -> Path:
    if name.endswith(".toml") or os.sep in name:
        path = base / Path(name).expanduser()
        if path.is_file():
            return path
        raise SpecError([f"resources.site = {shown(name)}: there is no file {path}."])
    places = site_folders(base)
    for place in places:
        if (place / f"{name}.toml").is_file():
            return place / f"{name}.toml"
    known = sorted({path.stem for place in places for path in place.glob("*.toml")})
    near = closest(name, known)
    hint = f' Did you mean "{near}"?' if near else f" There are: {', '.join(known) or 'none'}."
    looked = " and ".join(str(place) for place in places)
    raise SpecError([f"resources.site = {shown(name)}: no such profile in {looked}.{hint}"])


def site_folders(base: Path) -> Sequence[Path]:
    """Where profiles are looked for by name, first found first used."""
    own = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    return (base / "sites", own / "ptycho" / "sites")
