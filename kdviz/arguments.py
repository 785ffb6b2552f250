"""Checks of arguments, each once: a sentence that says which argument, what came and what is allowed."""

import difflib
import math
from collections.abc import Collection, Iterable
from numbers import Integral, Real
from typing import TypeVar

T = TypeVar("T")


def whole_number(name: str, value: object, least: int = 0, most: int | None = None) -> int:
    """Return a whole number as an int.

    Raises
    ------
    ValueError
        If it is a truth value, no whole number, less than `least` or more than `most`.
    """
    allowed = f"of {least} or more" if most is None else f"in {least}..{most}"
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if number is None or number < least or (most is not None and number > most):
        raise ValueError(f"{name} must be an integer {allowed}, got {value!r}")
    return number


def positive_number(name: str, value: object) -> float:
    """Return a finite number above 0 as a float.

    Raises
    ------
    ValueError
        If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return float(value)


def finite_number(name: str, value: object, least: float = -math.inf) -> float:
    """Return a finite number of at least `least` as a float.

    Raises
    ------
    ValueError
        If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= float(value) < math.inf:
        more = f" of {least:g} or more" if least > -math.inf else ""
        raise ValueError(f"{name} must be a finite number{more}, got {value!r}")
    return float(value)


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
