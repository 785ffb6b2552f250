"""Tables of how one network learned: epoch by epoch, and sample by sample."""

import numpy as np
import pandas as pd
import xarray as xr

from kdviz.analysis.knowledge import count_points
from kdviz.analysis.learning import measure_learning
from kdviz.analysis.pairs import tabulate_counts


def tabulate_learning(ds: xr.Dataset) -> pd.DataFrame:
    """Set the counts of every epoch beside what the network could do and how far its weights had moved.

    Parameters
    ----------
    ds
        From `find_points`; optionally with ``accuracy`` (epoch) and ``weight_distance`` (epoch).

    Returns
    -------
    DataFrame
        That of `tabulate_counts` with the columns ``accuracy`` and ``weight_distance``, NaN where `ds` does
        not hold them.

    Raises
    ------
    SchemaError
        If `ds` breaks the data contract or has no ``knowledge_point``.
    """
    table = tabulate_counts(ds)
    for name in ("accuracy", "weight_distance"):
        table[name] = ds[name].values if name in ds else np.nan
    return table


def tabulate_peaks(ds: xr.Dataset) -> pd.DataFrame:
    """Say of every sample when it had its most points on the object, and what became of those it tried.

    Parameters
    ----------
    ds
        As for `measure_learning`, whose errors and warnings this has.

    Returns
    -------
    DataFrame
        Index ``sample``; ``peak_epoch``; ``distance``, the weight distance there, NaN without
        ``weight_distance``; ``n_fg``, the points on the object there; ``kept``, those of the last checkpoint;
        ``dropped``, those met before and not kept; ``rho``, the share kept of all ever met.
    """
    learning = measure_learning(ds)
    n_fg = count_points(ds)["n_fg"]
    columns = {
        "peak_epoch": learning["peak_epoch"],
        "distance": learning.get("distance", learning["rho"] * np.nan),
        "n_fg": n_fg.sel(epoch=learning["peak_epoch"]),
        "kept": n_fg.isel(epoch=-1),
        "dropped": learning["dropped"].isel(epoch=-1).sum("unit"),
        "rho": learning["rho"],
    }
    index = pd.Index(ds["sample"].values, name="sample")
    return pd.DataFrame({name: array.values for name, array in columns.items()}, index=index)
