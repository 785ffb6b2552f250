"""Check inputs, masks and names once, before any work starts."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from kdviz.errors import DegenerateWarning, KdvizWarning
from kdviz.networks.features import Batch, main_of, map_batch, noisy_part, rows_at
from kdviz.networks.hashing import fingerprint
from kdviz.networks.preparing import dtype_of
from kdviz.networks.reading import Held, InputsLike, Source, find_source
from kdviz.units import Grid, ImageUnits, Units
from kdviz.units.base import Coordinates

_AT_ONCE = 64  # samples read together when all are checked

_LARGE = 1000  # times the noise: normalised inputs come to about 100, pixels of 0 to 255 to about 10,000


@dataclass(frozen=True)
class Inputs:
    """Checked inputs and all that describes them.

    Attributes
    ----------
    source
        Where they are read from, block by block.
    main
        Name of the tensor that is described, of several: that of the noise, else the first.
    ids
        ``B`` unique names.
    units
        What shares one noise scale.
    samples
        Coordinates and masks shared by all epochs: sample, unit, label, foreground, ...
    hashes
        Short hash of every input, padding left out.
    fingerprint
        Short hash of the inputs, in order.
    shape, dtype
        Of one sample, padding included, and of its values.
    limits
        Smallest and largest value of all.
    """

    source: Source
    main: str | None
    ids: list[str]
    units: Units
    samples: xr.Dataset
    hashes: list[str]
    fingerprint: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    limits: tuple[float, float]

    def take(self, rows: Sequence[int]) -> Batch:
        """Read the samples at increasing positions, padding included.

        Raises
        ------
        ValueError
            If they are not what they were when they were first read.
        """
        batch, _ = self.source.read(rows)
        for at, row in enumerate(() if isinstance(self.source, Held) else rows):
            if _hash(rows_at(batch, at), self.units, row) != self.hashes[row]:
                raise ValueError(
                    f"inputs change between two readings, first sample {self.ids[row]}; switch off what is "
                    "random in them, such as augmentation and shuffling"
                )
        return batch

    def read(self, rows: Sequence[int]) -> Tensor:
        """Read the described tensor of samples at increasing positions."""
        return main_of(self.take(rows), self.main)

    def batches(self, rows: range, together: int) -> Iterator[tuple[range, Batch]]:
        """Divide samples into batches of equal size, without padding: `together` at once, or one by one."""
        if self.units.length(rows.start) is not None:
            together = 1
        for start in range(rows.start, rows.stop, together):
            part = range(start, min(start + together, rows.stop))
            yield part, _trim(self.take(part), self.units, part.start)

    def check_precision(self, network: nn.Module) -> None:
        """Refuse inputs of another precision than that of a network's parameters, or of less than float32.

        Raises
        ------
        TypeError
            If they are.
        """
        dtype, ours = dtype_of(network), self.dtype
        if dtype not in (None, ours):
            raise TypeError(
                f"inputs are {ours} and the network is {dtype}; convert them with inputs.to({dtype})"
            )
        if torch.finfo(ours).bits < 32:
            raise TypeError(
                f"inputs are {ours}, which is too coarse for the small noise of a measurement; pass "
                "inputs.float()"
            )


def prepare_inputs(
    inputs: InputsLike,
    units: Units,
    foreground: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    sample_ids: Sequence[str] | None = None,
    base_noise: float | None = None,
    entry: str | None = None,
    kind: type[Units] = Units,
) -> Inputs:
    """Check and name inputs; the arguments and errors are those of :func:`kdviz.measure`.

    `base_noise` is None if it was left to `units`; `kind` the units that the caller can work with.
    """
    if not isinstance(units, Units):
        raise TypeError(
            f"units must be made by kdviz.units, such as units.grid(16, 16), got {type(units).__name__}"
        )
    if not isinstance(units, kind):
        raise TypeError(f"units are {units.describe()}; this works with units.{kind.__name__.lower()} only")
    if entry is None and units.needs_entry:
        raise ValueError(
            "units.tokens needs entry: the name of the module at whose output noise is added to words, the "
            "whole embedding with positions and LayerNorm, such as entry='encoder.embeddings'"
        )
    source = find_source(inputs)
    count = len(source)
    if not count and not isinstance(source, Held):
        raise TypeError("inputs must be an iterable of tensors or a dataset, got one of nothing")
    valid = units.valid(count)
    found = _survey(source, units, entry)
    ids = _unique(found.hashes) if sample_ids is None else _check_ids(sample_ids, count)
    samples = xr.Dataset(
        {"valid": (("sample", "unit"), valid)},
        coords={"sample": ids, "unit": np.arange(units.count), **found.coordinates},
    )
    if foreground is not None:
        mask = _unit_mask(foreground, units, (count, *found.shape[-2:]), valid)
        _warn_of_empty_masks(mask, valid, isinstance(units, Grid))
        samples["foreground"] = (("sample", "unit"), mask)
    labels = found.classes if labels is None else labels
    if labels is not None:
        samples = samples.assign_coords(label=("sample", check_labels("labels", labels, count)))
    if base_noise is None and entry is None:
        _warn_of_large_inputs(found.size, units.base_noise)
    together = fingerprint("".join(found.hashes))
    about = (found.shape, found.dtype, found.limits)
    return Inputs(source, found.main, ids, units, samples, found.hashes, together, *about)


@dataclass
class _Survey:
    """What one reading of all samples shows."""

    main: str | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    hashes: list[str]
    coordinates: dict[str, Any]
    classes: NDArray | None
    limits: tuple[float, float]
    size: float


def _survey(source: Source, units: Units, entry: str | None) -> _Survey:
    """Read all samples once, some at a time, check their values and hash them."""
    count = len(source)
    main, squares, values_seen, limits = None, 0.0, 0, (math.inf, -math.inf)
    hashes: list[str] = []
    coordinates: list[Coordinates] = []
    classes: list[Any] = []
    shapes: set[tuple[int, ...]] = set()
    for start in range(0, max(count, 1), _AT_ONCE):
        batch, known = source.read(range(start, min(start + _AT_ONCE, count)))
        if start == 0:
            mapping = not isinstance(batch, Tensor)
            main = noisy_part(batch) if entry is None else next(iter(batch)) if mapping else None
        tensor = main_of(batch, main)
        _check_values(tensor, start, integers=entry is not None)
        if entry is None and start == 0:
            _check_units(tensor, units)
        shapes.add(tuple(tensor.shape[1:]))
        hashes += [_hash(rows_at(batch, at), units, start + at) for at in range(len(tensor))]
        coordinates.append(units.coordinates(_as_array(tensor)))
        classes.append(known)
        low, high = (float(end) for end in torch.aminmax(tensor))
        limits = min(limits[0], low), max(limits[1], high)
        squares += float(tensor.double().square().sum())
        values_seen += tensor.numel()
    if len(shapes) > 1:
        raise ValueError(f"inputs must be batches of samples of one shape, got samples of {sorted(shapes)}")
    return _Survey(
        main,
        shapes.pop(),
        tensor.dtype,
        hashes,
        {name: _join_coordinate([some[name] for some in coordinates], count) for name in coordinates[0]},
        None if any(known is None for known in classes) else np.concatenate(classes),
        limits,
        (squares / values_seen) ** 0.5,
    )


def _join_coordinate(parts: Sequence[tuple[Any, NDArray]], count: int) -> tuple[Any, NDArray]:
    """Put a coordinate of blocks together, unless every block gave it for all samples or for none."""
    dims, values = parts[0]
    if dims[0] != "sample" or len(values) == count:
        return dims, values
    return dims, np.concatenate([values for _, values in parts])


def _hash(sample: Batch, units: Units, at: int) -> str:
    """Hash one sample without its padding, and how it is cut into units."""
    sample, cut = _trim(sample, units, at), units.cut(at)
    parts = [sample] if isinstance(sample, Tensor) else chain(*sorted(sample.items()))
    return fingerprint(*parts, cut, digits=12)


def _as_array(tensor: Tensor) -> NDArray:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _check_units(tensor: Tensor, units: Units) -> None:
    """Refuse inputs that the units do not fit."""
    try:
        units.index(tuple(tensor.shape[1:]))
    except ValueError as error:
        raise ValueError(f"{error}{layout_hint(tuple(tensor.shape[1:]))}") from error


def _trim(batch: Batch, units: Units, sample: int) -> Batch:
    """Cut the padding of a ragged sample off the last axis, where a tensor has it."""
    length = units.length(sample)
    if length is None:
        return batch
    width = max((tensor.shape[-1] for tensor in _tensors_of(batch) if tensor.ndim), default=0)
    return map_batch(batch, lambda tensor: tensor[..., :length] if tensor.shape[-1:] == (width,) else tensor)


def _tensors_of(batch: Batch) -> list[Tensor]:
    return [batch] if isinstance(batch, Tensor) else list(batch.values())


def layout_hint(shape: tuple[int, ...]) -> str:
    """Continue a message about samples that do not fit: they look as if channels came last."""
    if len(shape) == 3 and shape[-1] in (1, 3, 4) and shape[0] not in (1, 3, 4):
        return "; channels seem to come last: pass inputs.permute(0, 3, 1, 2)"
    return ""


def _check_values(tensor: Tensor, start: int, integers: bool) -> None:
    if not tensor.is_floating_point() and not integers:
        raise TypeError(
            f"inputs must be floating point, normalised as in training; got {tensor.dtype}. For token ids, "
            "name the embedding module as entry"
        )
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"inputs must be real numbers, got {tensor.dtype}")
    if tensor.ndim < 2 or not len(tensor):
        raise ValueError(
            f"inputs must have shape (B, ...) with at least one sample, got {tuple(tensor.shape)}"
        )
    finite = torch.isfinite(tensor.flatten(1)).all(1)
    if not finite.all():
        bad = [start + at for at in torch.nonzero(~finite).flatten().tolist()]
        raise ValueError(f"inputs hold NaN or infinite values, first in the samples at {bad[:5]}")


def _unique(hashes: list[str]) -> list[str]:
    before = pd.Series(hashes).groupby(hashes).cumcount()
    return [f"{name}-{count + 1}" if count else name for name, count in zip(hashes, before, strict=True)]


def _check_ids(sample_ids: Sequence[str], count: int) -> list[str]:
    if isinstance(sample_ids, str):
        raise TypeError(f"sample_ids must be a sequence of names, got the one string {sample_ids!r}")
    ids = [str(name) for name in sample_ids]
    if len(ids) != count:
        raise ValueError(f"sample_ids has {len(ids)} names for {count} inputs")
    if len(set(ids)) != count:
        repeated = sorted({name for name in ids if ids.count(name) > 1})
        raise ValueError(f"sample_ids must be unique, repeated: {', '.join(repeated[:5])}")
    return ids


def check_labels(name: str, labels: ArrayLike, count: int) -> NDArray[np.int64]:
    """Return the classes of `count` samples as an array; `name` is that of the argument.

    Raises
    ------
    ValueError
        If they are not one integer for each.
    """
    array = np.asarray(labels)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be {count} integers, got shape {array.shape} of {array.dtype}")
    return array.astype(np.int64)


def _unit_mask(
    foreground: ArrayLike, units: Units, pixels: tuple[int, ...], valid: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    mask = np.asarray(foreground)
    if mask.dtype.kind == "f" and not np.isfinite(mask).all():
        raise ValueError("foreground holds NaN or infinite values")
    if mask.shape == valid.shape:
        beyond = ((mask > 0) & ~valid).any(1)
        if beyond.any():
            raise ValueError(
                f"foreground marks units that do not exist, first in sample {np.flatnonzero(beyond)[0]}, "
                f"which has {valid[np.flatnonzero(beyond)[0]].sum()}"
            )
        return mask > 0
    if not isinstance(units, ImageUnits):
        raise ValueError(f"foreground has shape {mask.shape}; allowed: {valid.shape}, one flag a unit")
    if mask.shape != pixels:
        raise ValueError(
            f"foreground has shape {mask.shape}; allowed: pixels {pixels} or units {valid.shape}"
        )
    return units.reduce_mask(mask > 0)


def _warn_of_empty_masks(mask: NDArray[np.bool_], valid: NDArray[np.bool_], on_grid: bool) -> None:
    advice = "a finer grid sees smaller objects" if on_grid else "their ratio counts as 0"
    for empty, what, so in (
        (~mask.any(1), "no foreground", advice),
        ((mask | ~valid).all(1), "no background", "nothing is left to compare their foreground with"),
    ):
        if empty.any():
            warnings.warn(
                f"{empty.sum()} of {len(mask)} samples have {what} in units, first those at "
                f"{np.flatnonzero(empty)[:5].tolist()}; {so}",
                DegenerateWarning,
                stacklevel=4,
            )


def _warn_of_large_inputs(size: float, base_noise: float) -> None:
    if size > _LARGE * base_noise:
        warnings.warn(
            f"inputs are large (root mean square {size:.3g}), noise of {base_noise:g} is lost in them; "
            "normalise them as in training, or, if the network was trained on such inputs, pass a larger "
            f"base_noise, such as {base_noise * 255:g} for pixels of 0 to 255",
            KdvizWarning,
            stacklevel=4,
        )
