"""Sentences for what is wrong with a spec: the dotted path, the value, what was expected, the closest name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ptycho.data.formats.data_keys import DataKeys
from ptycho.jobs.tables import PATTERNS

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text in quotes",
    "dataclass_type": "a table: { frames = … }",
    "list_type": "a list in square brackets",
    "tuple_type": "a list in square brackets",
    "path_type": "a path in quotes",
    "none_required": "left out",
}
# Keys that are tables themselves, with the names in them.
TABLES_IN_TABLES: Mapping[tuple[int | str, ...], tuple[str, ...]] = {
    ("data", "keys"): tuple(field.name for field in fields(DataKeys))
}


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known name that was most probably meant, or None when none is near."""
    found = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def shown(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, float) and abs(value) >= 1e6:
        return f"{value:g}"
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        return str(value)


def type_problems(details: Sequence[ErrorDetails], tables: Mapping[str, Iterable[str]]) -> list[str]:
    """One sentence for each key at fault.

    tables: the keys of each table, for suggestions
    """
    expected: dict[tuple[int | str, ...], list[str]] = {}
    problems: list[str] = []
    values: dict[tuple[int | str, ...], object] = {}
    for detail in details:
        if detail["type"] == "extra_forbidden":
            problems.append(_unknown(detail, tables))
            continue
        if detail["type"] in ("unexpected_keyword_argument", "missing"):
            problems.append(_unknown_inside(detail))
            continue
        place = _place(detail)
        values[place] = detail["input"]
        expected.setdefault(place, []).append(_expectation(detail))
    for place, wanted in expected.items():
        problems.append(_wrong_value(place, values[place], wanted))
    return problems


def _unknown_inside(detail: ErrorDetails) -> str:
    """What is wrong with the keys of a table in a table."""
    known = TABLES_IN_TABLES[detail["loc"][:2]]
    if detail["type"] == "missing":
        return f"{_dotted(detail['loc'])}: missing; it must be given with the others."
    near = closest(str(detail["loc"][-1]), known)
    hint = f'Did you mean "{near}"?' if near else f"There are: {', '.join(known)}."
    return f"{_dotted(detail['loc'])}: there is no such key. {hint}"


def _place(detail: ErrorDetails) -> tuple[int | str, ...]:
    """Table, key and index; pydantic appends the branch of a union, which says nothing to a user."""
    depth = 3 if detail["loc"][:2] in TABLES_IN_TABLES else 2
    table_and_key = detail["loc"][:depth]
    return (*table_and_key, *(part for part in detail["loc"][depth:] if isinstance(part, int)))


def _dotted(place: Sequence[int | str]) -> str:
    text = ".".join(str(part) for part in place if isinstance(part, str))
    return text + "".join(f"[{part}]" for part in place if isinstance(part, int))


def _unknown(detail: ErrorDetails, tables: Mapping[str, Iterable[str]]) -> str:
    *parents, key = (str(part) for part in detail["loc"])
    if not parents:
        if not isinstance(detail["input"], dict):
            homes = [name for name, keys in tables.items() if key in keys]
            hint = f" Write it below {_any_of(homes)}." if homes else " Every key belongs below a [table]."
            return f"{key} = {shown(detail['input'])}: no key stands outside a table.{hint}"
        near = closest(key, tables)
        return f"[{key}]: there is no such table. " + (
            f"Did you mean [{near}]?" if near else "There are: " + ", ".join(f"[{name}]" for name in tables) + "."
        )
    return f"{_dotted(detail['loc'])}: there is no such key.{_key_hint(parents[0], key, tables)}"


def _any_of(tables: Iterable[str]) -> str:
    return " or ".join(f"[{name}]" for name in tables)


def _key_hint(table: str, key: str, tables: Mapping[str, Iterable[str]]) -> str:
    elsewhere = [name for name, keys in tables.items() if key in keys]
    if elsewhere:
        return f" It belongs below {_any_of(elsewhere)}."
    near = closest(key, tables[table])
    if near:
        return f' Did you mean "{near}"?'
    for name, keys in tables.items():
        near = closest(key, keys)
        if near:
            return f" Did you mean {name}.{near}?"
    return f" [{table}] knows: {', '.join(sorted(tables[table]))}."


def _expectation(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if kind in ("model_type", "dict_type"):
        return "a table"
    if kind == "literal_error":
        return str(context["expected"]).replace("'", '"')
    if kind == "greater_than_equal":
        return f"at least {_round(context['ge'])}"
    if kind == "less_than_equal":
        return f"at most {_round(context['le'])}"
    if kind == "greater_than":
        return f"more than {_round(context['gt'])}"
    if kind == "less_than":
        return f"less than {_round(context['lt'])}"
    if kind == "string_pattern_mismatch":
        return PATTERNS[context["pattern"]]
    if kind in ("too_short", "string_too_short"):
        return "not empty"
    return detail["msg"][:1].lower() + detail["msg"][1:]


def _wrong_value(place: Sequence[int | str], value: object, wanted: Sequence[str]) -> str:
    if list(wanted) == ["a table"]:
        return f"{_dotted(place)} = {shown(value)}: must be a table: [{_dotted(place)}]."
    sentence = f"{_dotted(place)} = {shown(value)}: must be {' or '.join(dict.fromkeys(wanted))}."
    choices = [part.strip(' "') for text in wanted if '"' in text for part in text.replace(" or ", ",").split(",")]
    near = closest(value, choices) if isinstance(value, str) else None
    return f'{sentence} Did you mean "{near}"?' if near else sentence


def _round(bound: Any) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)


def value_problems(table: str, values: Mapping[str, Any], check: Callable[[Mapping[str, Any]], object]) -> list[str]:
    """What a configuration class says against the values given, each with its dotted path.

    The class stops at the first fault, so each key is asked by itself, in the company of those that are right alone.
    """
    together = _complaint(check, values)
    if together is None:
        return []
    right = {key: value for key, value in values.items() if _complaint(check, {key: value}) is None}
    problems = []
    for key, value in values.items():
        complaint = None if key in right else _complaint(check, {**right, key: value})
        if complaint:
            # Some classes name the field and its value themselves.
            complaint = re.sub(rf"^{key}( = .*?)?: ", "", complaint)
            problems.append(f"{table}.{key} = {shown(value)}: {complaint}")
    return problems or [f"[{table}]: {together}"]


def _complaint(check: Callable[[Mapping[str, Any]], object], values: Mapping[str, Any]) -> str | None:
    try:
        check(values)
    except ValueError as error:
        return _end(str(error))
    return None


def _end(sentence: str) -> str:
    return sentence if sentence.endswith((".", "?", "!")) else sentence + "."
