"""Figures of counts and metrics: tables in, figures out."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdviz.render.style import ROLE_COLOURS, ROLE_MARKERS, tidy


def count_curves(counts: Mapping[str, pd.DataFrame], *, title: str) -> Figure:
    """Draw N_fg, N_bg and the foreground ratio over training, one line a network.

    Parameters
    ----------
    counts
        ``{network: table}`` with index epoch, the columns ``role``, ``n_fg``, ``n_bg``, ``fg_ratio`` and,
        for the range of uncertain units, each with ``_low`` and ``_high``. Networks with one epoch, such as a
        finished teacher, are drawn as a dashed level.
    title
        Shown above.
    """
    figure = Figure(figsize=(10.5, 3.1), layout="constrained")
    names = {
        "n_fg": "knowledge points on the object",
        "n_bg": "on the background",
        "fg_ratio": "foreground ratio",
    }
    for axis, (column, label) in zip(figure.subplots(1, 3), names.items(), strict=True):
        labelled = set()
        for table in counts.values():
            role = str(table["role"].iloc[0])
            style = {"color": ROLE_COLOURS[role], "label": None if role in labelled else role}
            labelled.add(role)
            if len(table) == 1:
                axis.axhline(table[column].iloc[0], linestyle="--", linewidth=1.2, **style)
                continue
            axis.plot(
                table.index, table[column], marker=ROLE_MARKERS[role], markersize=4, linewidth=1.5, **style
            )
            low, high = table[f"{column}_low"], table[f"{column}_high"]
            axis.fill_between(table.index, low, high, color=ROLE_COLOURS[role], alpha=0.12, linewidth=0)
        axis.set_xlabel("epoch")
        axis.set_title(label, fontsize=10)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_ylim(bottom=0, top=1 if column == "fg_ratio" else None)
        tidy(axis)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def difference_dots(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw student minus baseline for every metric: a dot a training seed, its interval over samples as bar.

    Parameters
    ----------
    table
        Columns ``metric``, ``layer``, ``seed``, ``difference``, ``difference_low``, ``difference_high`` and
        ``supporting_sign`` (+1 or -1: the sign that would speak for the papers' hypothesis).
    title
        Shown above.
    """
    metrics = list(dict.fromkeys(table["metric"]))
    figure = Figure(figsize=(2.1 * len(metrics), 2.9), layout="constrained")
    for axis, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        rows = table[table["metric"] == metric]
        layers = list(dict.fromkeys(rows["layer"]))
        for place, layer in enumerate(layers):
            of_layer = rows[rows["layer"] == layer]
            offsets = (np.arange(len(of_layer)) - (len(of_layer) - 1) / 2) * 0.16
            values = of_layer["difference"].to_numpy()
            spread = np.stack([values - of_layer["difference_low"], of_layer["difference_high"] - values])
            axis.errorbar(
                place + offsets,
                values,
                yerr=np.maximum(spread, 0),
                fmt="o",
                markersize=4,
                linewidth=1,
                color=ROLE_COLOURS["student"],
            )
        axis.axhline(0, color="black", linewidth=0.8)
        low, high = axis.get_ylim()
        reach = max(abs(low), abs(high))
        axis.set_ylim(-reach, reach)
        sign = rows["supporting_sign"].iloc[0]
        shaded = (0, reach) if sign > 0 else (-reach, 0)
        axis.axhspan(*shaded, color="#009E73", alpha=0.08, linewidth=0)
        axis.set_xticks(range(len(layers)), layers)
        axis.set_xlim(-0.6, len(layers) - 0.4)
        axis.set_title(metric, fontsize=10)
        tidy(axis)
    figure.axes[0].set_ylabel("student minus baseline")
    figure.suptitle(title, fontsize=11)
    return figure
