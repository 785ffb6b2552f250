"""Check inputs, masks and names once, before any work starts."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from kdviz.errors import DegenerateWarning, KdvizWarning
from kdviz.networks.hashing import fingerprint
from kdviz.networks.preparing import dtype_of
from kdviz.units import Grid, Units

_LARGE = 1000  # times the noise: normalised inputs come to about 100, pixels of 0 to 255 to about 10,000


@dataclass(frozen=True)
class Inputs:
    """Checked inputs and all that describes them.

    Attributes
    ----------
    tensor
        Shape ``(B, ...)``, on the CPU; floating point unless noise enters behind an embedding.
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
    """

    tensor: Tensor
    ids: list[str]
    units: Units
    samples: xr.Dataset
    hashes: list[str]
    fingerprint: str

    def batches(self, rows: range, together: int) -> Iterator[tuple[range, Tensor]]:
        """Divide samples into batches of equal size, without padding: `together` at once, or one by one."""
        if self.units.length(rows.start) is not None:
            together = 1
        for start in range(rows.start, rows.stop, together):
            part = range(start, min(start + together, rows.stop))
            yield part, _trim(self.tensor[part.start : part.stop], self.units, part.start)

    def check_precision(self, network: nn.Module) -> None:
        """Refuse inputs of another precision than that of a network's parameters, or of less than float32.

        Raises
        ------
        TypeError
            If they are.
        """
        dtype, ours = dtype_of(network), self.tensor.dtype
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
    inputs: Tensor | Iterable[Tensor],
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
    tensor = _as_tensor(inputs, integers=entry is not None)
    if entry is None:
        _check_noise_here(tensor, units)
    valid = units.valid(len(tensor))
    hashes = [
        fingerprint(_trim(sample, units, at), units.cut(at), digits=12) for at, sample in enumerate(tensor)
    ]
    ids = _unique(hashes) if sample_ids is None else _check_ids(sample_ids, len(tensor))
    samples = xr.Dataset(
        {"valid": (("sample", "unit"), valid)},
        coords={"sample": ids, "unit": np.arange(units.count), **units.coordinates(_as_array(tensor))},
    )
    if foreground is not None:
        mask = _unit_mask(foreground, units, tensor, valid)
        _warn_of_empty_masks(mask, valid, isinstance(units, Grid))
        samples["foreground"] = (("sample", "unit"), mask)
    if labels is not None:
        samples = samples.assign_coords(label=("sample", _check_labels(labels, len(tensor))))
    if base_noise is None and entry is None:
        _warn_of_large_inputs(tensor, units.base_noise)
    return Inputs(tensor, ids, units, samples, hashes, fingerprint("".join(hashes)))


def _as_array(tensor: Tensor) -> NDArray:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _check_noise_here(tensor: Tensor, units: Units) -> None:
    """Refuse inputs that noise cannot be added to."""
    try:
        units.index(tuple(tensor.shape[1:]))
    except ValueError as error:
        raise ValueError(f"{error}{layout_hint(tensor)}") from error


def _trim(tensor: Tensor, units: Units, sample: int) -> Tensor:
    """Cut the padding of a ragged sample off the last axis."""
    length = units.length(sample)
    return tensor if length is None else tensor[..., :length]


def layout_hint(tensor: Tensor) -> str:
    """Continue a message about inputs that do not fit: they look as if channels came last."""
    if tensor.ndim == 4 and tensor.shape[-1] in (1, 3, 4) and tensor.shape[1] not in (1, 3, 4):
        return "; channels seem to come last: pass inputs.permute(0, 3, 1, 2)"
    return ""


def _as_tensor(inputs: Tensor | Iterable[Tensor], integers: bool) -> Tensor:
    if not isinstance(inputs, Tensor):
        if not isinstance(inputs, Iterable):
            raise TypeError(f"inputs must be a tensor or an iterable of tensors, got {type(inputs).__name__}")
        batches = list(inputs)
        if not batches or not all(isinstance(batch, Tensor) for batch in batches):
            kinds = sorted({type(batch).__name__ for batch in batches}) or ["nothing"]
            raise TypeError(
                f"inputs must be a tensor or an iterable of tensors, got one of {', '.join(kinds)}; "
                "torch.from_numpy makes a tensor of an array"
            )
        shapes = sorted({tuple(batch.shape[1:]) for batch in batches})
        if len(shapes) > 1 or not all(batch.ndim for batch in batches):
            raise ValueError(f"inputs must be batches of samples of one shape, got samples of {shapes}")
        inputs = torch.cat([batch.detach().cpu() for batch in batches])
    if inputs.device.type == "meta":
        raise ValueError("inputs are on the meta device and hold no values")
    tensor = inputs.detach().cpu()
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
    if not all(torch.isfinite(part).all() for part in tensor.split(64)):  # no copy of all of them
        bad = torch.nonzero(~torch.isfinite(tensor.flatten(1)).all(1)).flatten().tolist()
        raise ValueError(f"inputs hold NaN or infinite values, first in the samples at {bad[:5]}")
    return tensor.contiguous()


def _unique(hashes: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    names = []
    for name in hashes:
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


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


def _check_labels(labels: ArrayLike, count: int) -> NDArray[np.int64]:
    array = np.asarray(labels)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise ValueError(f"labels must be {count} integers, got shape {array.shape} and dtype {array.dtype}")
    return array.astype(np.int64)


def _unit_mask(
    foreground: ArrayLike, units: Units, tensor: Tensor, valid: NDArray[np.bool_]
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
    if not isinstance(units, Grid):
        raise ValueError(f"foreground has shape {mask.shape}; allowed: {valid.shape}, one flag a unit")
    expected = (len(tensor), *tensor.shape[-2:])
    if mask.shape != expected:
        raise ValueError(
            f"foreground has shape {mask.shape}; allowed: pixels {expected} or units "
            f"{(len(tensor), units.count)}"
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


def _warn_of_large_inputs(tensor: Tensor, base_noise: float) -> None:
    size = float(torch.linalg.vector_norm(tensor)) / tensor.numel() ** 0.5
    if size > _LARGE * base_noise:
        warnings.warn(
            f"inputs are large (root mean square {size:.3g}), noise of {base_noise:g} is lost in them; "
            "normalise them as in training, or, if the network was trained on such inputs, pass a larger "
            f"base_noise, such as {base_noise * 255:g} for pixels of 0 to 255",
            KdvizWarning,
            stacklevel=4,
        )
