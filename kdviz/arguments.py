"""Checks of arguments, each once: a sentence that says which argument, what came and what is allowed."""

import difflib
import reprlib
from collections.abc import Collection, Iterable
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

T = TypeVar("T")

_LARGEST_WHOLE = 2**63 - 1  # files and arrays hold 64 bits
_SMALLEST, _LARGEST = 1e-30, 1e30  # squares and products of such numbers stay numbers


def whole_number(name: str, value: object, least: int = 0, most: int | None = None) -> int:
    """Return a whole number as an int.

    Raises
    ------
    ValueError
        If it is a truth value, no whole number, less than `least`, or more than `most` or 64 bits hold.
    """
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    limit = _LARGEST_WHOLE if most is None else most
    if number is None or not least <= number <= limit:
        open_ended = most is None and (number is None or number < least)
        allowed = f"of {least} or more" if open_ended else f"in {least}..{limit}"
        raise ValueError(f"{name} must be an integer {allowed}, got {reprlib.repr(value)}")
    return number


def positive_number(name: str, value: object) -> float:
    """Return a number above 0, from 1e-30 to 1e30, as a float.

    Raises
    ------
    ValueError
        If it is none.
    """
    return _number(f"{name} must be a positive number", value, _SMALLEST)


def finite_number(name: str, value: object, least: float = -_LARGEST) -> float:
    """Return a number of at least `least`, and of at most 1e30, as a float.

    Raises
    ------
    ValueError
        If it is none.
    """
    return _number(f"{name} must be a finite number", value, least)


def _number(demand: str, value: Any, least: float) -> float:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not least <= value <= _LARGEST:  # a huge integer is no float
        raise ValueError(f"{demand}, {least:g} to {_LARGEST:g}, got {reprlib.repr(value)}")
    return float(value)


def some_text(name: str, value: object) -> str:
    """Return a text that is not empty.

    Raises
    ------
    ValueError
        If it is none.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a text that is not empty, got {reprlib.repr(value)}")
    return value


def one_of(name: str, value: T, allowed: Collection[T]) -> T:
    """Return a value that is among those allowed.

    Raises
    ------
    ValueError
        If it is not; near names are proposed.
    """
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; {suggest(value, allowed)}")
    return value


def as_bytes(pictures: ArrayLike) -> NDArray[Any]:
    """Turn pictures as torchvision has them, ``(..., C, H, W)`` of 0 to 1, to ``(..., H, W, C)``, uint8.

    Whatever is not so is returned as it came.
    """
    array = np.asarray(pictures)
    is_torch = array.dtype.kind == "f" and array.ndim > 2 and array.shape[-3] in (1, 3)
    if not is_torch or not ((array >= 0) & (array <= 1)).all():
        return array
    return np.rint(np.moveaxis(array, -3, -1) * 255).astype(np.uint8)


def suggest(value: object, known: Iterable[object], most: int = 20) -> str:
    """Continue a message about an unknown name with near ones, or with what is allowed."""
    names = [str(name) for name in known]
    near = difflib.get_close_matches(str(value), names, n=3)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return f"allowed: {', '.join(names[:most]) or 'none'}{', ...' if len(names) > most else ''}"


def name_some(names: Iterable[object], most: int = 5) -> str:
    """Join the first names, and count the others."""
    shown = [str(name) for name in names]
    more = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {more} more" if more > 0 else "")
