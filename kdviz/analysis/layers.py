"""Layers of one network side by side: how much of foreground and background each discards."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from kdviz import points
from kdviz.analysis.inputs import ENTROPY_SETTINGS, check_match
from kdviz.analysis.networks import name_layers
from kdviz.schema import read_sides
from kdviz.store import Run


def order_layers(run: Run, network: str, layers: Sequence[str] = ()) -> dict[str, str]:
    """Name the layers of a network from the input on.

    Parameters
    ----------
    run
        From :func:`kdviz.open_run`.
    network
        One of ``run.networks``.
    layers
        Their order, as names in ``named_modules()``. By default that of the run's ``layer_names``, then by
        name; a run does not know which layer comes first in a network that was measured without a study.

    Returns
    -------
    dict
        From the short label, as the run's config gives it, to the layer's name.

    Raises
    ------
    StoreError
        If the run has no such network.
    ValueError
        If a layer was not measured.
    """
    known = run.layers(network)
    if unknown := [layer for layer in layers if layer not in known]:
        raise ValueError(f"{network} was not measured at {', '.join(unknown)}; measured: {', '.join(known)}")
    labels = {
        layer: label for label, layers in name_layers(run).items() for layer in layers if layer in known
    }
    return {labels[layer]: layer for layer in layers or labels}


def tabulate_layers(layers: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Set the mean entropies of foreground and background side by side, by layer, at the last checkpoint.

    Entropies of different layers can only be compared under ``derive_entropy(..., feature_loss=1.5)``:
    calibrated on their mean they have the same mean at every layer by construction [1]_.

    Parameters
    ----------
    layers
        ``{label: Dataset}``, each with ``entropy`` (epoch, sample, unit), ``foreground`` (sample, unit),
        ``converged`` (epoch, sample) and optionally ``valid``.

    Returns
    -------
    DataFrame
        Index ``layer``. ``foreground``, ``background`` and ``difference`` (background minus foreground) in
        nat: means over the samples that have both, of their means over units; each with ``_error``, its
        standard error over samples. ``ahead``: the share of samples whose background is discarded more than
        their foreground. ``met``: the share of samples whose calibration was met.

    Raises
    ------
    SchemaError
        If a dataset breaks the data contract.
    ValueError
        If there is no layer, samples, units or the calibration differ between
        layers, or no sample has both foreground and background.

    References
    ----------
    .. [1] Zhang et al., TPAMI 2022, Fig. 1(a), shows information discarding layer by layer.
    """
    if not layers:
        raise ValueError("layers is empty; allowed: {label: Dataset}")
    check_match(layers, settings=ENTROPY_SETTINGS, require=("converged",))
    rows: dict[str, dict[str, float]] = {}
    for label, ds in layers.items():
        foreground, background = read_sides(ds)
        entropy = ds["entropy"].values[-1]
        means = {
            "foreground": points.average_units(entropy, foreground),
            "background": points.average_units(entropy, background),
        }
        means["difference"] = means["background"] - means["foreground"]
        both = np.isfinite(means["difference"])
        count = both.sum()
        if not count:
            raise ValueError(f"no sample has both foreground and background units at layer {label!r}")
        row = rows[label] = {}
        for name, values in means.items():
            row[name] = values[both].mean()
            row[f"{name}_error"] = values[both].std(ddof=1) / np.sqrt(count) if count > 1 else np.nan
        row["ahead"] = (means["difference"][both] > 0).mean()
        row["met"] = ds["converged"].values[-1].mean()
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer")
