"""Figures of metrics, scores and layers: tables in, figures out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from kdviz.render.style import BACKGROUND_COLOUR, FOREGROUND_COLOUR, NetworkStyle, style_networks, tidy


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
    styles = style_networks({"student": "student"})
    figure = Figure(figsize=(2.1 * len(metrics), 2.9), layout="constrained")
    for axis, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        rows = table[table["metric"] == metric]
        layers = list(dict.fromkeys(rows["layer"]))
        for place, layer in enumerate(layers):
            of_layer = rows[rows["layer"] == layer]
            offsets = (np.arange(len(of_layer)) - (len(of_layer) - 1) / 2) * 0.16
            _draw_bars(axis, place + offsets, of_layer, "difference", styles["student"])
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


def setting_dots(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw student and baseline under several settings: a panel a metric, intervals over samples as bars.

    Parameters
    ----------
    table
        Columns ``setting``, ``metric``, ``seed`` and, for student and baseline, the value with ``_low`` and
        ``_high``; settings are drawn in their order, seeds beside each other.
    title
        Shown above.
    """
    metrics, settings = (list(dict.fromkeys(table[name])) for name in ("metric", "setting"))
    columns = (len(metrics) + 1) // 2
    styles = style_networks({"student": "student", "baseline": "baseline"})
    figure = Figure(figsize=(3.1 * columns, 5.6), layout="constrained")
    axes = figure.subplots(2, columns, sharex=True, squeeze=False)
    for axis, metric in zip(axes.flat, metrics, strict=False):
        for role, offset in (("student", -0.12), ("baseline", 0.12)):
            rows = table[table["metric"] == metric]
            places = rows["setting"].map(settings.index) + offset + 0.08 * rows["seed"].rank(method="dense")
            _draw_bars(axis, places, rows, role, styles[role], role)
        axis.set_title(metric, fontsize=10)
        axis.set_ylim(bottom=0)
        tidy(axis)
        axis.set_xticks(range(len(settings)), settings, rotation=60, ha="right", rotation_mode="anchor")
    for axis in axes.flat[len(metrics) :]:
        axis.set_visible(False)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def layer_curves(tables: Mapping[str, pd.DataFrame], *, title: str) -> Figure:
    """Draw the mean entropy of object and background over the layers, one panel a calibration.

    Parameters
    ----------
    tables
        ``{title of the panel: table}`` with the layers as index, in order from the input, and the columns
        ``foreground``, ``background`` in nat, each also with ``_error``, drawn as a bar to either side.
    title
        Shown above.
    """
    figure = Figure(figsize=(4.9 * len(tables), 3.3), layout="constrained")
    axes = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axis, (name, table) in zip(axes, tables.items(), strict=True):
        places = np.arange(len(table))
        kinds = {"background": ("D--", BACKGROUND_COLOUR), "foreground": ("o-", FOREGROUND_COLOUR)}
        for column, (line, colour) in kinds.items():
            look: dict[str, Any] = {"color": "0.35", "linewidth": 1.2, "capsize": 2, "markersize": 7}
            look |= {"markerfacecolor": colour, "markeredgecolor": "black", "markeredgewidth": 0.6}
            error = table[f"{column}_error"]
            axis.errorbar(places, table[column], yerr=error, fmt=line, label=column, **look)
        axis.set_xticks(places, table.index)
        axis.set_title(name, fontsize=10)
        tidy(axis)
    axes[0].set_ylabel("mean entropy in nat")
    axes[0].legend(frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def removal_curves(
    shares: ArrayLike, deletion: Mapping[str, ArrayLike], insertion: Mapping[str, ArrayLike], *, title: str
) -> Figure:
    """Draw how the probability of the class changes as units are removed or shown, one line a method.

    Parameters
    ----------
    shares
        Shape ``(P,)``, shares of units, 0 to 1.
    deletion, insertion
        ``{method: probabilities (P,)}``. ``entropy...`` is drawn in black, ``random`` dashed in grey.
    title
        Shown above.
    """
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    styles = style_networks(dict.fromkeys([*deletion, *insertion], ""))
    whiles = {"most important units removed (lower is better)": deletion}
    whiles |= {"most important units shown (higher is better)": insertion}
    for axis, (label, curves) in zip(figure.subplots(1, 2, sharey=True), whiles.items(), strict=True):
        for name, values in curves.items():
            look: dict[str, Any] = {"marker": styles[name].marker, "markersize": 3.5, "linewidth": 1}
            if name.startswith("entropy"):
                look = {"color": "black", "linewidth": 2.2}
            elif name == "random":
                look = {"color": "grey", "linestyle": "--"}
            look = {"color": styles[name].colour, "label": name.replace("_", " ")} | look
            axis.plot(np.asarray(shares), np.asarray(values), **look)
        axis.set_title(label, fontsize=10)
        axis.set_xlabel("share of units")
        axis.set_ylim(0, 1)
        tidy(axis)
    figure.axes[0].set_ylabel("probability of the class")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right center", frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    return figure


def similarity_table(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw a table of rank correlations as numbers on colours: 1 is dark, 0 and below is white.

    Parameters
    ----------
    table
        One row a method, one column a stage; NaN where undefined.
    title
        Shown above.
    """
    height, width = table.shape
    figure = Figure(figsize=(0.85 * width + 2.2, 0.32 * height + 1.0), layout="constrained")
    axis = figure.subplots()
    axis.imshow(table.to_numpy(float), cmap="Purples", vmin=0, vmax=1.2, aspect="auto")
    for (line, column), value in np.ndenumerate(table.to_numpy(float)):
        text = f"{round(value, 2) + 0:.2f}" if np.isfinite(value) else "none"  # no -0.00
        colour = "white" if value > 0.75 else "black"
        axis.text(column, line, text, ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(width), [str(name).rpartition(".")[2] for name in table.columns], fontsize=8)
    axis.set_yticks(range(height), [str(name).replace("_", " ") for name in table.index], fontsize=8)
    axis.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axis.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_bars(
    axis: Axes, places: ArrayLike, rows: pd.DataFrame, column: str, style: NetworkStyle, label: str = ""
) -> None:
    """Draw a column of a table as dots, their intervals as bars."""
    values = rows[column].to_numpy()
    spread = np.stack([values - rows[f"{column}_low"], rows[f"{column}_high"] - values])
    look: dict[str, Any] = {"color": style.colour, "fmt": style.marker, "markersize": 4, "linewidth": 1}
    axis.errorbar(places, values, yerr=np.maximum(spread, 0), label=label, **look)
