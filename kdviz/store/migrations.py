"""Read what older versions of kdviz wrote: one step from each schema version to the next."""

from collections.abc import Callable

import xarray as xr

from kdviz.errors import SchemaError
from kdviz.schema import SCHEMA_VERSION


def name_calibration_and_background(ds: xr.Dataset) -> None:
    """From 1 to 2: ``target`` is called ``calibration``, and ``baseline`` of points ``background``."""
    for attrs in (ds.attrs, *(ds.variables[name].attrs for name in ds.variables)):
        if "target" in attrs:
            attrs["calibration"] = attrs.pop("target")
    if "knowledge_point" in ds.variables:
        attrs = ds.variables["knowledge_point"].attrs
        if "baseline" in attrs:
            attrs["background"] = attrs.pop("baseline")


def keep_equal_sizes(ds: xr.Dataset) -> None:
    """From 2 to 3: units have a ``unit_size``; without, as here, all count alike."""


STEPS: dict[int, Callable[[xr.Dataset], None]] = {1: name_calibration_and_background, 2: keep_equal_sizes}


def migrate(ds: xr.Dataset, source: object) -> xr.Dataset:
    """Bring a group just read to the present schema version; `source` names it in a message.

    Parameters
    ----------
    ds
        As it was written; its attributes are changed in place. Without ``schema_version`` it counts as old.

    Raises
    ------
    SchemaError
        If it was written by a later kdviz, or says no version that there was.
    """
    version = ds.attrs.get("schema_version", 1)
    if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        raise SchemaError(
            f"{source} has schema version {version!r}, this kdviz reads 1 to {SCHEMA_VERSION}: a later one "
            "needs a newer kdviz"
        )
    for step in range(version, SCHEMA_VERSION):
        STEPS[step](ds)
    if "schema_version" in ds.attrs:
        ds.attrs["schema_version"] = SCHEMA_VERSION
    return ds
