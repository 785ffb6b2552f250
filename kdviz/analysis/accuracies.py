"""How well the networks of a run do, beside chance."""

import numpy as np
import pandas as pd

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
    chance, about, rows = _find_chance(run), run.catalogue(), {}
    answers = read_transfer(run).get("confidence")  # which kdviz transfer asks for
    asked = {} if answers is None else answers["right"].mean("sample").to_series().to_dict()
    for name, one in list_networks(run).items():
        if one.repeat_of:
            continue
        layer = next(iter(one.layers.values()))
        values = run.variable(name, layer, "accuracy")
        last = np.nan if values is None else values.values[-1]
        last = about[name, layer].get("accuracy", np.nan) if np.isnan(last) else last
        last = asked.get(name, np.nan) if np.isnan(last) else last
        rows[name] = {
            "role": one.role,
            "method": one.method,
            "seed": one.seed,
            "epoch": run.epochs(name, layer)[-1],
            "accuracy": float(last),
            "chance": chance,
        }
    columns = ["role", "method", "seed", "epoch", "accuracy", "chance"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("network")


def describe_accuracy(run: Run) -> str:
    """Say in a line how well networks do in the end, and which classes they are taken to tell, in order."""
    table, classes = tabulate_accuracy(run), name_some(read_classes(run.samples), 10)
    told = table.index + " " + table["accuracy"].map("{:.2f}".format).replace("nan", "unknown")
    return f"{name_some(told)} (chance {_find_chance(run):.2f}, classes {classes})"


def _find_chance(run: Run) -> float:
    count = 0 if read_config(run).get("answers") == "span" else len(read_classes(run.samples))
    return 1 / count if count > 1 else np.nan
