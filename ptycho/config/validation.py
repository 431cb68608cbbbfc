"""Whether the fields of a dataclass hold what their annotations say: types, choices and limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

# What a value of each plain type is called, and how it is recognised. A bool is no number here, whatever Python says.
_PLAIN: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ("True or False", lambda value: isinstance(value, bool)),
    int: ("a whole number", lambda value: not isinstance(value, bool) and isinstance(value, Integral)),
    float: (
        "a finite number",
        lambda value: not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value),
    ),
    str: ("text", lambda value: isinstance(value, str)),
    Path: ("a path", lambda value: isinstance(value, str | PathLike)),
    NoneType: ("None", lambda value: value is None),
    Any: ("anything", lambda _: True),
}

_LIMITS: dict[type[Any], tuple[str, Callable[[Any, Any], bool]]] = {
    Ge: ("of at least {0.ge}", lambda value, limit: value >= limit.ge),
    Gt: ("above {0.gt}", lambda value, limit: value > limit.gt),
    Le: ("of at most {0.le}", lambda value, limit: value <= limit.le),
    Lt: ("below {0.lt}", lambda value, limit: value < limit.lt),
}


def field_problems(config: Any, prefix: str = "") -> list[str]:
    """One sentence for each field, also of nested dataclasses, whose value its annotation forbids.

    config: an instance of a dataclass with types of this module's table, Literal, Annotated limits, unions, sequences
    prefix: what stands before each field's name, such as "model."
    """
    problems = []
    for name, hint in annotations_of(type(config)).items():
        value = getattr(config, name)
        if isinstance(hint, type) and is_dataclass(hint):
            fault = [] if isinstance(value, hint) else [f"{prefix}{name} = {value!r}: must be a {hint.__name__}."]
            problems += fault or field_problems(value, f"{prefix}{name}.")
        elif not _fits(value, hint):
            problems.append(f"{prefix}{name} = {value!r}: must be {_expected(hint)}.{_suggestion(value, hint)}")
    return problems


def refuse(problems: list[str], what: str) -> None:
    """Raise ValueError with every problem when there is one."""
    if problems:
        raise ValueError(" ".join([f"{what} is invalid:", *problems]) if len(problems) > 1 else problems[0])


def annotations_of(config: type[Any]) -> dict[str, Any]:
    """Field → annotation, with its limits, of a dataclass."""
    hints = get_type_hints(config, include_extras=True)
    return {field.name: hints[field.name] for field in fields(config)}


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _fits(value, parts[0]) and all(_LIMITS[type(limit)][1](value, limit) for limit in parts[1:])
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(value is choice or (isinstance(value, str) and value == choice) for choice in parts)
    if origin is list:
        return isinstance(value, list | tuple) and all(_fits(part, parts[0]) for part in value)
    if origin is tuple:
        return isinstance(value, list | tuple) and len(value) == len(parts) and all(map(_fits, value, parts))
    return _PLAIN[hint][1](value)


def _expected(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = [_LIMITS[type(limit)][0].format(limit) for limit in parts[1:]]
        return f"{_expected(parts[0])} {' and '.join(limits)}"
    if origin in (Union, UnionType):
        return " or ".join(_expected(part) for part in parts)
    if origin is Literal:
        return ("one of " if len(parts) > 1 else "") + ", ".join(repr(part) for part in parts)
    if origin is list:
        return f"a list, each part {_expected(parts[0])}"
    if origin is tuple:
        return f"{len(parts)} values, each {_expected(parts[0])}"
    return _PLAIN[hint][0]


def _suggestion(value: Any, hint: Any) -> str:
    choices = [part for option in (hint, *get_args(hint)) for part in get_args(option) if isinstance(part, str)]
    near = get_close_matches(value, choices, n=1) if isinstance(value, str) else []
    return f" Did you mean {near[0]!r}?" if near else ""
