"""What students share with their teacher beyond independent networks: one chart of all properties."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdviz.render.style import (
    ROLE_STYLES,
    NetworkStyle,
    clear,
    name_lines,
    open_axes,
    open_figure,
    style_networks,
)
from kdviz.render.writing import Sheet


def transfer_chart(
    table: pd.DataFrame,
    *,
    title: str,
    points: pd.DataFrame | None = None,
    undertrained: Mapping[str, float] | None = None,
    foreground: str = "foreground",
) -> Figure:
    """Draw how much more of the teacher each network has than the independent ones: a row a property.

    Parameters
    ----------
    table
        From :func:`kdviz.analysis.score_transfer`: a dot a network, its interval as bar, networks of one kind
        in one colour. Where the teacher has a value of its own, such as of accuracy, a diamond marks it.
    title
        Shown above.
    points
        Such a table of what :func:`kdviz.analysis.collect_points` returned: knowledge points of the same
        networks, in a column of their own.
    undertrained
        Networks whose accuracy is too low to say anything, ``{name: accuracy}``: drawn hollow.
    foreground
        What it is called, see :class:`kdviz.schema.Vocabulary`.
    """
    styles, high = _style_kinds(table), len(_list_rows(table))
    beside = points is not None and len(points) > 0
    figure = Sheet(figsize=(13 if beside else 9.5, 1.2 + 0.42 * high), layout="constrained")
    figure.suptitle(title, fontsize=11)
    left: Any = figure
    legend: Any = figure
    if points is not None and beside:
        points = points.replace({"part": {"foreground": foreground}})
        few = min(len(_list_rows(points)) + 2, high - 1)  # and the label of its axis
        left, right = figure.subfigures(1, 2, width_ratios=(9, 6))  # type: ignore[misc]  # an array of two
        top, legend = right.subfigures(2, 1, height_ratios=(few, high - few))
        _draw_rows(open_axes(top, 1)[0, 0], points, styles, undertrained or {})
    axis = open_axes(left, 1)[0, 0]
    _draw_rows(axis, table, styles, undertrained or {})
    for kind, style in styles.items():
        axis.plot([], [], style.marker, color=style.colour, markersize=4, label=kind.removeprefix("student-"))
    if table["own"].any():
        axis.plot([], [], ROLE_STYLES["teacher"].marker, color=ROLE_STYLES["teacher"].colour, label="teacher")
    if undertrained:
        axis.plot([], [], "o", color="black", markerfacecolor="white", markersize=4, label="undertrained")
    name_lines(legend, axis)
    return figure


def _list_rows(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(dict.fromkeys(zip(table["title"], table["part"], strict=True)))


def _draw_rows(
    axis: Axes, table: pd.DataFrame, styles: Mapping[str, NetworkStyle], undertrained: Mapping[str, float]
) -> None:
    rows = _list_rows(table)
    for place, (name, part) in enumerate(reversed(rows)):
        of_row = table[(table["title"] == name) & (table["part"] == part)]
        if place % 2:
            axis.axhspan(place - 0.5, place + 0.5, color="black", alpha=0.035, linewidth=0)
        for kind, of_kind in of_row[of_row["role"] != "teacher"].groupby("kind", sort=False):
            at = list(styles).index(str(kind))
            offset = 0.62 * ((len(styles) - 1) / 2 - at) / max(len(styles), 2)
            hollow = of_kind["network"].isin(list(undertrained))
            for faint, some in of_kind.groupby(hollow):
                _draw_dots(axis, place + offset, some, styles[str(kind)], hollow=bool(faint))
        own = of_row[(of_row["role"] == "teacher") & of_row["own"]]["margin"].dropna()
        if len(own):
            teacher = ROLE_STYLES["teacher"]
            axis.plot(100 * own, [place], teacher.marker, color=teacher.colour, markersize=6, alpha=0.7)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(rows)), [f"{title} {part}".strip(" :") for title, part in reversed(rows)])
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlabel("percentage points more than the independent networks", fontsize=8)


def invariance_curves(ds: xr.Dataset, kinds: Mapping[str, str], *, title: str) -> Figure:
    """Draw how often answers stay the same when samples are changed: a panel a change, a line a network.

    Parameters
    ----------
    ds
        The result of :func:`kdviz.transfer.invariance`.
    kinds
        Kind of each network, which share a colour.
    title
        Shown above.
    """
    changes = ds["change"].values.tolist()
    columns = min(len(changes), 3)
    rows = math.ceil(len(changes) / columns)
    figure, axes = open_figure(title, 3.4 * columns, 2.7 * rows, columns, rows, sharey=True)
    roles = dict(zip(ds["network"].values.tolist(), ds["role"].values.tolist(), strict=True))
    styles = style_networks({kinds[name]: _role_of(roles[name]) for name in roles})
    shares = 100 * ds["unchanged"].mean("sample")
    for axis, change in zip(axes.flat, changes, strict=False):
        for name in roles:
            style, line = styles[kinds[name]], shares.sel(change=change, network=name)
            axis.plot(ds["strength"].sel(change=change), line, color=style.colour, linewidth=1, alpha=0.8)
        axis.set_title(change, fontsize=10)
        axis.set_xlabel(str(ds["strength_unit"].sel(change=change).values), fontsize=8)
    for axis in axes.flat[len(changes) :]:
        axis.set_visible(False)
    axes[0, 0].set_ylabel("same answer, %")
    for kind in dict.fromkeys(kinds[name] for name in roles):
        axes[0, 0].plot([], [], color=styles[kind].colour, label=kind.removeprefix("student-"))
    name_lines(figure, axes[0, 0])
    return figure


def boundary_maps(ds: xr.Dataset, networks: Sequence[str], *, triplets: int = 3, title: str) -> Figure:
    """Draw which class networks give on planes through three samples: a row a plane, a column a network.

    Parameters
    ----------
    ds
        The result of :func:`kdviz.transfer.boundary`.
    networks
        Names, in the order of the columns.
    triplets
        The first so many planes.
    title
        Shown above.
    """
    maps = ds["label_map"].sel(network=list(networks))[:, :triplets]
    rows = maps.sizes["triplet"]
    figure, axes = open_figure(title, 1.7 * len(networks), 1.75 * rows + 0.5, len(networks), rows)
    classes = {label: at for at, label in enumerate(np.unique(maps))}
    paint = colormaps["tab20"]
    axis: Axes
    for (row, column), axis in np.ndenumerate(axes):
        one = maps[column, row].values
        axis.imshow(paint(np.vectorize(classes.get)(one) % 20), interpolation="nearest", origin="upper")
        corners = ds["corner_col"][row], ds["corner_row"][row]
        axis.plot(*corners, "o", color="white", markeredgecolor="black", markersize=4)
        overlap = float(ds["boundary_overlap"].sel(network=networks[column])[row])
        clear(axis)
        axis.set_xlabel(f"overlap {overlap:.2f}", fontsize=8)
        if row == 0:
            axis.set_title(networks[column].removeprefix("student-"), fontsize=9)
    return figure


def similarity_matrices(ds: xr.Dataset, networks: Sequence[str], *, title: str) -> Figure:
    """Draw how alike the stages of networks and those of the teacher are: a matrix a network.

    Parameters
    ----------
    ds
        The result of :func:`kdviz.transfer.representation`.
    networks
        Names, in the order of the columns.
    title
        Shown above.
    """
    figure, (axes,) = open_figure(title, 2.1 * len(networks) + 0.6, 2.8, len(networks), sharey=True)
    for axis, name in zip(axes, networks, strict=True):
        one = ds["cka"].sel(network=name)
        shown = axis.imshow(one, vmin=0, vmax=1, cmap="viridis", origin="lower")
        axis.set_xlabel("stage of the teacher", fontsize=8)
        axis.set_title(f"{name.removeprefix('student-')}\ndiagonal {np.diagonal(one).mean():.2f}", fontsize=9)
    axes[0].set_ylabel("stage of the network", fontsize=8)
    figure.colorbar(shown, ax=list(axes), shrink=0.8).set_label("CKA", fontsize=8)
    return figure


def _role_of(role: str) -> str:
    """Give an independent network the look of a baseline."""
    return {"independent": "baseline"}.get(role, role)


def _style_kinds(table: pd.DataFrame) -> dict[str, NetworkStyle]:
    """Give every kind of network but the teacher its look, the independent ones that of a baseline."""
    roles = table[table["role"] != "teacher"].drop_duplicates("kind").set_index("kind")["role"]
    return style_networks({str(kind): _role_of(role) for kind, role in roles.items()})


def _draw_dots(axis: Axes, place: float, rows: pd.DataFrame, style: NetworkStyle, *, hollow: bool) -> None:
    margin = 100 * rows["margin"]
    spread = np.abs([margin - 100 * rows["margin_low"], 100 * rows["margin_high"] - margin])
    places = place + min(0.05, 0.3 / len(rows)) * (np.arange(len(rows)) - (len(rows) - 1) / 2)
    face = "white" if hollow else style.colour
    look: dict[str, Any] = {"color": style.colour, "markerfacecolor": face, "markersize": 4, "linewidth": 1}
    axis.errorbar(margin, places, xerr=spread, fmt=style.marker, **look)
