"""The data contract: every dimension, variable, unit and attribute of a kdviz dataset.

`VARIABLES` is the one list; functions validate against it, datasets and files are annotated from it and the
documentation's table is generated from it. This module knows nothing of files, networks or torch.

Dimensions, in stored order: ``epoch`` (completed training epochs), ``sample`` (inputs), ``unit`` (parts of
an input: grid cell, token or point). Missing floats are NaN; a shorter sample is padded, and ``valid`` is
False there.
"""

import json
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import xarray as xr

from kdviz import __version__
from kdviz.errors import SchemaError

SCHEMA_VERSION = 2

Attribute = str | int | float
Part = Literal["samples", "measured", "derived", "attribution"]

NOISE_SPACES = ("pixels", "coordinates", "embedding", "relative embedding")
METHODS = ("gain", "path")  # position = code of the variable `method`
QUARTILES = 4

# Names that xarray or the file formats read as instructions, not as attributes.
_ATTRIBUTE_NAME = re.compile("[A-Za-z][A-Za-z0-9_]*")
_RESERVED_ATTRS = frozenset(
    "_FillValue missing_value scale_factor add_offset dtype calendar coordinates grid_mapping".split()
)
# dtype -> NumPy kinds accepted in memory; widths may differ there, the store writes the exact dtype.
_KINDS = {"bool": "b", "int8": "iu", "int32": "iu", "int64": "iu", "uint8": "u", "float32": "f", "str": "UOT"}


@dataclass(frozen=True)
class Variable:
    """What one variable of the contract must look like.

    Attributes
    ----------
    name, dims
        The only name, and the only dimensions in the only order.
    dtype
        As stored: a NumPy name, or ``"str"``. In memory the kind counts, not the width.
    long_name, units, comment
        Written to the variable's attributes by `annotate`; ``units`` is the physical measure, empty for none.
    part
        ``samples`` (shared by all networks of a run), ``measured``, ``derived`` or ``attribution``.
    may_be_nan
        Whether NaN is a legal value at a valid unit: the quantity may be unknown or undefined there.
    flags
        Names of the codes 0, 1, ... of an enumeration; code -1 stands for not measured.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    long_name: str
    units: str = ""
    comment: str = ""
    part: Part = "samples"
    may_be_nan: bool = False
    flags: tuple[str, ...] = ()

    @property
    def attrs(self) -> dict[str, Attribute]:
        """Attributes to write; empty ones are left out."""
        attrs: dict[str, Attribute] = {
            "long_name": self.long_name,
            "units": self.units,
            "comment": self.comment,
        }
        if self.flags:
            # CF wants a number array here; the contract allows flat values only, so both are word lists.
            attrs["flag_values"] = " ".join(str(code) for code in range(len(self.flags)))
            attrs["flag_meanings"] = " ".join(self.flags)
        return {name: value for name, value in attrs.items() if value != ""}

    @property
    def missing(self) -> bool | int | float | str:
        """Value that stands for "not measured", which is NaN, -1, 0 (unsigned), False or an empty string."""
        by_kind: dict[str, bool | int | float | str] = {"b": False, "i": -1, "u": 0, "f": np.nan, "U": ""}
        return by_kind[_KINDS[self.dtype][0]]


_EPOCH = ("epoch",)
_SAMPLE = ("sample",)
_UNIT = ("unit",)
_SAMPLE_UNIT = ("sample", "unit")
_EPOCH_SAMPLE = ("epoch", "sample")
_MAP = ("epoch", "sample", "unit")

VARIABLES: dict[str, Variable] = {
    variable.name: variable
    for variable in (
        # samples: what all networks of a run share
        Variable("epoch", _EPOCH, "int64", "completed training epochs", "epoch", "0 is before training"),
        Variable("sample", _SAMPLE, "str", "sample identifier", comment="stable name, never a position"),
        Variable("unit", _UNIT, "int64", "input unit", comment="0 to U-1: grid cell, token or point"),
        Variable("label", _SAMPLE, "int64", "class of the sample"),
        Variable("split", _SAMPLE, "str", "partition the sample belongs to"),
        Variable("row", _UNIT, "int64", "row of the grid cell", comment="0 is the top; images only"),
        Variable("col", _UNIT, "int64", "column of the grid cell", comment="0 is the left; images only"),
        Variable("token", _SAMPLE_UNIT, "str", "word as shown", comment="text only"),
        Variable("x", _SAMPLE_UNIT, "float32", "normalised x position", "1", "point clouds only"),
        Variable("y", _SAMPLE_UNIT, "float32", "normalised y position", "1", "point clouds only"),
        Variable("z", _SAMPLE_UNIT, "float32", "normalised z position", "1", "point clouds only"),
        Variable("valid", _SAMPLE_UNIT, "bool", "unit exists", comment="False where padded"),
        Variable("foreground", _SAMPLE_UNIT, "bool", "unit is annotated as part of the object"),
        Variable(
            "thumbnail",
            ("sample", "y_pixel", "x_pixel", "channel"),
            "uint8",
            "small picture of the sample",
            comment="RGB or grey, 0 to 255; for viewing without the data",
        ),
        # measured: what needs the network
        Variable(
            "quartile", ("quartile",), "int64", "quartile of the gains", comment="1 to 4, 1 the smallest"
        ),
        Variable(
            "gain",
            _MAP,
            "float32",
            "gain of the unit",
            "1",
            "mean-squared feature change per unit of squared input noise",
            "measured",
        ),
        Variable(
            "gain_error",
            _MAP,
            "float32",
            "standard error of the gain",
            "1",
            "0 where the gain is exact, NaN where unknown",
            "measured",
            may_be_nan=True,
        ),
        Variable(
            "entropy",
            _MAP,
            "float32",
            "conditional entropy of the unit given the feature",
            "nat",
            "high: the layer discards the unit",
            "measured",
        ),
        Variable(
            "entropy_error",
            _MAP,
            "float32",
            "standard error of the entropy",
            "nat",
            "from gain_error; NaN where unknown",
            "measured",
            may_be_nan=True,
        ),
        Variable(
            "noise_scale",
            _MAP,
            "float32",
            "standard deviation of noise the feature tolerates",
            "1",
            "in normalised input units",
            "measured",
        ),
        Variable(
            "feature_variance",
            _EPOCH_SAMPLE,
            "float32",
            "mean-squared feature change under the base noise",
            "1",
            "measured forward-only at base_noise",
            "measured",
        ),
        Variable(
            "feature_loss",
            _EPOCH_SAMPLE,
            "float32",
            "feature change at the solution over the feature variance",
            "1",
            "NaN for a feature that never changes",
            "measured",
            may_be_nan=True,
        ),
        Variable(
            "linearity",
            _EPOCH_SAMPLE,
            "float32",
            "measured over predicted feature change at the solution",
            "1",
            "1 where the gain explains all, where only the path was asked for the probe gain; belongs to the "
            "solution it was measured at",
            "measured",
            may_be_nan=True,
        ),
        Variable(
            "linearity_quartile",
            ("epoch", "sample", "quartile"),
            "float32",
            "linearity with noise on one quartile of the gains",
            "1",
            "first quartile: smallest gains",
            "measured",
            may_be_nan=True,
        ),
        Variable(
            "method",
            _EPOCH_SAMPLE,
            "int8",
            "how the sample was measured",
            comment="-1 is not measured",
            part="measured",
            flags=METHODS,
        ),
        Variable("converged", _EPOCH_SAMPLE, "bool", "the calibration was met", part="measured"),
        Variable(
            "zero_gain",
            _EPOCH_SAMPLE,
            "int32",
            "number of valid units of zero gain",
            "1",
            "-1 is not measured",
            part="measured",
        ),
        # derived: what follows from the above in closed form
        Variable(
            "background_entropy",
            _EPOCH,
            "float32",
            "mean entropy of the background units",
            "nat",
            "NaN without background units",
            "derived",
            may_be_nan=True,
        ),
        Variable(
            "knowledge_point",
            _MAP,
            "bool",
            "unit is a knowledge point",
            comment="entropy lies below the background mean by more than the threshold",
            part="derived",
        ),
        Variable(
            "uncertain",
            _MAP,
            "bool",
            "unit is too close to the threshold to call",
            comment="within 2 standard errors of the threshold",
            part="derived",
        ),
        Variable(
            "weight_distance",
            _EPOCH,
            "float32",
            "cumulated movement of the weights",
            "1",
            "attribute `definition` says how it was summed",
            "derived",
        ),
        Variable(
            "accuracy",
            _EPOCH,
            "float32",
            "share of held-out samples classified correctly",
            "1",
            "attribute `definition` says by which network; NaN where unknown",
            "derived",
            may_be_nan=True,
        ),
        Variable(
            "noise_unit",
            _EPOCH,
            "float32",
            "size of one unit of noise in the network's own numbers",
            "1",
            "root mean square of the output that noise is added to; absent where noise falls on the input",
            "derived",
        ),
        # attribution: baseline maps on the same units
        Variable(
            "attribution_method",
            ("attribution_method",),
            "str",
            "name of the attribution method",
            part="attribution",
        ),
        Variable(
            "attribution",
            ("attribution_method", *_MAP),
            "float32",
            "attribution map reduced to units",
            "1",
            "sign kept",
            "attribution",
        ),
    )
}

# Names by part; `epoch` and `quartile` are coordinates of the networks.
SAMPLES = tuple(v.name for v in VARIABLES.values() if v.part == "samples" and v.dims != _EPOCH)
MEASURED = tuple(v.name for v in VARIABLES.values() if v.part == "measured" and v.name not in v.dims)
DERIVED = tuple(v.name for v in VARIABLES.values() if v.part == "derived")


_MAKERS = {"knowledge_point": "; kdviz.find_points(ds) makes it"}


def validate(ds: xr.Dataset, *, require: Iterable[str] = ()) -> None:
    """Check a dataset against the contract.

    Variables the contract does not name are left to their owner; only their attributes are checked.

    Parameters
    ----------
    ds
        Any dataset of kdviz: samples, measured, derived or attribution variables.
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
        layers = f"; pick one of its layers: {', '.join(map(str, ds))}" if isinstance(ds, Mapping) else ""
        raise TypeError(f"a Dataset is needed, got a {type(ds).__name__}{layers}")
    faults = [*_header_faults(ds.attrs), *_attribute_faults("dataset", ds.attrs)]
    missing = [name for name in require if name not in ds.variables]
    faults += [f"variable {name!r} is missing{_MAKERS.get(name, '')}" for name in missing]
    for dim in ("epoch", "sample", "unit", "attribution_method"):
        if dim in ds.dims and dim not in ds.coords:
            faults.append(f"dimension {dim!r} has no coordinate {dim!r}")
    for name, array in ds.variables.items():
        faults += _attribute_faults(f"variable {str(name)!r}", array.attrs)
        if name in VARIABLES:
            faults += _variable_faults(VARIABLES[str(name)], array, ds)
    if faults:
        raise SchemaError("\n  - ".join(["dataset breaks the data contract:", *faults]))


def annotate(ds: xr.Dataset) -> xr.Dataset:
    """Return a copy of `ds` (data shared) with the contract's attributes on every variable it names.

    ``long_name``, ``units``, ``comment`` and the flags come from the contract; other attributes, such as a
    threshold, are kept. ``schema`` and ``schema_version`` are stamped on the dataset.
    """
    annotated = ds.copy()
    annotated.attrs.update(schema="kdviz", schema_version=SCHEMA_VERSION)
    for name in annotated.variables:
        if name in VARIABLES:
            annotated[name].attrs.update(VARIABLES[str(name)].attrs)
    return annotated


def make_attrs(
    *,
    network: str | None = None,
    network_role: str | None = None,
    architecture: str | None = None,
    distillation_method: str | None = None,
    distilled_layer: str | None = None,
    teacher: str | None = None,
    layer: str | None = None,
    feature: str | None = None,
    modality: str | None = None,
    unit_kind: str | None = None,
    noise_space: str | None = None,
    base_noise: float | None = None,
    solver: str | None = None,
    weight: float | None = None,
    calibration: float | None = None,
    dataset_id: str | None = None,
    seed: int | None = None,
    training_seed: int | None = None,
    accuracy: float | None = None,
    device: str | None = None,
    torch_version: str | None = None,
    config: Mapping[str, Any] | None = None,
    weights_fingerprint: str | None = None,
    input_fingerprint: str | None = None,
    created_at: datetime | None = None,
) -> dict[str, Attribute]:
    """Make dataset attributes that say where a result comes from.

    Parameters
    ----------
    network, network_role, architecture
        Free name of the network; its part in a study, such as ``teacher``, ``student`` or ``baseline``; and
        its architecture.
    distillation_method, distilled_layer, teacher
        How, at which layer and from which network a student was distilled.
    layer, feature
        Name from ``named_modules()``, and what was read there: ``relu``, ``identity`` or a callable's name.
    modality, unit_kind, noise_space
        Kind of input, of its units, and where noise is added: ``pixels``, ``coordinates``, the output
        of an ``embedding`` in its own numbers, or ``relative embedding``, in units of its root mean square.
    base_noise
        Standard deviation of the base noise, in normalised input units.
    solver, weight, calibration
        Of the derived entropies: solver, entropy weight, and calibration in nat above the base noise.
    dataset_id, seed, device, torch_version
        Where the inputs, the noise of the measurement and the arithmetic come from.
    training_seed, accuracy
        Seed the network was trained with, and its share of right answers on held-out samples.
    config
        Every further setting; written as one JSON string with sorted keys.
    weights_fingerprint, input_fingerprint
        Hashes of the network's weights and of the inputs.
    created_at
        Moment of making, with a time zone; now by default.

    Returns
    -------
    dict
        The given values, all str, int or float, with ``schema``, ``schema_version``, ``kdviz_version`` and
        ``created_at`` (UTC, ISO 8601). What was not given is left out.

    Raises
    ------
    ValueError
        If a noise space is unknown, `created_at` has no time zone, or a value cannot be stored.
    TypeError
        If `config` holds what JSON cannot.
    """
    if noise_space is not None and noise_space not in NOISE_SPACES:
        raise ValueError(f"noise_space is {noise_space!r}; allowed: {', '.join(NOISE_SPACES)}")
    moment = created_at or datetime.now(UTC)
    if moment.tzinfo is None:
        raise ValueError("created_at has no time zone; pass for example datetime.now(UTC)")
    values: dict[str, Attribute | None] = {
        "schema": "kdviz",
        "schema_version": SCHEMA_VERSION,
        "kdviz_version": __version__,
        "created_at": moment.astimezone(UTC).isoformat(timespec="seconds"),
        "network": network,
        "network_role": network_role,
        "architecture": architecture,
        "distillation_method": distillation_method,
        "distilled_layer": distilled_layer,
        "teacher": teacher,
        "layer": layer,
        "feature": feature,
        "modality": modality,
        "unit_kind": unit_kind,
        "noise_space": noise_space,
        "base_noise": base_noise,
        "solver": solver,
        "weight": weight,
        "calibration": calibration,
        "dataset_id": dataset_id,
        "seed": seed,
        "training_seed": training_seed,
        "accuracy": accuracy,
        "device": device,
        "torch_version": torch_version,
        "config": None if config is None else json.dumps(config, sort_keys=True),
        "weights_fingerprint": weights_fingerprint,
        "input_fingerprint": input_fingerprint,
    }
    attrs = {name: value for name, value in values.items() if value is not None}
    if faults := list(_attribute_faults("make_attrs", attrs)):
        raise ValueError("; ".join(faults))
    return attrs


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
    except (TypeError, ValueError):
        is_object = False
    if not is_object:
        yield "attribute 'config' is not a JSON object"


def _attribute_faults(owner: str, attrs: Mapping[Any, Any]) -> Iterator[str]:
    """Faults of attributes that netCDF or Zarr would refuse or give back changed."""
    for name, value in attrs.items():
        if not isinstance(name, str) or not _ATTRIBUTE_NAME.fullmatch(name) or name in _RESERVED_ATTRS:
            yield f"{owner}: attribute name {name!r} cannot be stored; use a plain ASCII word"
        elif isinstance(value, bool) or not isinstance(value, (str, int, float, np.integer, np.floating)):
            yield (
                f"{owner}: attribute {name!r} is a {type(value).__name__}; allowed: str, int, float "
                "(write structures as one JSON string)"
            )
        elif isinstance(value, str) and ("\0" in value or not _is_utf8(value)):
            yield f"{owner}: attribute {name!r} holds characters that cannot be stored"
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            yield f"{owner}: attribute {name!r} is {value}, beyond 64 bits"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _variable_faults(spec: Variable, array: xr.Variable, ds: xr.Dataset) -> Iterator[str]:
    label = f"variable {spec.name!r}"
    layered = spec.part in ("measured", "derived") and array.dims[:1] == ("layer",)
    if array.dims[layered:] != spec.dims:
        yield f"{label} has dims {_words(array.dims)}, must be {_words(spec.dims)}"
        return
    if array.dtype.kind not in _KINDS[spec.dtype]:
        yield f"{label} has dtype {array.dtype}, must be {spec.dtype}"
        return
    values = array.values
    if spec.dtype == "str":
        if not all(isinstance(value, str) and "\0" not in value and _is_utf8(value) for value in values.flat):
            yield f"{label} holds values that are not plain text"
            return
    if spec.name == spec.dims[0]:
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
    if valid is not None and valid.dims == array.dims[-2:] == _SAMPLE_UNIT and valid.dtype.kind == "b":
        return valid.values
    return np.ones((), bool)


def _words(dims: Iterable[Hashable]) -> str:
    return f"({', '.join(map(str, dims))})"
