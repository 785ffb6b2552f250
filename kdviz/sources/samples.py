"""What sets of samples of any modality share: picking by position or name, and words for error messages."""

from collections import Counter
from collections.abc import Sequence
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

NAMES_SHOWN = 5


def find_positions(
    chosen: Sequence[int] | Sequence[str] | NDArray[np.integer], sample_ids: Sequence[str], kind: str
) -> NDArray[np.int64]:
    """Turn positions or names into positions, `kind` being the plural that an error calls the samples by.

    Raises
    ------
    TypeError
        If `chosen` holds anything else, a boolean mask included.
    ValueError
        If a position or a name is not in the set.
    """
    if isinstance(chosen, str):
        raise TypeError(f"chosen must be a sequence of positions or identifiers, got the text {chosen!r}")
    if len(chosen) == 0:
        return np.zeros(0, dtype=np.int64)
    if all(isinstance(name, str) for name in chosen):
        position = {name: index for index, name in enumerate(sample_ids)}
        unknown = [str(name) for name in chosen if name not in position]
        if unknown:
            raise ValueError(f"chosen names {kind} that are not in the set: {list_some(unknown)}")
        return np.array([position[str(name)] for name in chosen], dtype=np.int64)
    indices = np.asarray(chosen)
    count = len(sample_ids)
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise TypeError(f"chosen must hold positions or identifiers, got {describe(indices)}")
    if indices.min() < -count or indices.max() >= count:
        raise ValueError(f"chosen must lie in 0..{count - 1}, got {indices.min()}..{indices.max()}")
    return indices.astype(np.int64)


def require_integer(name: str, value: int, low: int, high: int | None = None) -> None:
    """Raise TypeError or ValueError unless an argument is an integer within limits."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < low or (high is not None and value > high):
        raise ValueError(
            f"{name} must be {f'at least {low}' if high is None else f'in {low}..{high}'}, got {value}"
        )


def find_repeated(names: Sequence[str]) -> list[str]:
    """List the names that come more than once."""
    return [name for name, count in Counter(names).items() if count > 1]


def describe(value: object) -> str:
    """Say what kind of thing an argument is."""
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


def list_some(names: Sequence[str], suffix: str = "") -> str:
    """Join the first names, and count the others."""
    shown = ", ".join(f"{name}{suffix}" for name in names[:NAMES_SHOWN])
    more = len(names) - NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
