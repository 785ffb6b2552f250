"""What sets of samples of any modality share: names, classes, picking, and words for error messages."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

NAMES_SHOWN = 5


class SampleSet(ABC):
    """Samples with their classes and stable names; a subclass is a frozen dataclass with these fields.

    Attributes
    ----------
    labels
        ``(N,)``, int64, position in `classes`.
    sample_ids
        ``N`` different names that stay with a sample whatever it is selected with.
    classes
        Names of the classes.
    split
        ``(N,)``, text: the partition each sample belongs to.
    source
        Where the samples come from, for records and captions.
    plural, by_sample
        What errors call the samples; the fields that hold one entry a sample.
    """

    labels: NDArray[np.int64]
    sample_ids: tuple[str, ...]
    classes: tuple[str, ...]
    split: NDArray[np.str_]
    source: str

    plural: ClassVar[str]
    by_sample: ClassVar[tuple[str, ...]]

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.sample_ids)

    def select(self, chosen: Sequence[int] | Sequence[str] | NDArray[np.integer]) -> Self:
        """Pick samples in the order given.

        Parameters
        ----------
        chosen
            Positions (negative ones count from the end) or sample identifiers.

        Raises
        ------
        TypeError
            If `chosen` holds anything else, a boolean mask included.
        ValueError
            If a position or an identifier is not in the set, or comes twice.
        """
        indices = find_positions(chosen, self.sample_ids, self.plural)
        names = ("labels", "sample_ids", "split", *self.by_sample)
        return replace(self, **{name: _pick(getattr(self, name), indices) for name in names})  # type: ignore

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of everything but `source`."""

    def _check_names(self, count: int) -> None:
        """Check labels, split and names of so many samples."""
        for name, kind in (("labels", np.int64), ("split", np.str_)):
            array = getattr(self, name)
            require_array(name, array, kind)
            if array.shape != (count,):
                raise ValueError(f"{name} must have shape ({count},), got {array.shape}")
        if len(self.sample_ids) != count:
            raise ValueError(f"sample_ids must name {count} {self.plural}, got {len(self.sample_ids)} names")
        repeated = find_repeated(self.sample_ids)
        if repeated:
            raise ValueError(f"sample_ids must differ, repeated: {list_some(repeated)}")
        if count and not (0 <= self.labels.min() and self.labels.max() < len(self.classes)):
            raise ValueError(
                f"labels must lie in 0..{len(self.classes) - 1} (one of {len(self.classes)} classes), "
                f"got {self.labels.min()}..{self.labels.max()}"
            )

    def _digest(self, arrays: Sequence[NDArray]) -> str:
        """Hash names, classes, split and arrays, the first of which holds the samples themselves."""
        digest = hashlib.sha256()
        names = [self.sample_ids, self.classes, self.split.tolist(), arrays[0].shape]
        digest.update(json.dumps(names).encode())
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def _pick(values: Any, indices: NDArray[np.int64]) -> Any:
    """Take entries of an array or a tuple; None stays."""
    if isinstance(values, np.ndarray):
        return values[indices]
    return values and tuple(values[index] for index in indices)


def require_array(name: str, array: object, kind: type) -> None:
    """Raise TypeError unless an argument is an array of a kind of numbers or text."""
    if not (isinstance(array, np.ndarray) and np.issubdtype(array.dtype, kind)):
        raise TypeError(f"{name} must be a NumPy array of {kind.__name__}, got {describe(array)}")


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
