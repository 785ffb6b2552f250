"""Tables of one network: counts epoch by epoch, and when each sample had its most points."""

import numpy as np
import pandas as pd
import xarray as xr

from kdviz.analysis.knowledge import count_points
from kdviz.analysis.learning import measure_learning


def tabulate_counts(ds: xr.Dataset, counts: xr.Dataset | None = None) -> pd.DataFrame:
    """Count knowledge points by epoch, beside what the network could do and how far its weights had moved.

    Parameters
    ----------
    ds
        From :func:`kdviz.find_points`; optionally with ``accuracy`` (epoch) and ``weight_distance`` (epoch).
    counts
        Of `ds`, from :func:`kdviz.count_points`, where they are known already.

    Returns
    -------
    DataFrame
        Index ``epoch``; means over samples ``n_fg``, ``n_bg``, ``fg_ratio``, each also with ``_low`` and
        ``_high``, the range of uncertain units; ``role``; ``accuracy`` and ``weight_distance``, NaN where
        `ds` does not hold them.
    """
    counts = count_points(ds) if counts is None else counts
    means = {name: name.replace("_mean", "") for name in map(str, counts.data_vars) if "_mean" in name}
    about = {name: ds.get(name, np.nan) for name in ("accuracy", "weight_distance")}
    table = counts[list(means)].assign(about).to_dataframe()[[*means, *about]].rename(columns=means)
    return table.assign(role=str(ds.attrs.get("network_role", "")))


def tabulate_peaks(ds: xr.Dataset) -> pd.DataFrame:
    """Say of every sample when it had its most points on the foreground, and what became of those it tried.

    Parameters
    ----------
    ds
        As for `measure_learning`, whose errors and warnings this has.

    Returns
    -------
    DataFrame
        Index ``sample``; ``peak_epoch``, missing where undefined; ``distance``, the weight distance there,
        NaN without ``weight_distance``; ``n_fg``, its foreground points there, 0 without a peak; ``kept``,
        those of the last checkpoint; ``dropped``, those met before and not kept; ``rho``, the share kept of
        all ever met, NaN without any.
    """
    learning = measure_learning(ds)
    n_fg = count_points(ds)["n_fg"]
    peak = learning["peak_epoch"]
    columns = {
        "peak_epoch": peak,
        "distance": learning.get("distance", learning["rho"] * np.nan),
        "n_fg": n_fg.where(n_fg["epoch"] == peak, 0).sum("epoch"),
        "kept": n_fg.isel(epoch=-1),
        "dropped": learning["dropped"].isel(epoch=-1).sum("unit"),
        "rho": learning["rho"],
    }
    index = pd.Index(ds["sample"].values, name="sample")
    table = pd.DataFrame({name: array.values for name, array in columns.items()}, index=index)
    return table.astype({"peak_epoch": "Int64"})
