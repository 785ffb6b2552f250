"""Make datasets whose variables carry the contract's names, dimensions and attributes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from kdviz.schema.attributes import SCHEMA_VERSION
from kdviz.schema.variables import VARIABLES, Attribute


def build(
    values: Mapping[Any, Any],
    *,
    coords: Mapping[Any, Any] | None = None,
    attrs: Mapping[Any, Attribute] | None = None,
) -> xr.Dataset:
    """Make a dataset of registered variables from arrays alone.

    Parameters
    ----------
    values, coords
        Arrays by name, in the dimensions of the contract, or one more that leads: ``layer``. What has
        dimensions already is taken as it is.
    attrs
        Attributes of the dataset; ``schema`` and ``schema_version`` are added.

    Raises
    ------
    KeyError
        If a name is not registered.
    """

    def with_dims(name: Any, array: Any) -> Any:
        if isinstance(array, (xr.DataArray, xr.Variable, tuple)):
            return array
        dims = VARIABLES[name].dims
        return (("layer", *dims) if np.ndim(array) > len(dims) else dims), array

    found, known = ({name: with_dims(name, one[name]) for name in one} for one in (values, coords or {}))
    return annotate(xr.Dataset(found, coords=known, attrs=attrs))


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
