"""Check datasets against the contract, listing every fault."""

import json
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

from kdviz import __version__
from kdviz.errors import SchemaError
from kdviz.schema.attributes import SCHEMA_VERSION, attribute_faults, is_utf8
from kdviz.schema.variables import KINDS, SAMPLE_UNIT, VARIABLES, Variable

_MAKERS = {
    "knowledge_point": "; kdviz.find_points(ds) makes it",
    "foreground": "; measure with foreground=, or kdviz.store.add_masks(run, masks) adds them",
}


def validate(ds: xr.Dataset, *, require: Iterable[str] = ()) -> None:
    """Check a dataset against the contract.

    Variables the contract does not name are left to their owner; only their attributes are checked.

    Parameters
    ----------
    ds
        Any dataset of kdviz: samples, measured, derived or attribution variables, or results.
    require
        Names of the variables the caller is about to read.

    Raises
    ------
    TypeError
        If `ds` is no Dataset.
    SchemaError
        Listing every fault: missing variables or coordinates, wrong dimensions or their order, wrong kind of
        values, NaN at a valid unit, repeated samples, epochs that do not increase, attributes that cannot be
        stored, a schema version this kdviz does not know.
    """
    if not isinstance(ds, xr.Dataset):
        raise TypeError(f"a Dataset is needed, got a {type(ds).__name__}")
    faults = [*_header_faults(ds.attrs), *attribute_faults("dataset", ds.attrs)]
    missing = [name for name in require if name not in ds.variables]
    faults += [f"variable {name!r} is missing{_MAKERS.get(name, '')}" for name in missing]
    for dim in ("epoch", "sample", "unit", "attribution_method"):
        if dim in ds.dims and dim not in ds.coords:
            faults.append(f"dimension {dim!r} has no coordinate {dim!r}")
    for name, array in ds.variables.items():
        faults += attribute_faults(f"variable {str(name)!r}", array.attrs)
        if name in VARIABLES:
            faults += _variable_faults(VARIABLES[str(name)], array, ds)
    if faults:
        raise SchemaError("\n  - ".join(["dataset breaks the data contract:", *faults]))


def _header_faults(attrs: Mapping[Any, Any]) -> Iterator[str]:
    """Faults of the attributes that say how to read the rest."""
    schema = attrs.get("schema", "kdviz")
    if schema != "kdviz":
        yield f"attribute 'schema' is {schema!r}, not 'kdviz'"
    version = attrs.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        yield f"schema_version is {version!r}; kdviz {__version__} knows version {SCHEMA_VERSION}"
    try:
        is_object = isinstance(json.loads(attrs.get("config", "{}")), dict)
    except (TypeError, ValueError, RecursionError):
        is_object = False
    if not is_object:
        yield "attribute 'config' is not a JSON object"


def _variable_faults(spec: Variable, array: xr.Variable, ds: xr.Dataset) -> Iterator[str]:
    label = f"variable {spec.name!r}"
    layered = spec.part in ("measured", "derived", "result") and array.dims[:1] == ("layer",)
    if array.dims[layered:] != spec.dims:
        yield f"{label} has dims {_words(array.dims)}, must be {_words(spec.dims)}"
        return
    if array.dtype.kind not in KINDS[spec.dtype]:
        yield f"{label} has dtype {array.dtype}, must be {spec.dtype}"
        return
    values = array.values
    if spec.dtype == "str":
        if not all(isinstance(value, str) and "\0" not in value and is_utf8(value) for value in values.flat):
            yield f"{label} holds values that are not plain text"
            return
    if spec.dims[:1] == (spec.name,):
        yield from _index_faults(spec.name, values)
    valid = _valid(array, ds)
    if values.dtype.kind == "f" and not spec.may_be_nan and (count := int(np.sum(np.isnan(values) & valid))):
        yield f"{label} is NaN at {count} valid entries"
    if values.dtype.kind == "b" and spec.name != "valid" and (count := int(np.sum(values & ~valid))):
        yield f"{label} is True at {count} padded units"
    if spec.flags and values.size and (values.min() < -1 or values.max() >= len(spec.flags)):
        yield f"{label} has codes {values.min()} to {values.max()}, allowed: -1 to {len(spec.flags) - 1}"


def _index_faults(name: str, values: np.ndarray) -> Iterator[str]:
    if name in ("sample", "attribution_method"):
        names, counts = np.unique(values.astype(str), return_counts=True)
        if repeated := names[counts > 1].tolist():
            yield f"coordinate {name!r} repeats {', '.join(map(repr, repeated[:5]))}"
    elif name == "epoch" and (np.any(values < 0) or np.any(values[1:] <= values[:-1])):
        yield f"coordinate 'epoch' is {values.tolist()}, must be 0 or more and increase"
    elif name == "unit" and not np.array_equal(values, np.arange(len(values))):
        yield f"coordinate 'unit' must run from 0 to {len(values) - 1}"


def _valid(array: xr.Variable, ds: xr.Dataset) -> np.ndarray:
    """Whether each entry belongs to an existing unit: `valid`, shaped to broadcast over `array`."""
    valid = ds.variables.get("valid")
    if valid is not None and valid.dims == array.dims[-2:] == SAMPLE_UNIT and valid.dtype.kind == "b":
        return valid.values
    return np.ones((), bool)


def _words(dims: Iterable[Hashable]) -> str:
    return f"({', '.join(map(str, dims))})"
