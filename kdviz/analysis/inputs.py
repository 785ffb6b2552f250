"""What the analyses read from a dataset, and the checks made before any work."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdviz.arguments import whole_number
from kdviz.points import Bools, Floats
from kdviz.schema import validate

ENTROPY_SETTINGS = ("solver", "weight", "calibration", "feature_loss", "unit_gain")


def read_points(ds: xr.Dataset) -> tuple[Bools, Bools]:
    """Read ``knowledge_point`` and ``uncertain``; without ``uncertain`` no unit is."""
    found = ds["knowledge_point"].values
    return found, ds["uncertain"].values if "uncertain" in ds else np.zeros_like(found)


def read_settings(ds: xr.Dataset) -> dict[str, Any]:
    """Read threshold, background and rule for samples without points, as `kdviz.find_points` noted them."""
    attrs = ds["knowledge_point"].attrs
    if missing := [name for name in ("threshold", "background") if name not in attrs]:
        raise ValueError(f"knowledge_point has no attribute {', '.join(missing)}; make it with find_points")
    return {
        "threshold": float(attrs["threshold"]),
        "background": str(attrs["background"]),
        "no_points": str(attrs.get("no_points", "undefined")),
    }


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


def read_distance(ds: xr.Dataset) -> Floats | None:
    """Read the cumulated weight distance at each epoch, float64; None without."""
    if "weight_distance" not in ds:
        return None
    values = ds["weight_distance"].values.astype(np.float64)
    if (np.diff(values) < 0).any():
        raise ValueError(f"weight_distance is {values.tolist()}; it is cumulated and cannot decrease")
    return values


def sample_coords(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Coordinates without those of units: epochs and what is known of the samples."""
    return {str(name): ds[name] for name in ds.coords if "unit" not in ds[name].dims}


def check_match(
    networks: Mapping[str, xr.Dataset], *, settings: Sequence[str] = (), require: Sequence[str] = ()
) -> None:
    """Check that networks were measured on the same inputs, units and masks; epochs may differ.

    Parameters
    ----------
    networks
        Datasets by the name to use in a message; the first is the reference.
    settings
        Those of `ENTROPY_SETTINGS` that must be equal, absent counting as a value of its own.
    require
        Variables needed besides ``entropy`` and ``foreground``. With ``knowledge_point``, what
        `read_settings` reads of the points must be equal too.

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
        if fault := _find_difference(reference, ds, settings, "knowledge_point" in require):
            raise ValueError(f"{first} and {name} do not match: {fault}")


def other_inputs(ours: xr.Dataset, theirs: xr.Dataset) -> str:
    """Say where samples, units, valid units or the foregrounds known of both differ, or nothing."""
    for dim in ("sample", "unit"):
        names, others = ours[dim].values, theirs[dim].values
        if not np.array_equal(names, others):
            same = sorted(names.tolist()) == sorted(others.tolist())
            how = "stand in another order" if same else f"differ ({len(names)} and {len(others)} of them)"
            return f"{dim}s {how}; measure both on the same inputs, or select common ones with .sel"
    absent = {"valid": True}
    if "foreground" in ours and "foreground" in theirs:
        absent |= {"foreground": False, "void": False}
    for mask, missing in absent.items():
        left, right = (ds[mask].values if mask in ds else np.bool_(missing) for ds in (ours, theirs))
        if count := np.sum(left != right):
            return f"{mask} differs at {count} units; measure both with one mask"
    return ""


def _find_difference(ours: xr.Dataset, theirs: xr.Dataset, settings: Sequence[str], points_too: bool) -> str:
    if fault := other_inputs(ours, theirs):
        return fault
    prints = [ds.attrs["input_fingerprint"] for ds in (ours, theirs) if "input_fingerprint" in ds.attrs]
    if len(set(prints)) > 1:
        return f"attribute input_fingerprint is {prints[0]!r} and {prints[1]!r}"
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


def draw_resamples(samples: int, resamples: int, confidence: float, seed: int) -> NDArray[np.int64]:
    """Draw how often each resample holds each sample, ``(R, S)``, or refuse what no bootstrap has."""
    whole_number("resamples", resamples, 1)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence!r}; allowed: a number between 0 and 1")
    return np.random.default_rng(seed).multinomial(samples, np.full(samples, 1 / samples), size=resamples)
