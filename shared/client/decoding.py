"""From JSON to the dataclasses of ``models.py``, as their annotations say.

Unknown fields are passed over and words are not checked against lists: a server may be newer than this client.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import MISSING, fields
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from shared.client.errors import UnexpectedAnswer

T = TypeVar("T")
_Convert = Callable[[Any], Any]


def decode(kind: type[T], value: Any) -> T:
    """One object.

    Raises:
        UnexpectedAnswer: it has not the form that it must have.
    """
    try:
        return _made(kind, value)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise UnexpectedAnswer(f"the answer is not the {kind.__name__} of this API: {error!r}") from error


def _made(kind: type[T], value: Any) -> T:
    if not isinstance(value, Mapping):
        raise TypeError(f"{kind.__name__} must be an object")
    found: dict[str, Any] = {}
    for name, convert, optional in _plan(cast(Hashable, kind)):
        if name == "raw":
            found[name] = value
        elif name in value:
            found[name] = convert(value[name])
        elif not optional:
            raise KeyError(name)
    return kind(**found)


@cache
def _plan(kind: Any) -> list[tuple[str, _Convert, bool]]:
    hints = get_type_hints(kind)
    return [
        (
            field.name,
            _converter(hints[field.name]),
            field.default is not MISSING or field.default_factory is not MISSING,
        )
        for field in fields(kind)
    ]


def _converter(hint: Any) -> _Convert:
    if hint is str:
        return lambda value: _as(str, value)
    if hint is datetime:
        return datetime.fromisoformat
    if hint is Decimal:
        return lambda value: Decimal(str(value))
    if hasattr(hint, "__dataclass_fields__"):
        return lambda value: _made(hint, value)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType} and type(None) in arguments:
        (inner,) = (_converter(argument) for argument in arguments if argument is not type(None))
        return lambda value: None if value is None else inner(value)
    if origin is Sequence:
        item = _converter(arguments[0])
        return lambda values: tuple(item(value) for value in _as(list, values))
    if origin is Mapping:
        entry = _converter(arguments[1])
        return lambda values: {key: entry(value) for key, value in _as(Mapping, values).items()}
    return lambda value: value


def _as(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} where {kind.__name__} must stand")
    return value
