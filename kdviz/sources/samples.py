"""What data of any modality share: samples that are read when asked for, their names, classes and picking.

Symbols: ``N`` samples, ``U`` units.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import xarray as xr
from numpy.typing import DTypeLike, NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict

from kdviz import arguments
from kdviz.units import Grid, Units

NAMES_SHOWN = 5
PARTS = ("train", "held-out")
_HELD_OUT = 5  # one in so many of the user's own samples
_CHUNK = 256  # samples hashed at a time

Part = Literal["train", "held-out"]
AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().resolve())]
"""A path that means the same in any folder."""


class LazyArray:
    """An array ``(N, ...)`` whose rows are made when asked for.

    ``array[i]``, ``array[rows]``, ``array[start:stop]`` and ``numpy.asarray(array)`` are NumPy arrays; the
    whole is a map-style dataset of its rows.

    Parameters
    ----------
    make
        From a row's number to the row.
    count
        How many rows.
    shape, dtype
        Of one row.
    """

    def __init__(
        self, make: Callable[[int], NDArray], count: int, shape: tuple[int, ...], dtype: DTypeLike
    ) -> None:
        self._make, self._rows, self.dtype = make, np.arange(count), np.dtype(dtype)
        self._row_shape = shape

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return (len(self._rows), *self._row_shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._rows)

    def __getitem__(self, chosen: Any) -> NDArray:
        """Make one row, or those of a slice or an array of positions."""
        rows = self._rows[chosen]
        if rows.ndim == 0:
            return np.array(self._make(int(rows)), self.dtype)
        made = np.empty((len(rows), *self._row_shape), self.dtype)
        for place, row in zip(made, rows, strict=True):
            place[...] = self._make(int(row))
        return made

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray:
        """Make all rows."""
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def take(self, indices: NDArray[np.integer]) -> "LazyArray":
        """Pick rows in the order given, without making any."""
        taken = LazyArray(self._make, 0, self._row_shape, self.dtype)
        taken._rows = self._rows[indices]
        return taken

    def map(
        self, change: Callable[[NDArray], NDArray], shape: tuple[int, ...], dtype: DTypeLike
    ) -> "LazyArray":
        """Rows as a function changes them, once they are made."""
        return LazyArray(lambda row: change(self[row]), len(self), shape, dtype)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Samples as networks and measuring take them, in NumPy; images are read when they are indexed.

    Attributes
    ----------
    inputs
        ``(N, ...)``: what networks are fed. ``inputs[rows]`` and ``numpy.asarray(inputs)`` are arrays.
    units
        What shares one noise scale.
    foreground
        ``(N, U)``, bool; of images pixels, ``(N, H, W)``.
    pictures
        ``(N, H, W, 3)``, uint8, to be stored for viewing; None where units show themselves.
    """

    inputs: NDArray[Any] | LazyArray
    units: Units
    foreground: NDArray[np.bool_] | LazyArray
    pictures: NDArray[np.uint8] | LazyArray | None = None


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

    def read(self) -> Self:
        """Return the same samples as arrays in memory: quicker where all are used, over and over."""
        lazy = {name: getattr(self, name) for name in self.by_sample}
        arrays = {name: array[:] for name, array in lazy.items() if isinstance(array, LazyArray)}
        return replace(self, **arrays)  # type: ignore[type-var]

    def divide(self, part: Part) -> Self:
        """Hold out a fifth of the samples, class by class, by nothing but their number, and return a part."""
        arguments.one_of("part", part, PARTS)
        order = np.random.default_rng(0).permutation(len(self))
        order = order[np.argsort(self.labels[order], kind="stable")]
        held_out = np.arange(len(order)) % _HELD_OUT == 0
        chosen = np.random.default_rng(1).permutation(order[held_out == (part == "held-out")])
        return replace(self.select(chosen), split=np.full(len(chosen), part))  # type: ignore[type-var]

    @abstractmethod
    def prepare(self) -> Prepared:
        """Bring the samples into the form that networks and measuring take."""

    def choose(self, count: int) -> Self:
        """Pick samples to measure: the first ones.

        Raises
        ------
        DataError
            If none can be measured.
        """
        return self.select(np.arange(min(count, len(self))))

    def describe(self, prepared: Prepared) -> xr.Dataset:
        """Describe the samples for a run: names, classes, units, foreground, and pictures where there are."""
        units, mask = prepared.units, np.asarray(prepared.foreground)
        ds = xr.Dataset(
            {
                "valid": (("sample", "unit"), units.valid(len(self))),
                "foreground": (
                    ("sample", "unit"),
                    units.reduce_mask(mask) if isinstance(units, Grid) else mask,
                ),
            },
            coords={
                "sample": list(self.sample_ids),
                "unit": np.arange(units.count),
                "label": ("sample", self.labels),
                "split": ("sample", list(self.split)),
                **units.coordinates(np.asarray(prepared.inputs)),
            },
        )
        if prepared.pictures is None:
            return ds
        pictures = np.asarray(prepared.pictures)
        return ds.assign(thumbnail=(("sample", "y_pixel", "x_pixel", "channel"), pictures))

    @property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of everything but `source`."""
        return self._digest([getattr(self, name) for name in (*self.by_sample, "labels")])

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

    def _digest(self, arrays: Sequence[NDArray | LazyArray]) -> str:
        """Hash names, classes, split and arrays, the first of which holds the samples themselves."""
        digest = hashlib.sha256()
        names = [self.sample_ids, self.classes, self.split.tolist(), arrays[0].shape]
        digest.update(json.dumps(names).encode())
        for array in arrays:
            for start in range(0, len(array), _CHUNK):
                digest.update(np.ascontiguousarray(array[start : start + _CHUNK]).tobytes())
        return digest.hexdigest()[:16]


class Source(BaseModel):
    """Where samples come from, as a study writes it down; a subclass stands beside every reader.

    A subclass tells itself apart by a field ``kind`` and gets a line in :data:`kdviz.sources.Data`.

    Attributes
    ----------
    modality
        What the samples are: ``"image"``, ``"text"`` or ``"cloud"``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: ClassVar[str]

    @abstractmethod
    def load(self, part: Part) -> SampleSet:
        """Load the samples to train on, ``"train"``, or those to test with, ``"held-out"``.

        Raises
        ------
        DataError
            If the data are missing or damaged.
        """

    def choose(self, samples: SampleSet, count: int) -> SampleSet:
        """Pick samples to measure, as :meth:`SampleSet.choose`."""
        return samples.choose(count, **self._options())

    def prepare(self, samples: SampleSet, *, grid: int | None = None) -> Prepared:
        """Bring samples into the form that networks and measuring take; `grid` is for images alone."""
        return samples.prepare(**self._options(), **({} if grid is None else {"grid": grid}))

    def _options(self) -> dict[str, Any]:
        """Return what this modality asks to be told whenever it is prepared."""
        return {}


def _pick(values: Any, indices: NDArray[np.int64]) -> Any:
    """Take entries of an array or a tuple; None stays."""
    if isinstance(values, LazyArray):
        return values.take(indices)
    if isinstance(values, np.ndarray):
        return values[indices]
    return values and tuple(values[index] for index in indices)


def require_array(name: str, array: object, kind: type) -> None:
    """Raise TypeError unless an argument is an array of a kind of numbers or text."""
    if not (isinstance(array, (np.ndarray, LazyArray)) and np.issubdtype(array.dtype, kind)):
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
