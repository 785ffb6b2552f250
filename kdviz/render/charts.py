"""Figures of counts and metrics: tables in, figures out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from kdviz.render.style import ROLE_COLOURS, ROLE_MARKERS, tidy

_COUNT_TITLES = {
    "n_fg": "knowledge points on the object",
    "n_bg": "on the background",
    "fg_ratio": "foreground ratio",
}


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
    _draw_counts(figure.subplots(1, 3), counts)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


@dataclass(frozen=True)
class Trace:
    """What `view_charts` shows of one network and one sample.

    Attributes
    ----------
    role
        Decides colour and shape.
    counts
        As in `count_curves`: means over the samples, by epoch; None where nothing can be counted.
    values
        Shape ``(U,)``: what the histogram counts, at the shown epoch.
    cutoff
        Where on the histogram's axis knowledge points begin; NaN for none.
    n_fg
        Shape ``(E,)``: object points of this sample at the epochs of `counts`.
    distance
        Shape ``(E,)``: weight distance of those epochs; None if not recorded.
    peak_epoch
        First epoch with the most object points; None if undefined.
    """

    role: str
    counts: pd.DataFrame | None
    values: NDArray[np.floating]
    cutoff: float = np.nan
    n_fg: NDArray[np.integer] | None = None
    distance: NDArray[np.floating] | None = None
    peak_epoch: int | None = None


def view_charts(traces: Sequence[Trace], *, epoch: int, quantity: str) -> Figure:
    """Draw beside each other: counts over epochs, a histogram of units, and points over weight distance.

    Parameters
    ----------
    traces
        One a network.
    epoch
        Shown epoch, marked in the curves.
    quantity
        Label of the histogram's axis.
    """
    figure = Figure(figsize=(13.2, 2.7), layout="constrained")
    draw_view_charts(figure, traces, epoch=epoch, quantity=quantity)
    return figure


def draw_view_charts(
    figure: Figure | SubFigure, traces: Sequence[Trace], *, epoch: int, quantity: str
) -> None:
    """Draw `view_charts` into a part of a larger figure."""
    counts = {str(place): one.counts for place, one in enumerate(traces) if one.counts is not None}
    axes = figure.subplots(1, 5 if counts else 1, squeeze=False)[0]
    _draw_histogram(axes[-1], traces, quantity)
    if counts:
        _draw_counts(axes[:3], counts)
        for axis in axes[:3]:
            axis.axvline(epoch, color="black", linewidth=0.8, linestyle=":")
        _draw_distance(axes[3], traces, epoch)
    figure.legend(
        *axes[-1].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9
    )


def _draw_counts(axes: Sequence[Axes], counts: Mapping[str, pd.DataFrame]) -> None:
    for axis, (column, label) in zip(axes, _COUNT_TITLES.items(), strict=True):
        labelled = set()
        for table in counts.values():
            role = str(table["role"].iloc[0])
            colour, name = ROLE_COLOURS[role], None if role in labelled else role
            labelled.add(role)
            if len(table) == 1:
                axis.axhline(table[column].iloc[0], linestyle="--", linewidth=1.2, color=colour, label=name)
                continue
            marker = ROLE_MARKERS[role]
            axis.plot(
                table.index,
                table[column],
                marker=marker,
                markersize=4,
                linewidth=1.5,
                color=colour,
                label=name,
            )
            low, high = table[f"{column}_low"], table[f"{column}_high"]
            axis.fill_between(table.index, low, high, color=colour, alpha=0.12, linewidth=0)
        axis.set_xlabel("epoch")
        axis.set_title(label, fontsize=10)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_ylim(bottom=0, top=1 if column == "fg_ratio" else None)
        tidy(axis)


def _draw_histogram(axis: Axes, traces: Sequence[Trace], quantity: str) -> None:
    values = [trace.values[np.isfinite(trace.values)] for trace in traces]
    edges = np.histogram_bin_edges(np.concatenate(values), bins=28).tolist()
    for trace, one in zip(traces, values, strict=True):
        colour = ROLE_COLOURS[trace.role]
        axis.hist(one, edges, histtype="step", color=colour, linewidth=1.4, label=trace.role)
        if np.isfinite(trace.cutoff):
            axis.axvline(trace.cutoff, color=colour, linewidth=1, linestyle="--")
    axis.set_title("units of this sample", fontsize=10)
    axis.set_xlabel(quantity)
    tidy(axis)


def _draw_distance(axis: Axes, traces: Sequence[Trace], epoch: int) -> None:
    axis.set_title("its object points", fontsize=10)
    axis.set_xlabel("weight distance; star: peak after epoch 0", fontsize=8)
    tidy(axis)
    drawn = False
    for trace in traces:
        if trace.counts is None or trace.n_fg is None or trace.distance is None or len(trace.n_fg) < 2:
            continue
        drawn = True
        colour, epochs = ROLE_COLOURS[trace.role], trace.counts.index.to_numpy()
        axis.plot(trace.distance, trace.n_fg, color=colour, linewidth=1.2)
        now = max(int(np.searchsorted(epochs, epoch, side="right")) - 1, 0)
        axis.plot(trace.distance[now], trace.n_fg[now], marker=ROLE_MARKERS[trace.role], color=colour)
        if trace.peak_epoch is not None:
            peak = np.flatnonzero(epochs == trace.peak_epoch)[0]
            at, height = trace.distance[peak], trace.n_fg[peak]
            axis.plot(at, height, "*", color=colour, markersize=12, markeredgecolor="black")
    axis.set_ylim(bottom=0)
    if not drawn:
        axis.text(0.5, 0.5, "no weight distance\nin this run", ha="center", transform=axis.transAxes)
        axis.set_xticks([])
        axis.set_yticks([])


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
    figure = Figure(figsize=(3.1 * columns, 5.6), layout="constrained")
    axes = figure.subplots(2, columns, sharex=True, squeeze=False)
    for axis, metric in zip(axes.flat, metrics, strict=False):
        for role, offset in (("student", -0.12), ("baseline", 0.12)):
            rows = table[table["metric"] == metric]
            places = rows["setting"].map(settings.index) + offset + 0.08 * rows["seed"].rank(method="dense")
            values = rows[role].to_numpy()
            spread = np.stack([values - rows[f"{role}_low"], rows[f"{role}_high"] - values])
            axis.errorbar(
                places,
                values,
                yerr=np.maximum(spread, 0),
                fmt=ROLE_MARKERS[role],
                markersize=4,
                linewidth=1,
                color=ROLE_COLOURS[role],
                label=role,
            )
        axis.set_title(metric, fontsize=10)
        axis.set_ylim(bottom=0)
        tidy(axis)
        axis.set_xticks(range(len(settings)), settings, rotation=60, ha="right", rotation_mode="anchor")
    for axis in axes.flat[len(metrics) :]:
        axis.set_visible(False)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure
