"""The numbers that a verdict stands on: student against baseline, over seeds or samples."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from kdviz.analysis.arms import average_seeds
from kdviz.analysis.inputs import ENTROPY_SETTINGS, read_entropy_settings
from kdviz.analysis.metrics import METRICS
from kdviz.analysis.pairs import NetworkPair, compare_layers

YES, NO, OPEN, UNDEFINED = "yes", "the other way", "undecided", "undefined"
FEW_SAMPLES = 10  # decide little, or nothing


def tabulate_differences(pairs: Mapping[str, NetworkPair]) -> pd.DataFrame:
    """Compare students and baselines at every layer, over training seeds.

    Parameters
    ----------
    pairs
        From `pair_networks`; those without a student and a baseline of one seed, or with entropies of other
        settings, are left out.

    Returns
    -------
    DataFrame
        A row for each ``layer`` and ``metric`` of `METRICS` but `d_std`, the root of `d_var`:
        ``hypothesis``; ``student``, ``baseline``, ``difference``: means over the ``seeds`` at which it is
        defined; ``low`` and ``high``: its 95 % interval, ``over`` these ``"seeds"`` by Student's t, or, of
        one seed or of equal differences, over ``"samples"``, by the bootstrap of :func:`kdviz.compare`;
        ``left_out``: most samples that one of these seeds leaves out, as they have no point, or none on the
        foreground; ``answer``:
        ``"yes"`` where the interval lies on the side of the hypothesis, ``"the other way"``, ``"undecided"``
        where it contains 0, or where it is over less than ten samples, as the others are left out, or
        ``"undefined"``.
    """
    both = {label: one for label, one in pairs.items() if match_seeds(one)}
    rows: list[dict[str, Any]] = []
    compared = compare_layers(both) if both else pd.DataFrame({"layer": [], "metric": []})
    for (layer, name), of_seeds in compared.groupby(["layer", "metric"], sort=False):
        metric = METRICS[str(name)]
        if not metric.claim:
            continue
        row = average_seeds(of_seeds, metric.supporting_sign)
        if row["seeds"] == 1:
            (one,) = of_seeds.dropna(subset=["difference"]).to_dict("records")
            row |= {"low": one["difference_low"], "high": one["difference_high"], "over": "samples"}
            row["left_out"] = int(one["left_out"])
        else:
            row["left_out"] = int(of_seeds["left_out"].max())
        row["answer"] = UNDEFINED
        if not np.isnan(row["difference"]):
            row["answer"] = judge(row["low"] * metric.supporting_sign, row["high"] * metric.supporting_sign)
        few = row["left_out"] and _count_samples(both[str(layer)]) - row["left_out"] < FEW_SAMPLES
        if few and row["over"] == "samples" and row["answer"] in (YES, NO):
            row["answer"] = OPEN
        rows.append({"hypothesis": metric.hypothesis, "layer": layer, "metric": name, **row})
    columns = ["hypothesis", "metric", "layer", "student", "baseline", "difference", "low", "high"]
    rows.sort(key=lambda row: [*METRICS].index(row["metric"]))
    return pd.DataFrame(rows, columns=[*columns, "seeds", "over", "left_out", "answer"])


def _count_samples(pair: NetworkPair) -> int:
    return next(iter(pair.students.values())).sizes["sample"]


def judge(one_end: float, other_end: float) -> str:
    """Say on which side of 0 an interval lies; NaN, that of a single sample, decides nothing."""
    if min(one_end, other_end) > 0:
        return YES
    return NO if max(one_end, other_end) < 0 else OPEN


def list_settings(ours: xr.Dataset, theirs: xr.Dataset) -> dict[str, tuple[object, object]]:
    """List the settings of entropies in which two networks differ, for which `compare` refuses them."""
    sides = read_entropy_settings(ours), read_entropy_settings(theirs)
    both = {name: (sides[0].get(name), sides[1].get(name)) for name in ENTROPY_SETTINGS}
    return {name: values for name, values in both.items() if values[0] != values[1]}


def match_seeds(pair: NetworkPair) -> bool:
    """Tell whether students and baselines of the same seeds, of which there are some, can be compared."""
    seeds = pair.students.keys() & pair.baselines.keys()
    return bool(seeds) and not any(list_settings(pair.students[one], pair.baselines[one]) for one in seeds)
