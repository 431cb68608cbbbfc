"""What the arrays of an unknown HDF5 file may be, by shape and name: a proposal for a person, never used by itself."""

from __future__ import annotations

import json
import math

from ptycho.data.formats.contents import Contents

# Shorter ones are profiles, spectra, or pairs.
FEWEST_POSITIONS = 4


def proposed_keys(contents: Contents) -> str:
    """The value of `keys` to begin with, as TOML; "…" stands for what was not found. Units are left to the person."""
    stacks = {name: shape for name, shape in contents.arrays.items() if len(shape) == 3 and min(shape) > 1}
    if not stacks:
        return '{ frames = "…", … }'
    frames = max(stacks, key=lambda name: math.prod(stacks[name]))
    found = {"frames": frames}
    for axes, n in (("nyx", stacks[frames][0]), ("yxn", stacks[frames][-1])):
        positions = _positions(contents, n)
        if positions:
            found |= positions if axes == "nyx" else {"frames_axes": axes, **positions}
            break
    else:
        found |= {"y": "…", "x": "…"}
    return "{ " + ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in found.items()) + " }"


def _positions(contents: Contents, n: int) -> dict[str, str]:
    """The keys of n positions; none where there are no arrays like them."""
    if n < FEWEST_POSITIONS:
        return {}
    pairs = [name for name, shape in contents.arrays.items() if shape in ((n, 2), (2, n))]
    if len(pairs) == 1:
        return {"positions": pairs[0]}
    columns = [name for name, shape in contents.arrays.items() if shape in ((n,), (1, n), (n, 1))]
    ends = {axis: [name for name in columns if name.lower().rpartition("/")[2].endswith(axis)] for axis in "yx"}
    return {axis: names[0] for axis, names in ends.items()} if all(len(names) == 1 for names in ends.values()) else {}
