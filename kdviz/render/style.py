"""Colours and shapes with one meaning in every picture; a colour repeats what a shape or a name says."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from numpy.typing import ArrayLike, NDArray

from kdviz.render.writing import Sheet


class NetworkStyle(NamedTuple):
    """How a network is drawn: a colour as ``#rrggbb`` and a marker of matplotlib."""

    colour: str
    marker: str


# Okabe and Ito's palette, distinguishable with every common colour vision.
ROLE_STYLES = {
    "teacher": NetworkStyle("#009E73", "D"),
    "student": NetworkStyle("#0072B2", "o"),
    "baseline": NetworkStyle("#D55E00", "s"),
}
ENTROPY_COLOURS = "viridis_r"  # what the layer keeps is bright
IMPORTANCE_COLOURS = "viridis"  # what matters is bright
SIGNED_COLOURS = "RdBu_r"
SUPPORT = "#009E73"  # the side that speaks for a hypothesis, shaded


class Mark(NamedTuple):
    """How a unit stands out: a colour as ``#rrggbb``, and a shape, named by a letter of that shape."""

    colour: str
    shape: str


DISC = Mark("#F0E442", "\u25cf")  # a knowledge point on the foreground
DIAMOND = Mark("#CC79A7", "\u25c6")  # one on the background
CROSS = Mark("#56B4E9", "\u2715")  # a point tried before and dropped

_FURTHER_COLOURS = ("#882255", "#E69F00", "#56B4E9", "#999933", "#332288", "#CC79A7")
_FURTHER_MARKERS = "^vP*X"  # one fewer: a pair comes back after thirty networks


def style_networks(roles: Mapping[str, str]) -> dict[str, NetworkStyle]:
    """Choose a colour and a marker for every network.

    Parameters
    ----------
    roles
        ``{name: role}``. The first teacher, student and baseline have the look of their role; every other
        network has one of its own, by its place in the order.

    Returns
    -------
    dict
        ``{name: style}``, in the order given.
    """
    left, further = dict(ROLE_STYLES), map(NetworkStyle, cycle(_FURTHER_COLOURS), cycle(_FURTHER_MARKERS))
    return {name: left.pop(role) if role in left else next(further) for name, role in roles.items()}


@dataclass(frozen=True)
class Scale:
    """A colour scale.

    Attributes
    ----------
    limits
        Values of its two ends, the first below the second; values beyond take the colour of the end.
    colours
        Name of a matplotlib colour map: a sequential one for entropies, a diverging one with symmetric limits
        for signed maps.
    label
        What it measures.
    turned
        Whether a horizontal bar is drawn from its high to its low end.
    """

    limits: tuple[float, float]
    colours: str = ENTROPY_COLOURS
    label: str = ""
    turned: bool = False

    def paint(self, values: ArrayLike) -> NDArray[np.float64]:
        """Choose the colour of every value as RGB from 0 to 1; that of NaN means nothing.

        Raises
        ------
        ValueError
            If the limits do not increase.
        """
        low, high = self.limits
        if not low < high:
            raise ValueError(f"limits are {low} and {high}; the first must be below the second")
        place = np.clip((np.asarray(values, float) - low) / (high - low), 0, 1)
        return colormaps[self.colours](np.nan_to_num(place))[..., :3]

    @property
    def mappable(self) -> ScalarMappable:
        """The scale as matplotlib wants it for a colour bar."""
        return ScalarMappable(Normalize(*self.limits), self.colours)


def choose_scale(values: ArrayLike, *, entropies: bool = False, label: str = "") -> Scale:
    """Choose a colour scale over all values: what is important is bright.

    Entropies run from kept (bright) to discarded (dark); other values that are negative anywhere from blue
    over white (zero) to red, symmetrically; others from 0 (dark) to their largest (bright).

    Raises
    ------
    ValueError
        If no value is a number.
    """
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    if not len(known):
        raise ValueError(f"{label or 'values'} holds no number")
    low, high = float(known.min()), float(known.max())
    if entropies:
        return Scale((low, max(high, low + 1e-6)), ENTROPY_COLOURS, label, turned=True)
    if low < 0:
        reach = max(-low, high)
        return Scale((-reach, reach), SIGNED_COLOURS, label)
    return Scale((0.0, high or 1.0), IMPORTANCE_COLOURS, label)


def open_figure(
    title: str, width: float, height: float, columns: int = 1, rows: int = 1, **shared: Any
) -> tuple[Figure, NDArray]:
    """Make a figure of so many inches with a title and axes, ``(rows, columns)``."""
    figure = Sheet(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=11)
    return figure, open_axes(figure, columns, rows, **shared)


def open_axes(figure: Figure | SubFigure, columns: int, rows: int = 1, **shared: Any) -> NDArray:
    """Make axes without what carries nothing: two of the four spines, large tick labels."""
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return axes


def draw_bars(
    axis: Axes, places: ArrayLike, rows: pd.DataFrame, column: str, style: NetworkStyle, **look: Any
) -> None:
    """Draw a column of a table as dots, with its ``_low`` and ``_high`` as ends of bars."""
    values = rows[column]
    spread = [values - rows[f"{column}_low"], rows[f"{column}_high"] - values]
    dots: dict[str, Any] = {"color": style.colour, "fmt": style.marker, "markersize": 4, "linewidth": 1}
    axis.errorbar(places, values, yerr=np.maximum(spread, 0), **dots | look)


def name_lines(figure: Figure | SubFigure, axis: Axes) -> None:
    """Write beside all axes which line of `axis` is whose."""
    names = axis.get_legend_handles_labels()
    figure.legend(*names, loc="outside right center", frameon=False, fontsize=9)


def clear(axis: Axes) -> None:
    """Take off ticks and spines, for a picture."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
