"""The one text in a pickled 0-d array of Python objects, as older NPZ files store their metadata.

Nothing is unpickled: the opcodes are read as inert data (pickletools), and only the exact form that numpy gives to one
text is understood. Reference: the opcode documentation in CPython's Lib/pickletools.py; numpy.ndarray.__reduce__.
"""

from __future__ import annotations

import pickletools
from typing import Any, NamedTuple

_RECONSTRUCT = ("numpy._core.multiarray _reconstruct", "numpy.core.multiarray _reconstruct")
_NAMES = {*_RECONSTRUCT, "numpy ndarray", "numpy dtype", "_codecs encode"}

_LITERALS = {
    "BININT", "BININT1", "BININT2", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES",
    "SHORT_BINBYTES",
}  # fmt: skip
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Name(NamedTuple):
    """Something that a pickle would import; here only its name."""

    name: str


class _Call(NamedTuple):
    """A call that a pickle would make; here only what it would be."""

    function: Any
    arguments: Any


class _Built(NamedTuple):
    """An object that a pickle would fill with a state."""

    made: Any
    state: Any


def read_pickled_text(pickled: bytes) -> str:
    """The text. Raises ValueError for anything but one text in a 0-d numpy array; nothing is executed either way."""
    try:
        result = _inert(pickled)
    except (ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"not the pickle of one text ({error})") from error
    match result:
        case _Built(
            _Call(_Name(name), (_Name("numpy ndarray"), (0,), b"b" | _Call(_Name("_codecs encode"), ("b", "latin1")))),
            (1, (), _Built(_Call(_Name("numpy dtype"), ("O8", _, _)), _), False, [str() as text]),
        ) if name in _RECONSTRUCT:
            return text
    raise ValueError("not the pickle of one text")


def _inert(pickled: bytes) -> Any:
    """What the pickle describes, with names, calls and states in place of what they would import, do and change."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(pickled):
        name = opcode.name
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in _TUPLES:
            stack.append(tuple(stack.pop() for _ in range(_TUPLES[name]))[::-1])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "TUPLE":
            start = marks.pop()
            stack[start:] = [tuple(stack[start:])]
        elif name == "APPEND":
            part = stack.pop()
            stack[-1].append(part)
        elif name == "GLOBAL":
            stack.append(_known(str(argument)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_known(f"{module} {attribute}"))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_Call(function, arguments))
        elif name == "BUILD":
            state, made = stack.pop(), stack.pop()
            stack.append(_Built(made, state))
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[int(argument or 0)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument or 0)])
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"opcode {name}")
    if len(stack) != 1 or marks:
        raise ValueError("more than one value")
    return stack[0]


def _known(name: str) -> _Name:
    if name not in _NAMES:
        raise ValueError(f"it would import {name!r}")
    return _Name(name)
