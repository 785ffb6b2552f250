"""What inputs come as, read some samples at a time: tensors in memory, a dataset, or batches in turn.

Items of a dataset or of a list of samples, and batches, are a tensor, a mapping of tensors, or a pair of one
and its target. Classes are a target, or an entry of a mapping with a name in `CLASSES`, that is one integer a
sample; other targets, and texts, are left out, so that a network is given none of them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import data

from kdviz.arguments import name_some
from kdviz.networks.features import Batch, main_of, map_batch, rows_at, rows_of

InputsLike = Batch | Iterable[Any]
"""A tensor ``(B, ...)``, a mapping of such tensors, a dataset, or an iterable of samples or of batches."""

_ENDLESS = 20_000  # samples after which what tells no length is taken to have no end
_AT_ONCE = 16  # samples that a dataset without positions gives together
_SHUFFLING = (data.RandomSampler, data.SubsetRandomSampler, data.WeightedRandomSampler)


CLASSES = ("label", "labels", "label_ids", "y", "target", "targets")
"""Names of what a mapping holds beside inputs; transformers would compute a loss of it."""


class Source(Protocol):
    """Inputs of which some can be read; not more than these are held."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def read(self, rows: Sequence[int]) -> tuple[Batch, NDArray | None]:
        """Return the inputs at increasing positions, on the CPU, and their classes or None."""


def find_source(inputs: Any, axes: int | None = None) -> Source:
    """Tell what inputs come as; what this found already is given back.

    `axes` are those of one sample: what a list holds is then known to be samples or batches of them.

    Raises
    ------
    TypeError
        If it is none of these.
    ValueError
        If it is a loader that shuffles, or has no end.
    """
    if isinstance(inputs, (Held, _Items, _Batches)):
        return inputs
    if isinstance(inputs, (Tensor, Mapping)):
        return Held(*_split(inputs, rows=True))
    if isinstance(inputs, data.IterableDataset):
        inputs = data.DataLoader(inputs, _AT_ONCE)
    is_dataset = hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__")
    if is_dataset and not isinstance(inputs, (list, tuple)):
        return _Items(inputs)
    if not isinstance(inputs, Iterable):
        raise TypeError(f"inputs must be {_ALLOWED}, got {type(inputs).__name__}")
    if isinstance(inputs, data.DataLoader):
        _check_order(inputs)
    if isinstance(inputs, Iterator):
        inputs = list(_walk(inputs))
    if isinstance(inputs, (list, tuple)) and inputs and _is_sample(inputs[0], axes):
        return _Items(inputs)
    return _Batches(inputs)


_ALLOWED = "a tensor or an iterable of tensors, a mapping of tensors or a dataset"


def _check_order(loader: data.DataLoader) -> None:
    """Refuse a loader that shuffles, or whose sampler has no end."""
    if isinstance(loader.dataset, data.IterableDataset):  # it has no order but its own
        return
    for sampler in (loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)):
        if isinstance(sampler, _SHUFFLING) or getattr(sampler, "shuffle", False):
            raise ValueError(
                f"inputs are a DataLoader that shuffles ({type(sampler).__name__}): masks, labels and "
                "sample_ids would be of other samples; pass shuffle=False, or its data: inputs=loader.dataset"
            )
        if sampler is not None and not hasattr(sampler, "__len__"):
            _refuse_endless(type(sampler).__name__)


def _refuse_endless(what: str) -> NoReturn:
    raise ValueError(
        f"inputs seem to have no end ({what}); pass a dataset, a loader that tells its length, or "
        "some batches: list(itertools.islice(inputs, 10))"
    )


def _walk(batches: Iterable[Any]) -> Iterator[Any]:
    """Go through batches once.

    Raises
    ------
    ValueError
        If they have no end, or a loader cannot put samples of several shapes into one.
    """
    if isinstance(batches, cycle):
        _refuse_endless("itertools.cycle")
    try:
        told = len(batches)  # type: ignore[arg-type]
    except TypeError:
        told = None
    count = 0
    try:
        for batch in batches:
            yield batch
            count += max((len(one) for one in _list_tensors(batch) if one.ndim), default=1)
            if told is None and count > _ENDLESS:
                _refuse_endless(f"more than {_ENDLESS} samples, and no length is told")
    except RuntimeError as error:
        shapes = re.findall(r"\[(\d[\d, ]*)\] at entry", str(error))  # as the default of loaders says it
        if not shapes:
            raise
        refuse_shapes(tuple(map(int, shape.split(","))) for shape in shapes)


def refuse_shapes(shapes: Iterable[tuple[int, ...]]) -> NoReturn:
    """Say that samples are not of one shape, and what to do with images, or with texts.

    Raises
    ------
    ValueError
        Always.
    """
    known = sorted({*shapes})
    advice = "pad texts to one length, as by padding='max_length' of a tokenizer"
    if {len(shape) for shape in known} == {3} and len({channels for channels, *_ in known}) == 1:
        size = tuple(min(sides) for sides in list(zip(*known, strict=True))[1:])
        advice = (
            f"resize images (and masks) to one size, such as torch.cat([torch.nn.functional.interpolate("
            f"image[None], {size}, mode='bilinear', antialias=True) for image in images])"
        )
    raise ValueError(
        f"inputs must be batches of samples of one shape, got samples of {name_some(known)}; {advice}"
    )


def read_all(inputs: InputsLike, axes: int | None) -> Tensor:
    """Read inputs of one tensor a sample, whatever they come as, into one ``(B, ...)``, on the CPU.

    `axes` as in `find_source`.

    Raises
    ------
    TypeError
        If they are something else.
    """
    source = find_source(inputs, axes)
    tensor, _ = source.read(range(len(source)))
    if not isinstance(tensor, Tensor):
        raise TypeError(f"inputs must be one tensor a sample here, got a mapping of {', '.join(tensor)}")
    return tensor


class Held:
    """Tensors in memory."""

    def __init__(self, values: Batch, classes: NDArray | None) -> None:
        self.values, self.classes = values, classes

    def __len__(self) -> int:
        """Return the number of samples."""
        return rows_of(self.values)

    def read(self, rows: Sequence[int]) -> tuple[Batch, NDArray | None]:
        """As `Source.read`; a view where rows follow each other."""
        part = slice(rows[0], rows[-1] + 1) if len(rows) == rows[-1] + 1 - rows[0] else list(rows)
        values = map_batch(rows_at(self.values, part), Tensor.contiguous)
        return values, None if self.classes is None else self.classes[part]


class _Items:
    """A dataset in the style of torch: a length, and an item for every position."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, rows: Sequence[int]) -> tuple[Batch, NDArray | None]:
        values, classes = zip(*(_split(self.dataset[row], rows=False) for row in rows), strict=True)
        return _join(values, torch.stack), _all_or_none(classes)


class _Batches:
    """Batches one after the other; walked through again where earlier samples are asked for."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches
        self._walk: Iterator[Any] | None = None
        self._start = self._end = 0
        self._count: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out how far the walk has come."""
        return {**self.__dict__, "_walk": None, "_batch": None}

    def __len__(self) -> int:
        if self._count is None:
            self._count = sum(rows_of(_split(batch, rows=True)[0]) for batch in _walk(self.batches))
        return self._count

    def read(self, rows: Sequence[int]) -> tuple[Batch, NDArray | None]:
        values, classes = [], []
        for row in rows:
            at = self._go_to(row)
            batch, some = self._batch
            values.append(rows_at(batch, slice(at, at + 1)))
            classes.append(None if some is None else some[at])
        return _join(values, torch.cat), _all_or_none(classes)

    def _go_to(self, row: int) -> int:
        """Walk to the batch that holds a sample; return its place there."""
        if self._walk is None or row < self._start:
            self._walk, self._start, self._end = _walk(self.batches), 0, 0
        while row >= self._end:
            self._batch = _split(next(self._walk), rows=True)
            self._start, self._end = self._end, self._end + rows_of(self._batch[0])
        return row - self._start


def _split(item: Any, *, rows: bool) -> tuple[Batch, NDArray | None]:
    """Take the tensors of an item or, of several `rows`, a batch, on the CPU, and its classes."""
    several = isinstance(item, (tuple, list)) and bool(item)
    values, *beside = item if several else (item,)
    if isinstance(values, Mapping):
        named = [values[name] for name in CLASSES if name in values]
        inputs = {
            name: value for name, value in values.items() if name not in CLASSES and not _is_text(value)
        }
        values, beside = (inputs, [*beside, *named]) if inputs else (values, beside)
    tensors = list(values.values()) if isinstance(values, Mapping) else [values]
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        came = next((value for value in tensors if not isinstance(value, Tensor)), values)
        raise TypeError(
            f"inputs must be {_ALLOWED}, got one of {type(came).__name__}; torch.from_numpy makes a tensor "
            "of an array, and return_tensors='pt' lets a tokenizer give tensors"
        )
    batch = map_batch(values, lambda tensor: tensor.detach().cpu())
    shape = (rows_of(batch),) if rows else ()
    classes = [known for known in map(_as_integers, beside) if known is not None and known.shape == shape]
    if several and len(item) > 2 and len(classes) < len(beside):
        raise TypeError(
            f"inputs come as tuples of {len(item)}, and which of them the network takes as what is unknown; "
            "pass mappings by the names of its arguments, such as ({'input_ids': ids, 'attention_mask': "
            "mask, 'labels': label} for ids, mask, label in loader)"
        )
    return batch, classes[0] if classes else None


def _is_sample(item: Any, axes: int | None) -> bool:
    """Tell whether what a list holds is one sample, of so many axes, and no batch."""
    tensors = _list_tensors(item)
    return axes is not None and bool(tensors) and max(tensor.ndim for tensor in tensors) <= axes


def _list_tensors(item: Any) -> list[Tensor]:
    """List what tensors an item or a batch holds, its targets left out."""
    values = item[0] if isinstance(item, (tuple, list)) and item else item
    parts = values.values() if isinstance(values, Mapping) else [values]
    return [part for part in parts if isinstance(part, Tensor)]


def _is_text(value: Any) -> bool:
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    return isinstance(first, (str, bytes)) or first is None


def _as_integers(target: Any) -> NDArray | None:
    """Return a target as an array if it is whole numbers."""
    if isinstance(target, Mapping) or target is None:
        return None
    array = np.asarray(target.detach().cpu() if isinstance(target, Tensor) else target)
    return array if array.dtype.kind in "iub" else None


def _all_or_none(classes: Sequence[Any]) -> NDArray | None:
    known = [int(one) for one in classes if one is not None]
    return np.array(known) if known and len(known) == len(classes) else None


def _join(parts: Sequence[Batch], join: Callable[[list[Tensor]], Tensor]) -> Batch:
    """Put single samples together."""
    first = parts[0]
    if not isinstance(first, Tensor):
        return {name: main_of(_join([main_of(part, name) for part in parts], join), None) for name in first}
    cut = 1 if join is torch.cat else 0
    shapes = {tuple(part.shape[cut:]) for part in parts if isinstance(part, Tensor)}
    if len(shapes) > 1 or first.ndim < cut:
        refuse_shapes(shapes)
    return join(list(parts))  # type: ignore[arg-type]
