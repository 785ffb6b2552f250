"""What the analyses read from a dataset, and the checks made before any work."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import xarray as xr

from kdviz.arguments import whole_number
from kdviz.points import Bools, Floats
from kdviz.schema import validate

ENTROPY_SETTINGS = ("solver", "weight", "calibration", "feature_loss")


def read_masks(ds: xr.Dataset) -> tuple[Bools, Bools]:
    """Read ``foreground`` and ``valid``, both (sample, unit); without ``valid`` every unit is."""
    foreground = ds["foreground"].values
    return foreground, ds["valid"].values if "valid" in ds else np.ones_like(foreground)


def read_points(ds: xr.Dataset) -> tuple[Bools, Bools]:
    """Read ``knowledge_point`` and ``uncertain``; without ``uncertain`` no unit is."""
    found = ds["knowledge_point"].values
    return found, ds["uncertain"].values if "uncertain" in ds else np.zeros_like(found)


def read_settings(ds: xr.Dataset) -> dict[str, Any]:
    """Read threshold and background, as `kdviz.find_points` noted them."""
    attrs = ds["knowledge_point"].attrs
    if missing := [name for name in ("threshold", "background") if name not in attrs]:
        raise ValueError(f"knowledge_point has no attribute {', '.join(missing)}; make it with find_points")
    return {"threshold": float(attrs["threshold"]), "background": str(attrs["background"])}


def read_entropy_settings(ds: xr.Dataset) -> dict[str, Any]:
    """Read those of `ENTROPY_SETTINGS` the entropies were solved with; an absent one was not used.

    `derive_entropy` notes them on ``entropy``, all of them or none; entropies it did not make are those of
    the measurement, whose settings are attributes of the Dataset.
    """
    derived = ds["entropy"].attrs if "entropy" in ds else {}
    attrs = derived if "solver" in derived else ds.attrs
    return {name: attrs[name] for name in ENTROPY_SETTINGS if name in attrs}


def describe_points(ds: xr.Dataset) -> dict[str, Any]:
    """Attributes of a result: those of `ds`, with the settings its entropies and points were made with."""
    about = {str(name): value for name, value in ds.attrs.items() if name not in ENTROPY_SETTINGS}
    return about | read_entropy_settings(ds) | read_settings(ds)


def read_distance(weight_distance: xr.DataArray, epochs: np.ndarray) -> Floats:
    """Read the cumulated weight distance at each of `epochs`, float64."""
    if weight_distance.dims != ("epoch",) or "epoch" not in weight_distance.coords:
        raise ValueError(
            f"weight_distance has dims {weight_distance.dims}; allowed: ('epoch',) with its coordinate"
        )
    known = weight_distance["epoch"].values
    if missing := sorted(set(epochs.tolist()) - set(known.tolist())):
        raise ValueError(f"weight_distance lacks epochs {missing}; it has {known.tolist()}")
    values = weight_distance.sel(epoch=epochs).values.astype(np.float64)
    if not np.isfinite(values).all() or (values < 0).any() or (np.diff(values) < 0).any():
        raise ValueError(
            f"weight_distance is {values.tolist()}; allowed: finite, 0 or more, never decreasing"
        )
    return values


def sample_coords(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Coordinates without those of units: epochs and what is known of the samples."""
    return {str(name): ds[name] for name in ds.coords if "unit" not in ds[name].dims}


def name_some(names: np.ndarray, most: int = 5) -> str:
    """List the first names, for a message."""
    return ", ".join(map(str, names[:most])) + (", ..." if len(names) > most else "")


def as_datasets(argument: str, value: object) -> list[xr.Dataset]:
    """Turn one Dataset or a sequence of them into a list; `argument` names it in the error."""
    datasets = [value] if isinstance(value, xr.Dataset) else value
    if not isinstance(datasets, Sequence) or not all(isinstance(ds, xr.Dataset) for ds in datasets):
        raise TypeError(f"{argument} is {type(value).__name__}; allowed: a Dataset or a list of them")
    if not datasets:
        raise ValueError(f"{argument} is empty; give at least one Dataset")
    return list(datasets)


def check_match(
    networks: Mapping[str, xr.Dataset],
    *,
    settings: Sequence[str] = (),
    attrs: Sequence[str] = (),
    require: Sequence[str] = (),
) -> None:
    """Check that networks were measured on the same inputs, units and masks; epochs may differ.

    Parameters
    ----------
    networks
        Datasets by the name to use in a message; the first is the reference.
    settings
        Those of `ENTROPY_SETTINGS` that must be equal, absent counting as a value of its own.
    attrs
        Dataset attributes that must be equal, likewise.
    require
        Variables needed besides ``entropy`` and ``foreground``. With ``knowledge_point``, threshold and
        background of the points must be equal too.

    Raises
    ------
    SchemaError
        If a dataset breaks the data contract.
    ValueError
        Naming the pair and what differs, or a layer to take where a dataset has several.
    """
    for ds in networks.values():
        validate(ds, require=("entropy", "foreground", *require))
        check_one_layer(ds)
    (first, reference), *others = networks.items()
    for name, ds in others:
        if fault := _find_difference(reference, ds, settings, attrs, "knowledge_point" in require):
            raise ValueError(f"{first} and {name} do not match: {fault}")


def other_inputs(ours: xr.Dataset, theirs: xr.Dataset) -> str:
    """Say where samples, units, valid units or the foregrounds known of both differ, or nothing."""
    for dim in ("sample", "unit"):
        names, others = ours[dim].values, theirs[dim].values
        if not np.array_equal(names, others):
            same = sorted(names.tolist()) == sorted(others.tolist())
            how = "stand in another order" if same else f"differ ({len(names)} and {len(others)} of them)"
            return f"{dim}s {how}; measure both on the same inputs, or select common ones with .sel"
    for mask in ("foreground", "valid"):
        left, right = (ds[mask].values if mask in ds else np.True_ for ds in (ours, theirs))
        known = mask == "valid" or (mask in ours and mask in theirs)
        if known and (count := np.sum(left != right)):
            return f"{mask} differs at {count} units; measure both with one mask"
    return ""


def _find_difference(
    ours: xr.Dataset, theirs: xr.Dataset, settings: Sequence[str], attrs: Sequence[str], points_too: bool
) -> str:
    if fault := other_inputs(ours, theirs):
        return fault
    fingerprint = "input_fingerprint"
    for name in (fingerprint, *attrs):
        unknown = name == fingerprint and not (name in ours.attrs and name in theirs.attrs)
        if ours.attrs.get(name) != theirs.attrs.get(name) and not unknown:
            return f"attribute {name} is {ours.attrs.get(name)!r} and {theirs.attrs.get(name)!r}"
    one, other = read_entropy_settings(ours), read_entropy_settings(theirs)
    for name in settings:
        if one.get(name) != other.get(name):
            return f"{name} of the entropies is {one.get(name)!r} and {other.get(name)!r}"
    if points_too and read_settings(ours) != read_settings(theirs):
        return f"points were found with {read_settings(ours)} and {read_settings(theirs)}"
    return ""


def check_one_layer(ds: xr.Dataset) -> None:
    """Refuse a dataset of several layers, which are compared or followed one by one."""
    if "layer" in ds.dims:
        names = ds["layer"].values.tolist()
        raise ValueError(f"ds holds the layers {', '.join(names)}; take one with ds.sel(layer={names[0]!r})")


def check_resampling(resamples: int, confidence: float) -> None:
    """Refuse options that no bootstrap has."""
    whole_number("resamples", resamples, 1)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence!r}; allowed: a number between 0 and 1")


def check_epoch(argument: str, epoch: int | None, epochs: np.ndarray) -> int:
    """Return the position of `epoch` among `epochs`, the last by default."""
    if epoch is None:
        return len(epochs) - 1
    if isinstance(epoch, bool) or not isinstance(epoch, Integral):
        raise TypeError(f"epoch is {epoch!r}; allowed: an integer")
    if epoch not in epochs:
        raise ValueError(f"epoch is {epoch}; {argument} was measured at {epochs.tolist()}")
    return int(np.flatnonzero(epochs == epoch)[0])
