"""How well the networks of a run do, beside chance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from kdviz.analysis.networks import list_networks, read_config
from kdviz.analysis.transfer import read_transfer
from kdviz.arguments import name_some
from kdviz.schema import read_classes
from kdviz.store import Run


def tabulate_accuracy(run: Run) -> pd.DataFrame:
    """Put the accuracy of every network beside chance.

    Returns
    -------
    DataFrame
        Index ``network``, repeats left out: ``role``, ``method`` and ``seed`` of its training; ``epoch``, the
        last one to be measured; ``accuracy`` after it on held-out samples, or, of networks from elsewhere, on
        what the run was measured from, or on those that ``kdviz transfer`` asked about, and ``chance``: 1
        over the number of classes. NaN where unknown: of classes without names there may be more than samples
        show.

    Raises
    ------
    StoreError
        If the run is damaged.
    """
    chance, about, rows = find_chance(run), run.catalogue(), {}
    answers = read_transfer(run).get("confidence")  # which kdviz transfer asks for
    asked = {} if answers is None else answers["right"].mean("sample").to_series().to_dict()
    for name, one in list_networks(run).items():
        if one.repeat_of:
            continue
        layer = next(iter(one.layers.values()))
        last = pick_last(run.variable(name, layer, "accuracy"), about[name, layer])
        last = asked.get(name, np.nan) if np.isnan(last) else last
        rows[name] = {
            "role": one.role,
            "method": one.method,
            "seed": one.seed,
            "epoch": run.epochs(name, layer)[-1],
            "accuracy": last,
            "chance": chance,
        }
    columns = ["role", "method", "seed", "epoch", "accuracy", "chance"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("network")


def describe_accuracy(run: Run, networks: Sequence[str]) -> str:
    """Say how well networks do in the end, and which classes they are taken to tell, in order.

    Parameters
    ----------
    run
        From :func:`kdviz.open_run`.
    networks
        Names of some that it holds.

    Raises
    ------
    StoreError
        If the run is damaged.
    """
    known, chance = tabulate_accuracy(run)["accuracy"].reindex([*networks]), find_chance(run)
    told = name_some(f"{name} {'unknown' if np.isnan(one) else f'{one:.2f}'}" for name, one in known.items())
    classes = name_some(read_classes(run.samples), 10)
    return told if np.isnan(chance) else f"{told} (chance {chance:.2f}, classes {classes})"


def pick_last(values: xr.DataArray | None, attrs: Mapping[str, Any]) -> float:
    """Return the accuracy of the last epoch, or where that is unknown the one in the attributes, or NaN."""
    last = np.nan if values is None else float(values[-1])
    return float(attrs.get("accuracy", np.nan)) if np.isnan(last) else last


def find_chance(run: Run) -> float:
    """Return 1 over the number of classes; NaN where a run does not name several, or networks find spans."""
    count = 0 if read_config(run).get("answers") == "span" else len(read_classes(run.samples))
    return 1 / count if count > 1 else np.nan
