"""A configuration field with the sentence that explains it in generated documents."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any

from annotated_types import Ge, Gt

Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]


def option(default: Any, text: str) -> Any:
    """A dataclass field. Any: a type checker then takes the field's own annotation, as it does for `dataclasses.field`.

    text: what the option means, for people; `metadata["help"]` of the field
    """
    return field(default=default, metadata={"help": text})
