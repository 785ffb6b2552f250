"""Check inputs, masks and names once, before any work starts."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from kdviz import schema
from kdviz.arguments import name_some
from kdviz.errors import KdvizWarning
from kdviz.networks.features import Batch, main_of, map_batch, noisy_part, rows_at, rows_of
from kdviz.networks.hashing import fingerprint
from kdviz.networks.preparing import dtype_of, is_coarse
from kdviz.networks.reading import Held, InputsLike, Source, find_source, refuse_shapes
from kdviz.units import Units
from kdviz.units.base import Coordinates

_AT_ONCE = 64  # samples read together when all are checked

_LARGE = 10_000  # times the noise: normalised inputs come to some hundreds, pixels of 0 to 255 to 25,500


@dataclass(frozen=True)
class Inputs:
    """Checked inputs and all that describes them.

    Attributes
    ----------
    source
        Where they are read from, block by block.
    main
        Name of the tensor that is described, of several: that of the noise, or, where noise falls on the
        output of a module, the first.
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
            if _hash(rows_at(batch, slice(at, at + 1)), self.main, self.units, row) != self.hashes[row]:
                raise ValueError(
                    f"inputs change between two readings, first sample {self.ids[row]}; switch off what is "
                    "random in them, such as augmentation and shuffling"
                )
        return batch

    def read(self, rows: Sequence[int]) -> Tensor:
        """Read the described tensor of samples at increasing positions."""
        return main_of(self.take(rows), self.main)

    def alone(self, row: int) -> Batch:
        """Read one sample at its own length, ``(1, ...)``."""
        return _trim(self.take([row]), self.units, row)

    def batches(self, rows: range, together: int) -> Iterator[tuple[range, Batch]]:
        """Divide samples into batches of equal size, without padding: `together` at once, or one by one."""
        if self.units.length(rows.start) is not None:
            together = 1
        for start in range(rows.start, rows.stop, together):
            part = range(start, min(start + together, rows.stop))
            yield part, _trim(self.take(part), self.units, part.start)

    def check_precision(self, network: nn.Module) -> None:
        """Refuse inputs of another precision than that of a network's parameters.

        Raises
        ------
        TypeError
            If they are.
        """
        dtype = dtype_of(network)
        if dtype not in (None, self.dtype):
            raise TypeError(
                f"inputs are {self.dtype} and the network is {dtype}; convert them with inputs.to({dtype})"
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

    `base_noise` is None if it was left to `units`; `entry` the name of a module, or of one of several inputs;
    `kind` the units that the caller can work with.
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
    source = find_source(inputs, units.axes)
    count = len(source)
    if not count:
        raise ValueError("inputs are empty; pass at least one sample")
    valid = units.valid(count)
    about, coordinates, classes = _survey(source, units, entry)
    ids = _name(about["hashes"]) if sample_ids is None else [str(name) for name in sample_ids]
    if len(ids) != count or len(set(ids)) != count:
        raise ValueError(
            f"sample_ids must be {count} unique names, got {len(ids)}, {len(set(ids))} different"
        )
    samples = xr.Dataset(
        units.describe_units(count, about["shape"] if entry in (None, about["main"]) else None),
        coords={"sample": ids, "unit": np.arange(units.count), **coordinates},
    )
    if foreground is not None:
        pixels = (count, *about["shape"][-2:])
        samples = samples.assign(units.place_masks(foreground, valid, pixels))
    labels = classes if labels is None else labels
    if labels is not None:
        samples = samples.assign_coords(label=("sample", check_labels("labels", labels, count)))
    schema.validate(samples)
    largest = max(map(abs, about["limits"]))
    if base_noise is None and entry in (None, about["main"]) and largest > _LARGE * units.base_noise:
        warnings.warn(
            f"inputs are large (up to {largest:.3g}), noise of {units.base_noise:g} is lost in them; "
            "normalise them as in training, or, if the network was trained on such inputs, pass a larger "
            f"base_noise, such as {units.base_noise * largest:.3g}",
            KdvizWarning,
            stacklevel=3,
        )
    return Inputs(source, ids=ids, units=units, samples=samples, **about)


def _survey(
    source: Source, units: Units, entry: str | None
) -> tuple[dict[str, Any], dict[str, Any], NDArray | None]:
    """Read all samples once, some at a time, check their values and hash them.

    Returns
    -------
    about, coordinates, classes
        What `Inputs` holds of them; of the units; of the samples, or None.
    """
    count, main, limits = len(source), None, (math.inf, -math.inf)
    hashes: list[str] = []
    coordinates: list[Coordinates] = []
    classes: list[Any] = []
    shapes: set[tuple[int, ...]] = set()
    for start in range(0, count, _AT_ONCE):
        batch, known = source.read(range(start, min(start + _AT_ONCE, count)))
        if start == 0:
            main = _find_main(batch, units, entry)
            entry = None if main == entry else entry
        tensor = main_of(batch, main)
        _check_values(tensor, start, integers=entry is not None)
        _check_padding(batch, units, start)
        if entry is None and start == 0:
            _check_units(tuple(_trim_tensor(tensor[:1], units, 0).shape[1:]), units)
        shapes.add(tuple(tensor.shape[1:]))
        hashes += [
            _hash(rows_at(batch, slice(at, at + 1)), main, units, start + at) for at in range(len(tensor))
        ]
        coordinates.append(units.coordinates(tensor.numpy()))
        classes.append(known)
        low, high = (float(end) for end in torch.aminmax(tensor))
        limits = min(limits[0], low), max(limits[1], high)
    if len(shapes) > 1:
        refuse_shapes(shapes)
    about = {
        "main": main,
        "hashes": hashes,
        "fingerprint": fingerprint("".join(hashes)),
        "shape": shapes.pop(),
        "dtype": tensor.dtype,
        "limits": limits,
    }
    joined = {name: _join_coordinate([some[name] for some in coordinates], count) for name in coordinates[0]}
    return about, joined, None if any(known is None for known in classes) else np.concatenate(classes)


def _join_coordinate(parts: Sequence[tuple[Any, NDArray]], count: int) -> tuple[Any, NDArray]:
    """Put a coordinate of blocks together, unless every block gave it for all samples or for none."""
    dims, values = parts[0]
    if dims[0] != "sample" or len(values) == count:
        return dims, values
    return dims, np.concatenate([values for _, values in parts])


def _hash(sample: Batch, main: str | None, units: Units, at: int) -> str:
    """Hash one sample without its padding, whichever way round it comes, and how it is cut into units."""
    sample, cut = _trim(sample, units, at), units.cut(at)
    tensor = main_of(sample, main)
    if units.is_turned(tuple(tensor.shape[1:])):
        sample = tensor.mT if isinstance(sample, Tensor) else {**sample, str(main): tensor.mT}
    parts = [sample] if isinstance(sample, Tensor) else chain(*sorted(sample.items()))
    return fingerprint(*parts, cut, digits=12)


def _check_units(shape: tuple[int, ...], units: Units) -> None:
    """Refuse inputs that the units do not fit."""
    try:
        units.index(shape)
    except ValueError as error:
        raise ValueError(f"{error}{hint_at_channels(shape)}") from error


def hint_at_channels(shape: Sequence[int]) -> str:
    """Say what to do with a sample of this shape if it seems an image whose channels come last."""
    channels_last = len(shape) == 3 and shape[-1] in (1, 3, 4) and shape[0] not in (1, 3, 4)
    return "; channels seem to come last: pass inputs.permute(0, 3, 1, 2)" if channels_last else ""


def _find_main(batch: Batch, units: Units, entry: str | None) -> str | None:
    """Name the tensor of several that is described: the one named, or that on which noise falls."""
    if isinstance(batch, Tensor):
        return None
    if entry is not None:
        return entry if entry in batch else next(iter(batch))

    def fits(tensor: Tensor) -> bool:
        with suppress(ValueError):
            return units.index(tuple(_trim_tensor(tensor[:1], units, 0).shape[1:])) is not None
        return False

    return noisy_part(batch, fits)


def _trim(batch: Batch, units: Units, sample: int) -> Batch:
    """Cut the padding of a ragged sample off."""
    return map_batch(batch, lambda tensor: _trim_tensor(tensor, units, sample))


def _trim_tensor(tensor: Tensor, units: Units, sample: int) -> Tensor:
    """Cut every axis that is as long as a padded text, but for that of the samples.

    Masks of attention have two of them, at the end; what embeds tokens has its width after theirs.
    """
    length, width = units.length(sample), units.width
    axes = [axis for axis in range(1, tensor.ndim) if width is not None and tensor.shape[axis] == width]
    for axis in axes[:1] if tensor.is_floating_point() and tensor.ndim == 3 else axes[-2:]:
        assert length is not None
        tensor = tensor.narrow(axis, 0, length)
    return tensor


def _check_padding(batch: Batch, units: Units, start: int) -> None:
    """Refuse texts that do not begin at their first token: padding at the left would be read as text."""
    width = units.width
    tensors = {"": batch} if isinstance(batch, Tensor) else batch
    if width is None:
        return
    if not any(width in tensor.shape[1:] for tensor in tensors.values()):
        shapes = sorted({tuple(tensor.shape[1:]) for tensor in tensors.values()})
        raise ValueError(
            f"units are of texts of {width} tokens, padding included; inputs have shapes {shapes}"
        )
    mask = tensors.get("attention_mask")
    ids = [tensor for tensor in tensors.values() if tensor.ndim == 2 and not tensor.is_floating_point()]
    for at in range(rows_of(batch)):
        length = units.length(start + at)
        if mask is not None and mask.shape[1:] == (width,):
            text = mask[at] != 0
            wrong = not text[:length].all() or bool(text[length:].any())
        else:
            wrong = any(len(row[at, length:].unique()) > 1 for row in ids if row.shape[1] == width)
        if wrong:
            raise ValueError(
                f"text {start + at} is not its first {length} tokens, as units.tokens says; pad after texts, "
                "not before them: set tokenizer.padding_side = 'right', or encode with kdviz.sources.encode"
            )


def _check_values(tensor: Tensor, start: int, integers: bool) -> None:
    check_type(tensor, integers, "For token ids, name the embedding module as entry")
    if is_coarse(tensor):
        raise TypeError(
            f"inputs are {tensor.dtype}, too coarse for the small noise of a measurement; pass inputs.float()"
        )
    if tensor.ndim < 2:
        raise ValueError(f"inputs must have shape (B, ...), got {tuple(tensor.shape)}")
    check_finite(tensor, range(start, start + len(tensor)))


def check_finite(batch: Batch, names: Sequence[object]) -> None:
    """Refuse inputs that hold NaN or infinite values; `names` are those of the samples.

    Raises
    ------
    ValueError
        If they do; it says which samples.
    """
    for part, tensor in {"": batch}.items() if isinstance(batch, Tensor) else batch.items():
        finite = torch.isfinite(tensor.flatten(1)).all(1)
        if not finite.all():
            bad = name_some(name for name, fine in zip(names, finite.tolist(), strict=True) if not fine)
            raise ValueError(
                f"inputs{f'[{part!r}]' if part else ''} hold NaN or infinite values, in samples {bad}"
            )


def check_type(tensor: Tensor, integers: bool, advice: str) -> None:
    """Refuse inputs that are not floating point, nor integers where these are allowed.

    Raises
    ------
    TypeError
        If they are not, in a sentence that `advice` follows.
    """
    is_integer = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    if not tensor.is_floating_point() and not (integers and is_integer):
        raise TypeError(
            f"inputs must be floating point, normalised as in training; got {tensor.dtype}. {advice}"
        )


def _name(hashes: list[str]) -> list[str]:
    """Make names of hashes, those that come again with a number."""
    before = pd.Series(hashes).groupby(hashes).cumcount()
    return [f"{name}-{count + 1}" if count else name for name, count in zip(hashes, before, strict=True)]


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
    if count and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must be integers of 63 bits at most, got {array.max()}")
    return array.astype(np.int64)
