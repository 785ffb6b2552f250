"""What data of any modality share: samples that are read when asked for, their names, classes and picking.

Symbols: ``N`` samples, ``U`` units.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import xarray as xr
from numpy.typing import DTypeLike, NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict

from kdviz.arguments import name_some, one_of
from kdviz.errors import DataError
from kdviz.schema.attributes import is_utf8
from kdviz.units import Units

PARTS = ("train", "held-out")
_HELD_OUT = 5  # one in so many of the user's own samples
_CHUNK = 256  # samples hashed at a time
_PACKED = {".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip"}

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
        self._make, self.shape, self.dtype = make, (count, *shape), np.dtype(dtype)

    def __len__(self) -> int:
        """Count the rows."""
        return self.shape[0]

    def __getitem__(self, chosen: Any) -> NDArray:
        """Make one row, or those of a slice or an array of positions."""
        rows = np.asarray(np.arange(len(self))[chosen])
        made = np.empty((rows.size, *self.shape[1:]), self.dtype)
        for place, row in zip(made, rows.flat, strict=True):
            place[...] = self._make(int(row))
        return made.reshape(rows.shape + self.shape[1:])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray:
        """Make all rows."""
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def take(self, indices: NDArray[np.integer]) -> "LazyArray":
        """Pick rows in the order given, without making any."""
        rows = np.arange(len(self))[indices]
        return LazyArray(lambda k: self._make(int(rows[k])), len(rows), self.shape[1:], self.dtype)


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
        ``(N, U)``, bool; of images pixels, ``(N, H, W)``, or int8 with -1 for void; or None, where unknown.
    pictures
        ``(N, H, W, 3)``, uint8, to be stored for viewing; None where units show themselves.
    targets
        What networks are to answer where that is no class: ``(N, 2)``, int64, the first and last token of
        every answer.
    """

    inputs: NDArray[Any] | LazyArray
    units: Units
    foreground: NDArray[np.bool_] | NDArray[np.int8] | LazyArray | None
    pictures: NDArray[np.uint8] | LazyArray | None = None
    targets: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class SampleSet(ABC):
    """Samples with their classes and stable names; a subclass adds the samples themselves.

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

    def __repr__(self) -> str:
        """Say how many samples of what, without printing any."""
        return f"{type(self).__name__}({len(self)} {self.plural}, {self.source!r})"

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
            If an identifier is not in the set, or one comes twice.
        IndexError
            If a position is not in the set.
        """
        asked = np.asarray(chosen)
        if asked.ndim != 1 or (asked.size and asked.dtype.kind not in "iuUO"):
            raise TypeError(f"chosen must be a sequence of positions or identifiers, got {describe(asked)}")
        if asked.dtype.kind in "UO":
            position = {name: index for index, name in enumerate(self.sample_ids)}
            unknown = [str(name) for name in asked if name not in position]
            if unknown:
                raise ValueError(f"chosen names {self.plural} that are not in the set: {name_some(unknown)}")
            asked = np.array([position[name] for name in asked])
        names = ("labels", "sample_ids", "split", *self.by_sample)
        return replace(self, **{name: _pick(getattr(self, name), asked.astype(int)) for name in names})

    def of_classes(self, names: Sequence[str]) -> Self:
        """Keep the samples of some classes, numbered in the order given.

        Raises
        ------
        ValueError
            If a class is not in the set.
        """
        if tuple(names) == self.classes:
            return self
        numbers = [self.classes.index(one_of("class", name, self.classes)) for name in names]
        chosen = self.select(np.flatnonzero(np.isin(self.labels, numbers)))
        labels = np.array([numbers.index(label) for label in chosen.labels], dtype=np.int64)
        return replace(chosen, labels=labels, classes=tuple(names))

    def read(self) -> Self:
        """Return the same samples as arrays in memory: quicker where all are used, over and over."""
        lazy = {name: getattr(self, name) for name in self.by_sample}
        arrays = {name: array[:] for name, array in lazy.items() if isinstance(array, LazyArray)}
        return replace(self, **arrays)  # type: ignore[arg-type]

    def divide(self, part: Part) -> Self:
        """Hold out a fifth of the samples, class by class, by nothing but their number, and return a part."""
        one_of("part", part, PARTS)
        order = np.random.default_rng(0).permutation(len(self))
        order = order[np.argsort(self.labels[order], kind="stable")]
        held_out = np.arange(len(order)) % _HELD_OUT == 0
        chosen = np.random.default_rng(1).permutation(order[held_out == (part == "held-out")])
        return replace(self.select(chosen), split=np.full(len(chosen), part))

    @abstractmethod
    def prepare(self) -> Prepared:
        """Bring the samples into the form that networks and measuring take."""

    def choose(self, count: int, *, evenly: bool = False) -> Self:
        """Pick samples to measure: the first ones or, on demand, as :meth:`pick_evenly` does.

        Raises
        ------
        DataError
            If none can be measured.
        """
        return self.pick_evenly(count) if evenly else self.select(np.arange(min(count, len(self))))

    def pick_evenly(self, count: int) -> Self:
        """Pick so many samples, or all there are, evenly from the whole set and so from its classes."""
        places = np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int)
        return self.select(np.sort(np.argsort(self.labels, kind="stable")[places]))

    def describe(self, prepared: Prepared) -> xr.Dataset:
        """Describe the samples for a run: names, classes, units, foreground, and pictures where there are."""
        units, valid = prepared.units, prepared.units.valid(len(self))
        masks = {} if prepared.foreground is None else units.place_masks(prepared.foreground, valid)
        ds = xr.Dataset(
            {
                **units.describe_units(len(self), np.shape(prepared.inputs)[1:]),
                **masks,
            },
            coords={
                "sample": list(self.sample_ids),
                "unit": np.arange(units.count),
                "label": ("sample", self.labels),
                "split": ("sample", list(self.split)),
                **units.coordinates(np.asarray(prepared.inputs)),
            },
        )
        if prepared.pictures is not None:
            ds["thumbnail"] = (("sample", "y_pixel", "x_pixel", "channel"), np.asarray(prepared.pictures))
        return ds

    @property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of everything but `source`."""
        arrays = [getattr(self, name) for name in (*self.by_sample, "labels")]
        arrays = [array for array in arrays if array is not None]
        names = [self.sample_ids, self.classes, self.split.tolist(), arrays[0].shape]
        digest = hashlib.sha256(json.dumps(names).encode())
        for array in arrays:
            for start in range(0, len(array), _CHUNK):
                digest.update(np.ascontiguousarray(array[start : start + _CHUNK]).tobytes())
        return digest.hexdigest()[:16]

    def __post_init__(self) -> None:
        """Check labels, split and names against the number of samples."""
        count, classes = len(getattr(self, self.by_sample[0])), len(self.classes)
        require_array("labels", self.labels, np.int64, (count,))
        require_array("split", self.split, np.str_, (count,))
        if len(self.sample_ids) != count:
            raise ValueError(f"sample_ids must name {count} {self.plural}, got {len(self.sample_ids)} names")
        for kind, names in (("classes", self.classes), ("sample_ids", self.sample_ids)):
            if odd := [ascii(name) for name in names if not is_utf8(name)]:
                raise ValueError(
                    f"{kind} must be text in UTF-8, got {name_some(odd)}; rename the files they come from"
                )
        if repeated := [name for name, times in Counter(self.sample_ids).items() if times > 1]:
            raise ValueError(f"sample_ids must differ, repeated: {name_some(repeated)}")
        if count and not (0 <= self.labels.min() and self.labels.max() < classes):
            found = f"{self.labels.min()}..{self.labels.max()}"
            raise ValueError(f"labels must lie in 0..{classes - 1} of {classes} classes, got {found}")


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

    @property
    def finds_spans(self) -> bool:
        """Whether networks are to find a span of tokens, not to name a class."""
        return False

    @abstractmethod
    def load(self, part: Part) -> SampleSet:
        """Load the samples to train on, ``"train"``, or those to test with, ``"held-out"``.

        Raises
        ------
        DataError
            If the data are missing or damaged.
        """

    def choose(self, samples: SampleSet, count: int, *, evenly: bool = False) -> SampleSet:
        """Pick samples to measure, as :meth:`SampleSet.choose`."""
        return samples.choose(count, evenly=evenly, **self._options())

    def prepare(self, samples: SampleSet, *, grid: int | None = None) -> Prepared:
        """Bring samples into the form that networks and measuring take; `grid` is for images alone."""
        return samples.prepare(**self._options(), **({} if grid is None else {"grid": grid}))

    def _options(self) -> dict[str, Any]:
        """Return what this modality asks to be told whenever it is prepared."""
        return {}


class OwnSource(Source):
    """Samples of the user's own; a fifth of every class is held out, unless their folders say which."""

    @abstractmethod
    def read(self) -> SampleSet:
        """Read all samples.

        Raises
        ------
        DataError
            If they are missing or damaged.
        """

    def load(self, part: Part) -> SampleSet:
        """Read the samples of a part."""
        return self.read().divide(part)


def _pick(values: Any, indices: NDArray[np.int64]) -> Any:
    """Take entries of an array or a tuple; None stays."""
    if isinstance(values, LazyArray):
        return values.take(indices)
    if isinstance(values, np.ndarray):
        return values[indices]
    return values and tuple(values[index] for index in indices)


def require_array(name: str, array: object, kind: type, shape: Sequence[int | str]) -> None:
    """Raise TypeError or ValueError unless an argument is an array of a kind and shape.

    In a shape, a letter stands for any size of 1 or more, ``"N"`` also for 0.
    """
    if not (isinstance(array, (np.ndarray, LazyArray)) and np.issubdtype(array.dtype, kind)):
        raise TypeError(f"{name} must be a NumPy array of {kind.__name__}, got {describe(array)}")
    pairs = zip(array.shape, shape, strict=False)
    fits = all(size == want or (isinstance(want, str) and (size or want == "N")) for size, want in pairs)
    if len(array.shape) != len(shape) or not fits:
        wanted = str(tuple(shape)).replace("'", "")
        raise ValueError(f"{name} must have shape {wanted}, got {array.shape}")


def check_folder(name: str, folder: Path, advice: str = "") -> None:
    """Refuse a path that is no folder, by the name of the argument or option and what to do instead."""
    if not folder.is_dir():
        raise DataError(f"{name} is not a folder: {folder}{advise(folder, advice)}")


def check_file(name: str, path: Path, advice: str) -> None:
    """Refuse a path that is no file, or a packed one, by the name of the argument and what to do instead."""
    if not path.is_file():
        fault = "a folder, not a file" if path.is_dir() else "not a file"
        raise DataError(f"{name} is {fault}: {path}{advise(path, advice)}")
    if path.suffix.lower() in _PACKED:
        raise DataError(f"{name} is packed: {path}; {advice}")


def advise(missing: Path, advice: str) -> str:
    """End a message about something that is missing: archives that lie packed there, and what to do.

    Archives are those of a name that the path or the advice says, or all that are in a folder given itself.
    """
    place = next(folder for folder in (missing, *missing.parents) if folder.is_dir())
    found = sorted(path for at in ("*", "*/*") for path in place.glob(at) if path.suffix.lower() in _PACKED)
    packed = [
        path for path in found if not is_hidden(path) and path.name.split(".")[0] in f"{missing} {advice}"
    ]
    if place == missing and not packed:
        packed = [path for path in found if path.parent == place and not is_hidden(path)]
    shown = f"not unpacked yet: {name_some(packed, most=3)}" if packed else ""
    return "".join(f"; {part}" for part in (shown, advice) if part)


def is_hidden(path: Path) -> bool:
    """Tell whether a file or folder is what systems and notebooks leave beside those of the user."""
    return path.name.startswith(".") or path.name == "__MACOSX"


def read_text(path: Path, advice: str = "") -> str:
    """Read a file of text in UTF-8.

    Raises
    ------
    DataError
        If it cannot be read, or is none; with what to do.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}{advice and '; '}{advice}") from error


def find_classes(root: Path) -> tuple[str, ...]:
    """Name the class folders, sorted.

    Raises
    ------
    DataError
        If `root` is missing or holds no folders.
    """
    check_folder("root", root)
    found = sorted(path.name for path in root.iterdir() if path.is_dir() and not is_hidden(path))
    if not found:
        raise DataError(f"{root} holds no class folders; files belong into {root / '<class>'}")
    return tuple(found)


def describe(value: object) -> str:
    """Say what kind of thing an argument is."""
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
