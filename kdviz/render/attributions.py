"""Figures of attribution maps and of how they fared: arrays and tables in, figures out.

Symbols: ``S`` samples, ``U = rows x cols`` units of a grid, ``P`` points of a curve.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from kdviz.render.panels import on_grid, outline_object, show_picture
from kdviz.render.style import ENTROPY_COLOURS, IMPORTANCE_COLOURS, SIGNED_COLOURS, tidy

ENTROPY, RANDOM = "entropy", "random"  # names with a look of their own among the methods
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#999933", "#882255", "#44AA99")
_MARKERS = "osD^vP*Xh"


def map_panels(
    pictures: Sequence[ArrayLike],
    maps: Mapping[str, ArrayLike],
    foreground: Sequence[ArrayLike],
    *,
    rows: int,
    cols: int,
    names: Sequence[str],
) -> Figure:
    """Lay out inputs beside their maps: one line a sample, one column a method.

    Colours are those of the bar below a column and the same for all its lines. A map that has negative values
    anywhere is shown from blue (negative) over white (zero) to red, symmetrically; one without, from dark
    (smallest) to yellow (largest). The entropies of a column named ``entropy...`` run the other way, so that
    bright, on the right of its bar, is important in every column. A line follows the edge of the object.

    Parameters
    ----------
    pictures
        ``S`` pictures ``(H, W, 3)`` or ``(H, W)``, uint8.
    maps
        ``{title: values}``, values of shape ``(S, U)``.
    foreground
        ``S`` masks ``(U,)``, bool.
    rows, cols
        The grid.
    names
        ``S`` labels of the lines.

    Raises
    ------
    ValueError
        If a map does not fit the samples and the grid, or a mask does not fit the grid.
    """
    shape = (len(pictures), rows * cols)
    arrays = {title: np.asarray(values, float) for title, values in maps.items()}
    for title, values in arrays.items():
        if values.shape != shape:
            raise ValueError(f"map {title!r} has shape {values.shape}; allowed: {shape} (samples, units)")
    figure = Figure(figsize=(1.2 * (len(maps) + 1) + 0.3, 1.2 * len(pictures) + 0.9), layout="constrained")
    *axes, bars = figure.subplots(
        len(pictures) + 1, len(maps) + 1, squeeze=False, height_ratios=[1] * len(pictures) + [0.07]
    )
    for line, picture, mask, name in zip(axes, pictures, foreground, names, strict=True):
        on_object = on_grid("foreground", mask, rows, cols)
        line[0].set_ylabel(name, fontsize=8)
        for axis in line:
            show_picture(axis, picture, rows, cols)  # below the maps for its shape
            outline_object(axis, on_object)
    bars[0].set_axis_off()
    for at, (title, values) in enumerate(arrays.items(), start=1):
        low, high, colours = _choose_colours(title, values)
        for line, one in zip(axes, values, strict=True):
            drawn = line[at].imshow(
                one.reshape(rows, cols),
                extent=(0, cols, rows, 0),
                vmin=low,
                vmax=high,
                cmap=colours,
                interpolation="nearest",
                aspect="auto",
            )
        bar = figure.colorbar(drawn, cax=bars[at], orientation="horizontal", ticks=[low, high])
        bar.ax.set_xticklabels([f"{end:.2g}" for end in (low, high)], fontsize=7)
        if title.startswith(ENTROPY):
            bar.ax.invert_xaxis()
    for axis, title in zip(axes[0], ["input", *arrays], strict=True):
        axis.set_title(title.replace("_", "\n"), fontsize=8)
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
    whiles = {"most important units removed (lower is better)": deletion}
    whiles |= {"most important units shown (higher is better)": insertion}
    for axis, (label, curves) in zip(figure.subplots(1, 2, sharey=True), whiles.items(), strict=True):
        for name, style in _line_styles(list(curves)).items():
            axis.plot(np.asarray(shares), np.asarray(curves[name]), label=name.replace("_", " "), **style)
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


def _choose_colours(title: str, values: NDArray[np.float64]) -> tuple[float, float, str]:
    if title.startswith(ENTROPY):
        return float(values.min()), float(values.max()), ENTROPY_COLOURS
    if values.min() < 0:
        reach = float(abs(values).max())
        return -reach, reach, SIGNED_COLOURS
    return 0.0, float(values.max()), IMPORTANCE_COLOURS


def _line_styles(names: Sequence[str]) -> dict[str, dict[str, object]]:
    """Give every method a colour and a marker; the entropy and the random order stand out."""
    styles: dict[str, dict[str, object]] = {}
    looks = zip(_COLOURS, _MARKERS, strict=True)
    for name in names:
        if name == RANDOM:
            styles[name] = {"color": "grey", "linestyle": "--", "linewidth": 1.5}
        elif name.startswith(ENTROPY):
            styles[name] = {"color": "black", "linewidth": 2.2}
        else:
            colour, marker = next(looks)
            styles[name] = {"color": colour, "marker": marker, "markersize": 3.5, "linewidth": 1}
    return styles
