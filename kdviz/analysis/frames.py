"""A whole run as one tidy table."""

from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from kdviz.analysis.knowledge import count_points
from kdviz.analysis.networks import list_networks
from kdviz.analysis.settings import Settings
from kdviz.errors import UnfinishedError
from kdviz.schema import read_classes, read_sides
from kdviz.store import Run
from kdviz.store.run import Store, as_run

_ABOUT = ("network", "role", "method", "distilled_layer", "training_seed", "repeat_of", "layer")
_PLACE = ("epoch", "sample", "label", "class")
_WHOLE = ("label", "n_fg", "n_bg", "uncertain")
_VALUES = (
    "entropy_mean",
    "entropy_std",
    "n_fg",
    "n_bg",
    "fg_ratio",
    "uncertain",
    "accuracy",
    "weight_distance",
)


def to_dataframe(run: Store, settings: Settings | None = None) -> pd.DataFrame:
    """Put a run into one table: a row for every network, layer, epoch and sample.

    Parameters
    ----------
    run
        An open run, or its path.
    settings
        Of entropies and points; by default the weight of each measurement and the threshold of the run.

    Returns
    -------
    DataFrame
        Of what is measured so far, in the order of the run; unknown numbers are missing, unknown texts empty.

        - ``network``, ``role``, ``method`` (of distillation), ``distilled_layer``, ``training_seed`` (0 where
          not recorded), ``repeat_of``: as `Network` has them. Rows with a ``repeat_of`` measure a network a
          second time, with another seed of noise.
        - ``layer``, by its label as from `name_layers`; ``epoch`` (completed training epochs), ``sample``,
          ``label`` (its class) and ``class`` (the name of that).
        - ``entropy_mean``, ``entropy_std`` (nat): mean and standard deviation over the units of the sample.
        - ``n_fg``, ``n_bg`` (units): knowledge points on the foreground and on the background;
          ``fg_ratio`` (1): the share of them on the foreground, missing without any; ``uncertain`` (units):
          those too close to the threshold to call. All missing where there is no mask.
        - ``accuracy`` (1): share of samples classified correctly; ``weight_distance`` (1): cumulated
          movement of the weights. Both of the network at that epoch, the same for all samples.

    Raises
    ------
    StoreError
        If there is no run, or it is damaged.
    SchemaError, ValueError
        As `apply_settings`.

    Examples
    --------
    >>> from kdviz import analysis, sources
    >>> table = analysis.to_dataframe(sources.find_data("runs/finetuning.nc"))
    >>> last = table[table["epoch"] == table["epoch"].max()]
    >>> last.groupby("role")["n_fg"].mean().round(2)[["student", "baseline"]].to_dict()
    {'student': 17.8, 'baseline': 14.42}
    """
    run = as_run(run)
    settings = (settings or Settings()).of_run(run)
    columns, tables = [*_ABOUT, *_PLACE, *_VALUES], []
    for network in list_networks(run).values():
        about: dict[str, Any] = {
            "network": network.name,
            "role": network.role,
            "method": network.method,
            "distilled_layer": network.distilled_layer,
            "training_seed": network.seed,
            "repeat_of": network.repeat_of,
        }
        for label, module in network.layers.items():
            with suppress(UnfinishedError):  # no epoch yet
                table = _tabulate(run.dataset(network.name, module, partial=True), run, settings)
                tables.append(table.assign(**about, layer=label)[columns])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def _tabulate(ds: xr.Dataset, run: Run, settings: Settings) -> pd.DataFrame:
    """Return the rows of one network and layer, without what tells it from others."""
    ds = settings.derive(ds)
    entropy = ds["entropy"].where(ds["valid"])
    found = dict.fromkeys(_VALUES, xr.DataArray(np.nan))
    found |= {"entropy_mean": entropy.mean("unit"), "entropy_std": entropy.std("unit")}
    found |= {name: ds[name] for name in ("accuracy", "weight_distance") if name in ds}
    if read_sides(ds)[1].any():
        counts = count_points(settings.find(ds)).rename(n_uncertain="uncertain")
        found |= {name: counts[name] for name in ("n_fg", "n_bg", "fg_ratio", "uncertain")}
    table = xr.Dataset(found).to_dataframe(["epoch", "sample"]).reset_index()
    table["label"] = table.get("label", np.nan)
    names = dict(enumerate(read_classes(run.samples)))
    table["class"] = [names.get(code, "") for code in table["label"]]
    return table.astype(dict.fromkeys(_WHOLE, "Int64"))
