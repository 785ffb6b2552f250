"""Figures of networks over training: tables in, figures out; every network in the colour of its name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from kdviz.render.style import NetworkStyle, draw_bars, name_lines, open_axes, open_figure, style_networks
from kdviz.render.writing import Sheet
from kdviz.schema import Vocabulary

_COUNT_TITLES = {
    "n_fg": "points on the {foreground}",
    "n_bg": "points on the background",
    "fg_ratio": "share on the {foreground}",
}
_TICKS = 5  # steps of a narrow axis, at most, so that long numbers stay apart


def count_curves(
    counts: Mapping[str, Sequence[pd.DataFrame]], *, title: str, foreground: str = "foreground"
) -> Figure:
    """Draw N_fg, N_bg and the foreground ratio over training.

    Parameters
    ----------
    counts
        ``{network: tables}``, such as one a training seed, which share a colour. A table has the index epoch,
        the columns ``role``, ``n_fg``, ``n_bg``, ``fg_ratio`` and, for the range of uncertain units, each
        with ``_low`` and ``_high``. A table of one epoch, such as a finished teacher's, is a dashed level.
    title
        Shown above.
    foreground
        What it is called, see :class:`kdviz.schema.Vocabulary`.
    """
    figure, (axes,) = open_figure(title, 10.5, 3.1, 3)
    styles = _style_tables({name: tables[0] for name, tables in counts.items()})
    _draw_counts(axes, counts, styles, foreground)
    name_lines(figure, axes[0])
    return figure


@dataclass(frozen=True)
class Trace:
    """What `Charts` show of one network and one sample.

    Attributes
    ----------
    network, style
        Its name, and its colour and marker, see `style_networks`.
    counts
        A table as in `count_curves`: means over the samples, by epoch; None where nothing can be counted.
    values
        Shape ``(U,)``: what the histogram counts, at the shown epoch.
    cutoff
        Where on the histogram's axis knowledge points begin; NaN for none.
    n_fg
        Shape ``(E,)``: foreground points of this sample at the epochs of `counts`.
    distance
        Shape ``(E,)``: weight distance of those epochs; None if not recorded.
    peak_epoch
        First epoch with the most foreground points; None if undefined.
    """

    network: str
    style: NetworkStyle
    counts: pd.DataFrame | None
    values: NDArray[np.floating]
    cutoff: float = np.nan
    n_fg: NDArray[np.integer] | None = None
    distance: NDArray[np.floating] | None = None
    peak_epoch: int | None = None


@dataclass(frozen=True)
class Charts:
    """Beside each other: counts over epochs, points over weight distance, a histogram of units.

    Attributes
    ----------
    traces
        One a network.
    epoch
        Shown epoch, marked in the curves.
    quantity
        Label of the histogram's axis.
    vocabulary
        Of the kind of samples.
    """

    traces: Sequence[Trace]
    epoch: int
    quantity: str
    vocabulary: Vocabulary

    def draw(self, figure: Figure | SubFigure) -> None:
        """Draw them into an empty figure, or a part of one."""
        styles = {one.network: one.style for one in self.traces}
        counts = {one.network: [one.counts] for one in self.traces if one.counts is not None}
        axes = open_axes(figure, 5 if counts else 1)[0]
        _draw_histogram(axes[-1], self.traces, self.quantity)
        axes[-1].set_title(f"{self.vocabulary.unit}s of this {self.vocabulary.sample}", fontsize=10)
        if counts:
            _draw_counts(axes[:3], counts, styles, self.vocabulary.foreground)
            for axis in axes[:3]:
                axis.axvline(self.epoch, color="black", linewidth=0.8, linestyle=":")
            _draw_distance(axes[3], self.traces, self.epoch)
            axes[3].set_title(f"its points on the {self.vocabulary.foreground}", fontsize=10)
        name_lines(figure, axes[-1])


def view_charts(charts: Charts) -> Figure:
    """Draw charts as a figure of their own."""
    figure = Sheet(figsize=(13.2, 2.7), layout="constrained")
    charts.draw(figure)
    return figure


def _style_tables(tables: Mapping[str, pd.DataFrame]) -> dict[str, NetworkStyle]:
    """Style networks by the roles in their tables."""
    return style_networks({name: str(table["role"].iloc[0]) for name, table in tables.items()})


def _draw_counts(
    axes: Sequence[Axes],
    counts: Mapping[str, Sequence[pd.DataFrame]],
    styles: Mapping[str, NetworkStyle],
    foreground: str,
) -> None:
    lines = [(name, table) for name, tables in counts.items() for table in tables]
    for axis, (column, title) in zip(axes, _COUNT_TITLES.items(), strict=True):
        labels = {name: name for name in counts}  # each is used once
        for name, table in lines:
            colour, marker = styles[name]
            look: dict[str, Any] = {"color": colour, "label": labels.pop(name, None)}
            if len(table) == 1:
                axis.axhline(table[column].iloc[0], linestyle="--", linewidth=1.2, **look)
                continue
            axis.plot(table.index, table[column], marker=marker, markersize=4, linewidth=1.5, **look)
            low, high = table[f"{column}_low"], table[f"{column}_high"]
            axis.fill_between(table.index, low, high, color=colour, alpha=0.12, linewidth=0)
        axis.set_xlim(axes[0].get_xlim())  # a ratio may begin undefined
        axis.set_xlabel("epoch")
        axis.set_title(title.format(foreground=foreground), fontsize=10)
        axis.xaxis.set_major_locator(MaxNLocator(_TICKS, integer=True))
        axis.set_ylim(bottom=0, top=1 if column == "fg_ratio" else None)


def _draw_histogram(axis: Axes, traces: Sequence[Trace], quantity: str) -> None:
    values = [trace.values[np.isfinite(trace.values)] for trace in traces]
    edges = np.histogram_bin_edges(np.concatenate(values), bins=28).tolist()
    for trace, one in zip(traces, values, strict=True):
        colour = trace.style.colour
        axis.hist(one, edges, histtype="step", color=colour, linewidth=1.4, label=trace.network)
        axis.axvline(trace.cutoff, color=colour, linewidth=1, linestyle="--")  # NaN draws nothing
    axis.set_xlabel(quantity)
    axis.xaxis.set_major_locator(MaxNLocator(_TICKS))


def _draw_distance(axis: Axes, traces: Sequence[Trace], epoch: int) -> None:
    axis.set_xlabel("weight distance; star: peak after epoch 0", fontsize=8)
    for trace in traces:
        if trace.counts is None or trace.n_fg is None or trace.distance is None or len(trace.n_fg) < 2:
            continue
        (colour, marker), epochs = trace.style, trace.counts.index.to_numpy()
        axis.plot(trace.distance, trace.n_fg, color=colour, linewidth=1.2)
        now = max(int(np.searchsorted(epochs, epoch, side="right")) - 1, 0)
        axis.plot(trace.distance[now], trace.n_fg[now], marker=marker, color=colour)
        if trace.peak_epoch is not None:
            peak = np.flatnonzero(epochs == trace.peak_epoch)[0]
            at, height = trace.distance[peak], trace.n_fg[peak]
            axis.plot(at, height, "*", color=colour, markersize=12, markeredgecolor="black")
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(_TICKS))
    if not axis.has_data():
        axis.text(0.5, 0.5, "no weight distance\nin this run", ha="center", transform=axis.transAxes)
        axis.set(xticks=[], yticks=[])


def ratio_against_accuracy(
    tables: Mapping[str, pd.DataFrame], *, title: str, foreground: str = "foreground"
) -> Figure:
    """Draw the foreground ratio over the accuracy, one path a network, its ends named by their epochs.

    Parameters
    ----------
    tables
        ``{name: table}`` with index epoch and the columns ``role``, ``accuracy``, ``fg_ratio``,
        ``fg_ratio_low``, ``fg_ratio_high``. Epochs of unknown accuracy are left out; a network with one
        epoch, such as a finished teacher, is a single point.
    title, foreground
        As in `count_curves`.
    """
    figure, ((axis,),) = open_figure(title, 5.6, 4.0)
    styles = _style_tables(tables)
    for place, (name, whole) in enumerate(tables.items()):
        table = whole.dropna(subset=["accuracy"])
        if table.empty:
            continue
        style = styles[name]
        look = {"fmt": f"{style.marker}-", "linewidth": 1.2, "elinewidth": 0.5, "markersize": 5}
        draw_bars(axis, table["accuracy"], table, "fg_ratio", style, label=name, **look)
        for epoch, row in table.iloc[[0, -1] if len(table) > 1 else [-1]].iterrows():
            at, aside = (row["accuracy"], row["fg_ratio"]), (5, -11 if place % 2 else 6)
            look = {"textcoords": "offset points", "fontsize": 7, "color": style.colour}
            axis.annotate(f"epoch {epoch}", at, aside, **look)
    axis.set_xlabel("accuracy")
    axis.set_ylabel(f"share of points on the {foreground}")
    axis.set_ylim(0, 1)
    axis.margins(x=0.12)
    if axis.has_data():
        axis.legend(frameon=False, fontsize=9, loc="best")
    else:
        axis.text(0.5, 0.5, "no accuracy recorded in this run", ha="center", transform=axis.transAxes)
    return figure


def points_over_distance(
    tables: Mapping[str, pd.DataFrame],
    peaks: Mapping[str, pd.DataFrame],
    *,
    title: str,
    foreground: str = "foreground",
) -> Figure:
    """Draw the points on the foreground over the movement of the weights, and where each sample had its most.

    The line is the mean over samples at every checkpoint. A small marker is one sample at its peak, so that
    markers stand in columns at the checkpoints; the larger they stand together, the more simultaneously the
    points were learned. The dashed line is their mean distance, D_mean, the band one D_std to either side.

    Parameters
    ----------
    tables
        ``{name: table}`` with index epoch and the columns ``role``, ``weight_distance``, ``n_fg``.
    peaks
        Under the same names, a row a sample: ``distance``, the weight distance at the sample's peak, and
        ``n_fg``, its points on the foreground there.
    title, foreground
        As in `count_curves`.

    Raises
    ------
    ValueError
        If the names differ.
    """
    if tables.keys() != peaks.keys():
        raise ValueError(
            f"tables has {', '.join(tables)}, peaks {', '.join(peaks)}; both need the same names"
        )
    width = 4.6 * len(tables)
    figure, (axes,) = open_figure(title, width, 3.4, len(tables), sharex=True, sharey=True)
    styles = _style_tables(tables)
    for axis, (name, table) in zip(axes, tables.items(), strict=True):
        (colour, marker), reached = styles[name], peaks[name]
        mean, std = reached["distance"].mean(), reached["distance"].std(ddof=0)
        axis.axvspan(mean - std, mean + std, color="black", alpha=0.08, linewidth=0)
        axis.axvline(mean, color="black", linewidth=1, linestyle="--")
        look = {"s": 26, "color": colour, "alpha": 0.35, "linewidths": 0, "zorder": 2}
        axis.scatter(reached["distance"], reached["n_fg"], **look)
        look = {"color": colour, "marker": marker, "markeredgecolor": "white", "linewidth": 1.6}
        axis.plot(table["weight_distance"], table["n_fg"], **look)
        axis.set_title(f"{name}: D_mean {mean:.2f}, D_std {std:.2f}", fontsize=10)
        axis.set_xlabel("weight distance")
    axes[0].set_ylabel(f"knowledge points on the {foreground}")
    axes[0].set_ylim(bottom=0)
    axes[0].set_xlim(left=0)
    return figure
