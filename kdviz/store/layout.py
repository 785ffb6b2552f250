"""What a run looks like inside: names of groups, their empty arrays, and whether settings are the same."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr

from kdviz import schema
from kdviz.arguments import name_some, whole_number
from kdviz.errors import SchemaError
from kdviz.schema import QUARTILES, VARIABLES, Attribute
from kdviz.store.damage import CHECKSUMMED, MADE_WITH, every_chunk_written
from kdviz.store.files import plain, storable
from kdviz.store.replacing import PARTIAL
from kdviz.store.sealing import SealedStore

_NAME = re.compile("(?!__)[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")  # "__" at the start is reserved by Zarr
# May differ between two sittings of one measurement, or be told by newer versions only, without making it
# another one.
_CIRCUMSTANCES = frozenset(
    {"created_at", "kdviz_version", "torch_version", "device", "config.micro_batch", "learning_rate"}
)


def checked_name(kind: str, name: str) -> str:
    """Return `name`, or refuse one that cannot be a group in both formats."""
    if not _NAME.fullmatch(name) or name.endswith(PARTIAL) or name == "zarr.json":
        raise ValueError(
            f"{kind} is named {name!r}; allowed: up to 100 letters, digits and _ . + -, "
            f"beginning with a letter, a digit or one _, not ending in {PARTIAL}"
        )
    return name


def group_attrs(
    samples: xr.Dataset,
    network: str,
    layer: str,
    epochs: Sequence[int],
    attrs: Mapping[str, Attribute],
    block: int,
    variables: Sequence[str],
) -> dict[str, Attribute]:
    """Check what a layer's group is to be made of and return its attributes."""
    checked_name("network", network)
    checked_name("layer", layer)
    if network in {*samples.variables, "foreground", "void"}:  # masks may be added later
        raise ValueError(f"network is named {network!r}, which is a variable of the samples")
    whole = all(isinstance(epoch, (int, np.integer)) for epoch in epochs)
    if not len(epochs) or not whole or epochs[0] < 0 or (np.diff(epochs) <= 0).any():
        raise ValueError(
            f"epochs is {list(epochs)}; allowed: integers of 0 or more that increase, at least one"
        )
    whole_number("block", block, 1)
    if unknown := sorted(set(variables) - set(schema.MEASURED)):
        raise ValueError(f"variables holds {unknown}; allowed: {', '.join(schema.MEASURED)}")
    stamp: dict[str, Attribute] = {"schema": "kdviz", "schema_version": schema.SCHEMA_VERSION}
    asked = {**stamp, **attrs, "network": network, "layer": layer, "block": block}
    schema.validate(xr.Dataset(attrs=asked))
    return asked


def make_arrays(
    path: Path,
    samples: xr.Dataset,
    epochs: Sequence[int],
    attrs: Mapping[str, Attribute],
    block: int,
    variables: Sequence[str],
) -> None:
    """Make a layer's group of full-size arrays that hold nothing but "not measured"."""
    count = samples.sizes["sample"]
    sizes = {"epoch": len(epochs), "sample": count, "unit": samples.sizes["unit"], "quartile": QUARTILES}
    sizes["block"] = -(-count // block)
    chunks = {**sizes, "epoch": 1, "sample": min(block, count)}
    group = zarr.open_group(SealedStore(path), mode="w", zarr_format=3, attributes=plain(attrs))
    create = partial(group.create_array, compressors=CHECKSUMMED)
    for name, values in (
        ("epoch", np.asarray(epochs, "int64")),
        ("quartile", np.arange(1, QUARTILES + 1)),
    ):
        spec = VARIABLES[name]
        with every_chunk_written():
            create(name, data=values, dimension_names=spec.dims, attributes=plain(spec.attrs))
    for name in variables:
        spec = VARIABLES[name]
        create(
            name,
            shape=[sizes[dim] for dim in spec.dims],
            chunks=tuple(chunks[dim] for dim in spec.dims),
            dtype=spec.dtype,
            fill_value=spec.missing,
            dimension_names=spec.dims,
            attributes=plain(spec.attrs),
        )
    create(
        "done",
        shape=(sizes["epoch"], sizes["block"]),
        chunks=(1, sizes["block"]),
        dtype="bool",
        fill_value=False,
        dimension_names=("epoch", "block"),
        attributes={"long_name": "block is written", MADE_WITH: " ".join(["epoch", "quartile", *variables])},
    )


def difference_of_groups(
    stored: Mapping[str, Any], epochs: Sequence[int], asked: Mapping[str, Any], more: Sequence[int]
) -> str:
    """Say which setting of a layer first differs, or nothing; weights count at epochs that both have."""
    both = [epoch for epoch in more if epoch in epochs]
    old, new = dict(stored), dict(asked)
    ours, theirs = _weights_of(stored, epochs), _weights_of(asked, more)
    other = [epoch for epoch in both if ours and theirs and ours[epoch] != theirs[epoch]]
    for attrs, weights in ((old, ours), (new, theirs)):
        if weights:
            attrs["weights_fingerprint"] = " ".join(weights[epoch] for epoch in both if epoch not in other)
        if more[-1] != epochs[-1] or "accuracy" not in asked:
            attrs.pop("accuracy", None)  # that of the last epoch, which is another one; or told later
    difference = difference_of_settings(old, new)
    if other and not difference:
        return f"other weights at epoch {name_some(other)} (weights_fingerprint)"
    return difference


def join_groups(
    stored: Mapping[str, Attribute],
    epochs: Sequence[int],
    asked: Mapping[str, Attribute],
    more: Sequence[int],
) -> tuple[list[int], dict[str, Attribute]]:
    """Return the epochs and attributes of a layer that gets those of `more` that it has not."""
    every, attrs = sorted({*epochs, *more}), dict(stored)
    weights = _weights_of(asked, more) | _weights_of(stored, epochs)
    if weights:
        attrs["weights_fingerprint"] = " ".join(weights[epoch] for epoch in every)
    if every[-1] != epochs[-1]:
        attrs.pop("accuracy", None)
    if "accuracy" in asked and more[-1] == every[-1]:
        attrs["accuracy"] = asked["accuracy"]
    return every, attrs


def _weights_of(attrs: Mapping[str, Any], epochs: Sequence[int]) -> dict[int, str]:
    """Tell the fingerprint of the weights at every epoch, which an attribute lists."""
    listed = str(attrs.get("weights_fingerprint", "")).split()
    return dict(zip(epochs, listed, strict=True)) if len(listed) == len(epochs) else {}


def extend_group(
    old: Path,
    new: Path,
    samples: xr.Dataset,
    ds: xr.Dataset,
    asked: Mapping[str, Attribute],
    more: Sequence[int],
    block: int,
    variables: Sequence[str],
) -> None:
    """Make the arrays of a layer for more epochs and copy to them what is written of it, `ds`.

    Its further variables by epoch become NaN at new epochs, or are left out where they must not be that.
    """
    epochs = ds["epoch"].values.tolist()
    every, attrs = join_groups(ds.attrs, epochs, asked, more)
    make_arrays(new, samples, every, attrs, block, variables)
    for name in (*variables, "done"):
        for at, epoch in enumerate(epochs):
            chunks = old / name / "c" / str(at)
            if chunks.is_dir():
                shutil.copytree(chunks, new / name / "c" / str(every.index(epoch)))
    further = ds.drop_vars([*schema.MEASURED, "done"], errors="ignore").data_vars.items()
    kept = [key for key, array in further if "epoch" not in array.dims or may_be_unknown(array)]
    for key, array in ds[kept].reindex(epoch=every).items():
        write_array(new / str(key), array)


def fill_epochs(variable: xr.DataArray, older: xr.DataArray | None, epochs: pd.Index) -> xr.DataArray:
    """Complete a variable that may be unknown to all epochs, from the older one where it has none."""
    if not may_be_unknown(variable) or not variable.get_index("epoch").isin(epochs).all():
        return variable
    others = variable[:0] if older is None else older[~older["epoch"].isin(variable["epoch"])]
    return xr.concat([variable, others], "epoch").reindex(epoch=epochs)


def may_be_unknown(variable: xr.DataArray) -> bool:
    """Whether a variable by epoch need not have a value at every epoch."""
    spec = VARIABLES.get(str(variable.name))
    return spec is not None and spec.may_be_nan and variable.dims[:1] == ("epoch",)


def write_array(path: Path, array: xr.DataArray) -> None:
    """Write one array as a whole."""
    with every_chunk_written():
        zarr.create_array(
            SealedStore(path),
            overwrite=True,
            data=array.values,
            compressors=CHECKSUMMED,
            dimension_names=[str(dim) for dim in array.dims],
            attributes=plain(array.attrs),
            zarr_format=3,
        )


def check_block(measured: xr.Dataset, expected: xr.Dataset, names: list[str]) -> None:
    """Refuse a block that is not exactly what its place in the group asks for.

    `expected` holds the block's own ``epoch``, ``sample`` and ``unit``, and the run's masks there.
    """
    for dim in ("epoch", "sample", "unit"):
        got = measured.get_index(dim) if dim in measured.dims else pd.Index([])
        want = expected.get_index(dim)
        if not got.equals(want):
            ours, theirs = (f"{index.tolist()[:4]} ({len(index)})" for index in (got, want))
            raise ValueError(f"block has {dim} {ours}, its place in the run has {theirs}")
    for name, mask in expected.data_vars.items():
        if name in measured.variables and not measured.variables[name].equals(mask.variable):
            raise ValueError(f"block has another {name!r} than the run")
    extra = [str(name) for name in measured.data_vars if "epoch" in measured[name].dims and name not in names]
    if extra:
        raise ValueError(f"block holds {', '.join(extra)}, the group only {', '.join(names)}")
    if measured.sizes.get("quartile", QUARTILES) != QUARTILES:
        raise ValueError(f"block has {measured.sizes['quartile']} quartiles, must be {QUARTILES}")
    schema.validate(measured.assign(valid=expected["valid"].variable), require=names)


def difference_of_samples(stored: xr.Dataset, asked: xr.Dataset) -> str:
    """Say what first differs between two sample groups, or nothing."""
    later = {"foreground": {"foreground", "void"}, "label": {"label"}}  # what may have come later
    added = set().union(*(names for one, names in later.items() if one not in asked))
    for name in sorted({*map(str, stored.variables), *map(str, asked.variables)} - added):
        if name not in stored.variables or name not in asked.variables:
            return f"variable {name!r} is in one of them only"
        if not stored.variables[name].equals(asked.variables[name]):
            return f"variable {name!r} differs"
    return difference_of_settings(stored.attrs, asked.attrs)


def difference_of_settings(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Say which setting first differs, and how, or nothing."""
    old, new = _settings(stored), _settings(asked)
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            return f"{name} {old.get(name, 'not set')}, now {new.get(name, 'not set')}"
    return ""


def _settings(attrs: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings as JSON, so that NaN equals itself and 1 is not 1.0; ``config`` is taken apart."""
    settings = dict(attrs)
    config = json.loads(settings.pop("config", "{}"))
    settings |= {f"config.{name}": value for name, value in config.items()}
    kept = {name: value for name, value in settings.items() if name not in _CIRCUMSTANCES}
    return {name: json.dumps(value, sort_keys=True) for name, value in plain(kept).items()}


def prepare_samples(samples: xr.Dataset, attrs: Mapping[str, Attribute]) -> xr.Dataset:
    """Check the samples of a run and complete them to what is stored."""
    samples = samples.assign_attrs(attrs)
    schema.validate(samples, require=("sample", "unit"))
    if "epoch" in samples.dims:
        raise SchemaError("samples has the dimension 'epoch'; it holds what all epochs share")
    if not samples.sizes["sample"] or not samples.sizes["unit"]:
        raise SchemaError(f"samples is empty: {dict(samples.sizes)}")
    if "valid" not in samples.variables:
        everything = np.ones((samples.sizes["sample"], samples.sizes["unit"]), bool)
        samples = samples.assign(valid=(("sample", "unit"), everything))
    return storable(samples)


def make_compact(ds: xr.Dataset) -> xr.Dataset:
    """Leave out what follows from gains, and round their errors to 14 significant bits, for `Run.export`."""
    ds = ds.drop_vars(("entropy", "entropy_error", "noise_scale"), errors="ignore")
    if "gain_error" in ds:
        mantissa, exponent = np.frexp(ds["gain_error"])
        rounded = np.ldexp(np.rint(mantissa * 2**14) / 2**14, exponent)  # what ends in zeros compresses well
        ds["gain_error"] = rounded.assign_attrs(ds["gain_error"].attrs)
    return ds
