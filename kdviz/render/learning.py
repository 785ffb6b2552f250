"""Figures of how knowledge points were learned: over accuracy, over weight movement, tried and dropped."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from kdviz.render.panels import as_rgb, draw_detours
from kdviz.render.style import ROLE_COLOURS, ROLE_MARKERS, tidy


def ratio_against_accuracy(tables: Mapping[str, pd.DataFrame], *, title: str) -> Figure:
    """Draw the foreground ratio over the accuracy, one path a network, its ends named by their epochs.

    Parameters
    ----------
    tables
        ``{name: table}`` with index epoch and the columns ``role``, ``accuracy``, ``fg_ratio``,
        ``fg_ratio_low``, ``fg_ratio_high``. Epochs of unknown accuracy are left out; a network with one
        epoch, such as a finished teacher, is a single point.
    title
        Shown above.
    """
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axis = figure.subplots()
    for place, (name, whole) in enumerate(tables.items()):
        table = whole.dropna(subset=["accuracy"])
        if table.empty:
            continue
        role = str(whole["role"].iloc[0])
        spread = [table["fg_ratio"] - table["fg_ratio_low"], table["fg_ratio_high"] - table["fg_ratio"]]
        axis.errorbar(
            table["accuracy"],
            table["fg_ratio"],
            yerr=np.maximum(spread, 0),
            color=ROLE_COLOURS[role],
            marker=ROLE_MARKERS[role],
            markersize=5,
            linewidth=1.2,
            elinewidth=0.5,
            label=name,
        )
        for epoch, row in table.iloc[[0, -1] if len(table) > 1 else [-1]].iterrows():
            axis.annotate(
                f"epoch {epoch}",
                (row["accuracy"], row["fg_ratio"]),
                xytext=(5, -11 if place % 2 else 6),
                textcoords="offset points",
                fontsize=7,
                color=ROLE_COLOURS[role],
            )
    axis.set_xlabel("accuracy on held-out images")
    axis.set_ylabel("foreground ratio")
    axis.set_ylim(0, 1)
    axis.margins(x=0.12)
    tidy(axis)
    if axis.has_data():
        axis.legend(frameon=False, fontsize=9, loc="lower right")
    else:
        axis.text(0.5, 0.5, "no accuracy recorded in this run", ha="center", transform=axis.transAxes)
    axis.set_title(title, fontsize=11)
    return figure


def points_over_distance(
    tables: Mapping[str, pd.DataFrame], peaks: Mapping[str, pd.DataFrame], *, title: str
) -> Figure:
    """Draw the points on the object over the movement of the weights, and where each sample had its most.

    The line is the mean over samples at every checkpoint. A small marker is one sample at its peak, so that
    markers stand in columns at the checkpoints; the larger they stand together, the more simultaneously the
    points were learned. The dashed line is their mean distance, D_mean, the band one D_std to either side.

    Parameters
    ----------
    tables
        ``{name: table}`` with index epoch and the columns ``role``, ``weight_distance``, ``n_fg``.
    peaks
        Under the same names, a row a sample: ``distance``, the weight distance at the sample's peak, and
        ``n_fg``, its points on the object there.
    title
        Shown above.

    Raises
    ------
    ValueError
        If the names differ.
    """
    if tables.keys() != peaks.keys():
        raise ValueError(
            f"tables has {', '.join(tables)}, peaks {', '.join(peaks)}; give both the same names"
        )
    figure = Figure(figsize=(4.6 * len(tables), 3.4), layout="constrained")
    axes = figure.subplots(1, len(tables), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (name, table) in zip(axes, tables.items(), strict=True):
        role = str(table["role"].iloc[0])
        colour, reached = ROLE_COLOURS[role], peaks[name]
        mean, std = reached["distance"].mean(), reached["distance"].std(ddof=0)
        axis.axvspan(mean - std, mean + std, color="black", alpha=0.08, linewidth=0)
        axis.axvline(mean, color="black", linewidth=1, linestyle="--")
        axis.scatter(
            reached["distance"], reached["n_fg"], s=26, color=colour, alpha=0.35, linewidths=0, zorder=2
        )
        axis.plot(
            table["weight_distance"],
            table["n_fg"],
            color=colour,
            marker=ROLE_MARKERS[role],
            markersize=5,
            linewidth=1.6,
            markeredgecolor="white",
            markeredgewidth=0.6,
        )
        axis.set_title(f"{name}: D_mean {mean:.2f}, D_std {std:.2f}", fontsize=10)
        axis.set_xlabel("weight distance")
        tidy(axis)
    axes[0].set_ylabel("knowledge points on the object")
    axes[0].set_ylim(bottom=0)
    axes[0].set_xlim(left=0)
    figure.suptitle(title, fontsize=11)
    return figure


def detour_panels(
    pictures: Sequence[ArrayLike],
    kept: Sequence[Sequence[ArrayLike]],
    dropped: Sequence[Sequence[ArrayLike]],
    foreground: Sequence[ArrayLike],
    *,
    rows: int,
    cols: int,
    columns: Sequence[str],
    names: Sequence[str],
) -> Figure:
    """Show which points on the object were kept to the end, and which were tried and dropped.

    Discs are points of the last checkpoint, crosses points that were met before and are none any more. Units
    that never were a point are dimmed: what is lit was tried at some checkpoint. The white line is the edge
    of the object.

    Parameters
    ----------
    pictures
        ``S`` pictures ``(H, W, 3)`` or ``(H, W)``, uint8.
    kept, dropped
        ``S`` lists of ``K`` masks ``(U,)``, bool: one for every column.
    foreground
        ``S`` masks ``(U,)``, bool.
    rows, cols
        The grid.
    columns, names
        ``K`` titles and ``S`` labels of the lines.

    Raises
    ------
    ValueError
        If arrays or lists do not fit each other or the grid.
    """
    figure = Figure(
        figsize=(1.9 * (len(columns) + 1) + 0.4, 2.05 * len(pictures) + 0.75), layout="constrained"
    )
    axes = figure.subplots(len(pictures), len(columns) + 1, squeeze=False)
    for line, (picture, ends, lost, mask, name) in enumerate(
        zip(pictures, kept, dropped, foreground, names, strict=True)
    ):
        axes[line, 0].imshow(as_rgb(picture), interpolation="nearest")
        axes[line, 0].set_ylabel(name, fontsize=9)
        for axis, end, gone in zip(axes[line, 1:], ends, lost, strict=True):
            axis.imshow(draw_detours(picture, end, gone, mask, rows=rows, cols=cols))
            axis.set_xlabel(f"{int(np.sum(end))} kept, {int(np.sum(gone))} dropped", fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for axis, column in zip(axes[0], ["input", *columns], strict=True):
        axis.set_title(column, fontsize=9)
    figure.supxlabel(
        "disc: point at the end   cross: tried and dropped   lit: ever tried, on the object", fontsize=9
    )
    return figure
