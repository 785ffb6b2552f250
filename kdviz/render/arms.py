"""One chart of many runs beside a printed table: a panel a metric, a line an arm and layer."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdviz.render.style import ROLE_STYLES, SUPPORT, NetworkStyle, name_lines, open_figure

_PRINTED = NetworkStyle("black", "D")
_SAME_SCALE = 8.0  # times: differences further apart get a scale of their own
_FURTHEST = 4.0  # times the largest difference: there intervals end
_NAMED = ("dataset", "network", "teacher_network", "setting", "layer")


def arms_chart(rows: pd.DataFrame, *, title: str) -> Figure:
    """Draw student minus baseline for every arm and layer, and the printed difference beside it.

    Parameters
    ----------
    rows
        From :func:`kdviz.analysis.tabulate_arms`; metrics are drawn in their order, panel by panel, arms and
        layers from top to bottom. A dot is our difference, its bar the interval over training seeds, as far
        as four times the largest difference; an open diamond is the printed one. Where these differ in size
        by more than a factor of 8, the printed ones have a scale of their own, above the panel; 0 is in the
        middle of both. The shaded side speaks for the papers' hypothesis.
    title
        Shown above.
    """
    names = _name_lines(rows)
    metrics = list(dict.fromkeys(rows["metric"]))
    longest = max(map(len, names))
    high = 1.5 + 0.27 * len(names)
    figure, (axes,) = open_figure(title, 1.8 * len(metrics) + 0.075 * longest + 1.6, high, len(metrics))
    for axis, metric in zip(axes, metrics, strict=True):
        of_metric = rows[rows["metric"] == metric]
        places = [names.index(name) for name in _name_rows(of_metric, rows)]
        _draw_panel(axis, np.array(places), of_metric, len(names))
        axis.set_yticks(range(len(names)), names if axis is axes[0] else [""] * len(names))
    above = len(figure.axes) > len(metrics)
    for axis, metric in zip(axes, metrics, strict=True):  # at one height, whether or not a scale is below it
        axis.set_title(metric, fontsize=10, y=1.0, pad=20 if above else 6)
    ours, theirs = ROLE_STYLES["student"], _PRINTED
    axes[0].plot([], [], f"{ours.marker}-", color=ours.colour, markersize=4, linewidth=1, label="here")
    if rows["printed_difference"].notna().any():
        look: dict[str, Any] = {"linestyle": "", "markersize": 4.5, "markerfacecolor": "none"}
        axes[0].plot([], [], marker=theirs.marker, color=theirs.colour, label="printed", **look)
    name_lines(figure, axes[0])
    figure.supxlabel(f"student minus baseline{'; scale above: as printed' if above else ''}", fontsize=9)
    return figure


def _name_rows(some: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """Name lines by what differs between the rows; where nothing does, by the layer."""
    varied = [name for name in _NAMED if rows[name].nunique() > 1] or ["layer"]
    parts = {name: some[name].astype(str) for name in varied}
    if "teacher_network" in parts:
        parts["teacher_network"] = ("from " + parts["teacher_network"]).where(
            some["teacher_network"] != "", ""
        )
    return [", ".join(filter(None, one)) for one in zip(*parts.values(), strict=True)]


def _name_lines(rows: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(_name_rows(rows, rows)))


def _draw_panel(axis: Axes, places: np.ndarray, rows: pd.DataFrame, lines: int) -> None:
    style = ROLE_STYLES["student"]
    ours, theirs = rows["difference"].to_numpy(float), rows["printed_difference"].to_numpy(float)
    spread = np.abs([ours - rows["low"], rows["high"] - ours])
    ends = np.nan_to_num(np.abs([rows["low"], rows["high"]]))
    reach = max(_largest(ours), min(ends.max(), _FURTHEST * _largest(ours)))
    printed = axis
    far = _largest(theirs)
    if far and not reach / _SAME_SCALE <= far <= reach * _SAME_SCALE:
        printed = axis.twiny()
        printed.spines[["right", "bottom"]].set_visible(False)
        printed.tick_params(labelsize=7, length=2)
        printed.set_xlim(*_limits(far))
    else:
        reach = max(reach, far)
    for place in range(1, lines, 2):
        axis.axhspan(place - 0.5, place + 0.5, color="black", alpha=0.035, linewidth=0)
    low, high = _limits(reach)
    shaded = (0, high) if rows["supporting_sign"].iloc[0] > 0 else (low, 0)
    axis.axvspan(*shaded, color=SUPPORT, alpha=0.08, linewidth=0)
    axis.axvline(0, color="black", linewidth=0.8)
    beside = 0.14 if np.isfinite(theirs).any() else 0.0
    look: dict[str, Any] = {"color": style.colour, "markersize": 4, "linewidth": 1}
    axis.errorbar(ours, places - beside, xerr=spread, fmt=style.marker, **look)
    look = {"color": _PRINTED.colour, "markersize": 4.5, "markerfacecolor": "none", "linestyle": ""}
    printed.plot(theirs, places + beside, marker=_PRINTED.marker, **look)
    axis.set_xlim(low, high)
    axis.set_ylim(lines - 0.4, -0.6)
    axis.locator_params(axis="x", nbins=4)
    printed.locator_params(axis="x", nbins=4)


def _largest(values: np.ndarray) -> float:
    known = np.abs(values[np.isfinite(values)])
    return float(known.max()) if len(known) else 0.0


def _limits(reach: float) -> tuple[float, float]:
    reach = 1.1 * reach or 1.0
    return -reach, reach
