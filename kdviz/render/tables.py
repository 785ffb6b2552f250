"""Figures of metrics, scores and layers: tables in, figures out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from kdviz.render.style import (
    DIAMOND,
    DISC,
    ROLE_STYLES,
    SUPPORT,
    draw_bars,
    name_lines,
    open_figure,
    style_networks,
)

_BESIDE = 20  # letters of names that have room beside each other


def difference_dots(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw student minus baseline for every metric: a dot a training seed, its interval over samples as bar.

    Parameters
    ----------
    table
        Columns ``metric``, ``layer``, ``seed``, ``difference``, ``difference_low``, ``difference_high`` and
        ``supporting_sign`` (+1 or -1: the sign that would speak for the papers' hypothesis). Metrics that
        are undefined everywhere are left out where others are not.
    title
        Shown above.
    """
    known = table.dropna(subset=["difference"])
    metrics = list(dict.fromkeys(known["metric"] if len(known) else table["metric"]))
    names = table["layer"].unique()
    look, more = {}, 0.0
    if sum(map(len, names)) > _BESIDE:
        look, more = {"rotation": 90}, 0.06 * max(map(len, names))
    figure, (axes,) = open_figure(title, 2.1 * len(metrics), 2.9 + more, len(metrics))
    for axis, metric in zip(axes, metrics, strict=True):
        rows = table[table["metric"] == metric]
        layers = list(dict.fromkeys(rows["layer"]))
        for place, layer in enumerate(layers):
            of_layer = rows[rows["layer"] == layer]
            offsets = (np.arange(len(of_layer)) - (len(of_layer) - 1) / 2) * min(0.16, 0.8 / len(of_layer))
            draw_bars(axis, place + offsets, of_layer, "difference", ROLE_STYLES["student"])
        axis.axhline(0, color="black", linewidth=0.8)
        low, high = axis.get_ylim()
        reach = max(abs(low), abs(high))
        axis.set_ylim(-reach, reach)
        sign = rows["supporting_sign"].iloc[0]
        shaded = (0, reach) if sign > 0 else (-reach, 0)
        axis.axhspan(*shaded, color=SUPPORT, alpha=0.08, linewidth=0)
        axis.set_xticks(range(len(layers)), layers, **look)
        axis.set_xlim(-0.6, len(layers) - 0.4)
        axis.set_title(metric, fontsize=10)
    axes[0].set_ylabel("student minus baseline")
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
    figure, axes = open_figure(title, 3.1 * columns, 5.6, columns, 2, sharex=True)
    for axis, metric in zip(axes.flat, metrics, strict=False):
        for role, offset in (("student", -0.12), ("baseline", 0.12)):
            rows = table[table["metric"] == metric]
            places = rows["setting"].map(settings.index) + offset + 0.08 * rows["seed"].rank(method="dense")
            draw_bars(axis, places, rows, role, ROLE_STYLES[role], label=role)
        axis.set_title(metric, fontsize=10)
        axis.set_ylim(bottom=0)
        axis.set_xticks(range(len(settings)), settings, rotation=60, ha="right", rotation_mode="anchor")
    for axis in axes.flat[len(metrics) :]:
        axis.set_visible(False)
    name_lines(figure, axes.flat[0])
    return figure


def layer_curves(tables: Mapping[str, pd.DataFrame], *, title: str) -> Figure:
    """Draw the mean entropy of foreground and background over the layers, one panel a calibration.

    Parameters
    ----------
    tables
        ``{title of the panel: table}`` with the layers as index, in order from the input, and the columns
        ``foreground``, ``background`` in nat, each also with ``_error``, drawn as a bar to either side.
    title
        Shown above.
    """
    figure, (axes,) = open_figure(title, 4.9 * len(tables), 3.3, len(tables), sharey=True)
    for axis, (name, table) in zip(axes, tables.items(), strict=True):
        places = np.arange(len(table))
        kinds = {"background": ("D--", DIAMOND.colour), "foreground": ("o-", DISC.colour)}
        for column, (line, colour) in kinds.items():
            look: dict[str, Any] = {"color": "0.35", "linewidth": 1.2, "capsize": 2, "markersize": 7}
            look |= {"markerfacecolor": colour, "markeredgecolor": "black", "markeredgewidth": 0.6}
            error = table[f"{column}_error"]
            axis.errorbar(places, table[column], yerr=error, fmt=line, label=column, **look)
        axis.set_xticks(places, table.index)
        axis.set_title(name, fontsize=10)
    axes[0].set_ylabel("mean entropy in nat")
    axes[0].legend(frameon=False, fontsize=9)
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
    figure, (axes,) = open_figure(title, 9.6, 3.4, 2, sharey=True)
    styles = style_networks(dict.fromkeys([*deletion, *insertion], ""))
    whiles = {"most important units removed (lower is better)": deletion}
    whiles |= {"most important units shown (higher is better)": insertion}
    for axis, (label, curves) in zip(axes, whiles.items(), strict=True):
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
    axes[0].set_ylabel("probability of the class")
    name_lines(figure, axes[0])
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
    figure, ((axis,),) = open_figure(title, 0.85 * width + 2.2, 0.32 * height + 1.0)
    axis.imshow(table.to_numpy(float), cmap="Purples", vmin=0, vmax=1.2, aspect="auto")
    for (line, column), value in np.ndenumerate(table.to_numpy(float)):
        text = f"{round(value, 2) + 0:.2f}" if np.isfinite(value) else "none"  # no -0.00
        colour = "white" if value > 0.75 else "black"
        axis.text(column, line, text, ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(width), [str(name).rpartition(".")[2] for name in table.columns], fontsize=8)
    axis.set_yticks(range(height), [str(name).replace("_", " ") for name in table.index], fontsize=8)
    axis.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axis.spines[:].set_visible(False)
    return figure
