"""The options of `ptycho simulate`: one for each field of SimulateConfig, so that neither can fall behind the other."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Optional, get_args, get_origin, get_type_hints

import typer

from ptycho.config.simulate import SimulateConfig, option_help


def with_simulate_options(command: Callable[[Path, bool, dict[str, Any]], None]) -> Callable[..., None]:
    """The command as typer wants it: with a parameter for each field. Fields that are not given keep their default."""

    def simulate(output: Path, force: bool = False, **given: Any) -> None:
        command(output, force, {name: _plain(value) for name, value in given.items() if value is not None})

    simulate.__doc__ = command.__doc__
    target = Annotated[Path, typer.Argument(metavar="OUTPUT", help="The HDF5 file to write.", show_default=False)]
    replace = Annotated[bool, typer.Option("--force", help="Replace OUTPUT when it exists.")]
    parameters = [_parameter("output", target, inspect.Parameter.empty), _parameter("force", replace, False)]
    hints, texts = get_type_hints(SimulateConfig), option_help()
    for option in fields(SimulateConfig):
        flag = "--" + option.name.replace("_", "-")
        text = f"{texts[option.name]}{_default(option.default)}"
        shown = typer.Option(flag, help=text, show_default=False)
        parameters.append(
            _parameter(option.name, Annotated[_option_type(option.name, hints[option.name]), shown], None)
        )
    simulate.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    simulate.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return simulate


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _option_type(name: str, hint: Any) -> Any:
    """What the command line parses for a field: choices, lists, or the plain type; always optional."""
    if get_origin(hint) is UnionType:
        (hint,) = [part for part in get_args(hint) if part is not type(None)]
    if get_origin(hint) is Literal:
        return Optional[Enum(name, {choice: choice for choice in get_args(hint)})]  # noqa: UP045  # built at run time
    if get_origin(hint) is tuple:
        return list[float] | None
    return hint | None


def _default(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        value = " ".join(str(part) for part in value)
    return f" [default: {value:g}]" if isinstance(value, float) else f" [default: {value}]"


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return tuple(value) if isinstance(value, list) else value
