"""Figures of what a network discards, layer by layer: maps with one scale, and means."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from kdviz.render.panels import on_grid, outline_object, show_picture
from kdviz.render.style import BACKGROUND_COLOUR, ENTROPY_COLOURS, FOREGROUND_COLOUR, tidy


def entropy_panels(
    pictures: Sequence[ArrayLike],
    entropy: ArrayLike,
    foreground: Sequence[ArrayLike],
    *,
    rows: int,
    cols: int,
    columns: Sequence[str],
    names: Sequence[str],
    title: str,
) -> Figure:
    """Draw entropy maps: one line a sample, one column a layer, one colour scale for all of them.

    Parameters
    ----------
    pictures
        ``S`` pictures ``(H, W, 3)`` or ``(H, W)``, uint8.
    entropy
        Shape ``(S, K, U)`` in nat, one map for every column; NaN stays blank.
    foreground
        ``S`` masks ``(U,)``, bool; the white line is their edge.
    rows, cols
        The grid.
    columns, names
        ``K`` titles and ``S`` labels of the lines.
    title
        Shown above.

    Raises
    ------
    ValueError
        If arrays or lists do not fit each other or the grid, or no entropy is a number.
    """
    maps = np.asarray(entropy, float)
    expected = (len(pictures), len(columns), rows * cols)
    if maps.shape != expected:
        raise ValueError(f"entropy has shape {maps.shape}; pictures, columns and the grid need {expected}")
    if not np.isfinite(maps).any():
        raise ValueError("entropy holds no number")
    scale = Normalize(np.nanmin(maps), np.nanmax(maps))
    figure = Figure(
        figsize=(1.25 * (len(columns) + 1) + 0.9, 1.25 * len(pictures) + 0.7), layout="constrained"
    )
    axes = figure.subplots(len(pictures), len(columns) + 1, squeeze=False)
    for line, (picture, of_layers, mask, name) in enumerate(
        zip(pictures, maps, foreground, names, strict=True)
    ):
        on_object = on_grid("foreground", mask, rows, cols)
        show_picture(axes[line, 0], picture, rows, cols)
        axes[line, 0].set_ylabel(name, fontsize=8)
        for axis, values in zip(axes[line, 1:], of_layers, strict=True):
            show_picture(axis, picture, rows, cols)  # for its aspect
            axis.imshow(
                values.reshape(rows, cols),
                extent=(0, cols, rows, 0),
                cmap=ENTROPY_COLOURS,
                norm=scale,
                interpolation="nearest",
                aspect="auto",
            )
            outline_object(axis, on_object)
    for axis, column in zip(axes[0], ["input", *columns], strict=True):
        axis.set_title(column, fontsize=9)
    bar = figure.colorbar(ScalarMappable(scale, ENTROPY_COLOURS), ax=axes, fraction=0.025, pad=0.01)
    bar.set_label("entropy in nat (high: discarded)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
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
        for column, marker, colour, style in (
            ("background", "D", BACKGROUND_COLOUR, "--"),
            ("foreground", "o", FOREGROUND_COLOUR, "-"),
        ):
            axis.errorbar(
                places,
                table[column],
                yerr=table[f"{column}_error"],
                color="0.35",
                linestyle=style,
                linewidth=1.2,
                capsize=2,
                marker=marker,
                markersize=7,
                markerfacecolor=colour,
                markeredgecolor="black",
                markeredgewidth=0.6,
                label={"foreground": "object", "background": "background"}[column],
            )
        axis.set_xticks(places, table.index)
        axis.set_title(name, fontsize=10)
        tidy(axis)
    axes[0].set_ylabel("mean entropy in nat")
    axes[0].legend(frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure
