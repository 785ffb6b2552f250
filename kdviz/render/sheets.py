"""Figures of words and of clouds: inputs beside knowledge points or values, a cloud from all sides.

Symbols: ``S`` samples, ``K`` columns, ``U`` units of a sample: words, or points of a cloud.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from kdviz.errors import MissingExtraError
from kdviz.render.clouds import AZIMUTH, ELEVATION, draw_cloud, draw_cloud_points, draw_cloud_values
from kdviz.render.panels import Picture
from kdviz.render.style import BACKGROUND_COLOUR, ENTROPY_COLOURS, FOREGROUND_COLOUR
from kdviz.render.views import show_panel
from kdviz.render.words import Text, colour_values, text_of, word_points, word_values

if TYPE_CHECKING:
    import plotly.graph_objects

_FOOT = "disc: knowledge point on the {}   diamond: on the background"
_WORDS, _CLOUD = 2.6, 1.95  # inches that a panel is wide
_LINE = 18.0  # length of a line in heights of a letter
_ENTROPY = "entropy in nat (high: discarded)"


def word_panels(
    texts: Sequence[Sequence[str]],
    points: Sequence[Sequence[ArrayLike]],
    foreground: Sequence[ArrayLike],
    *,
    columns: Sequence[str],
    names: Sequence[str],
) -> Figure:
    """Lay out texts beside their knowledge points: one line a sample, one column a network and epoch.

    Parameters
    ----------
    texts
        ``S`` sequences of ``U`` words; empty words are padding and left out.
    points
        ``S`` lists of ``K`` masks ``(U,)``, one for every column.
    foreground
        ``S`` masks ``(U,)``; foreground words are underlined.
    columns, names
        ``K`` titles and ``S`` labels of the lines.

    Raises
    ------
    ValueError
        If arrays or lists do not fit each other.
    """
    lines = [
        [text_of(words, inside), *(word_points(words, found, inside) for found in masks)]
        for words, masks, inside in zip(texts, points, foreground, strict=True)
    ]
    figure = _lay_out(lines, ["input", *columns], names, width=_WORDS, heights=_heights(lines))
    _count(figure, points, foreground)
    figure.supxlabel(f"{_FOOT.format('foreground')}   underlined: foreground", fontsize=9)
    return figure


def cloud_panels(
    clouds: Sequence[ArrayLike],
    points: Sequence[Sequence[ArrayLike]],
    foreground: Sequence[ArrayLike],
    *,
    columns: Sequence[str],
    names: Sequence[str],
    azimuth: float = AZIMUTH,
    elevation: float = ELEVATION,
) -> Figure:
    """Lay out clouds beside their knowledge points: one line a sample, one column a network and epoch.

    Parameters
    ----------
    clouds
        ``S`` clouds ``(U, 3)``.
    points, foreground, columns, names
        As in `word_panels`.
    azimuth, elevation
        As in `project_cloud`.

    Raises
    ------
    ValueError
        If arrays or lists do not fit each other.
    """
    side: dict[str, Any] = {"azimuth": azimuth, "elevation": elevation, "size": 320}
    lines = [
        [
            draw_cloud(cloud, inside, **side),
            *(draw_cloud_points(cloud, found, inside, **side) for found in masks),
        ]
        for cloud, masks, inside in zip(clouds, points, foreground, strict=True)
    ]
    figure = _lay_out(lines, ["input", *columns], names, width=_CLOUD, heights=[_CLOUD + 0.2] * len(lines))
    _count(figure, points, foreground)
    figure.supxlabel(_FOOT.format("object"), fontsize=9)
    return figure


def word_maps(
    texts: Sequence[Sequence[str]],
    values: Sequence[Sequence[ArrayLike]],
    foreground: Sequence[ArrayLike],
    *,
    columns: Sequence[str],
    names: Sequence[str],
    limits: tuple[float, float] | None = None,
    colours: str = ENTROPY_COLOURS,
    label: str = _ENTROPY,
) -> Figure:
    """Lay out texts in the colours of their words' values, one colour scale for all of them.

    Parameters
    ----------
    texts, foreground, columns, names
        As in `word_panels`.
    values
        ``S`` lists of ``K`` arrays ``(U,)``, float; words of NaN stay uncoloured.
    limits, colours
        As in `draw_values`; from the smallest to the largest value if `limits` is None.
    label
        Of the colour bar.

    Raises
    ------
    ValueError
        If arrays or lists do not fit each other, or no value is a number.
    """
    ends = limits or _ends(values)

    lines = [
        [word_values(words, one, inside, limits=ends, colours=colours) for one in maps]
        for words, maps, inside in zip(texts, values, foreground, strict=True)
    ]
    figure = _lay_out(lines, columns, names, width=_WORDS, heights=_heights(lines))
    return _add_bar(figure, ends, colours, label)


def cloud_maps(
    clouds: Sequence[ArrayLike],
    values: Sequence[Sequence[ArrayLike]],
    foreground: Sequence[ArrayLike],
    *,
    columns: Sequence[str],
    names: Sequence[str],
    limits: tuple[float, float] | None = None,
    colours: str = ENTROPY_COLOURS,
    label: str = _ENTROPY,
    azimuth: float = AZIMUTH,
    elevation: float = ELEVATION,
) -> Figure:
    """Lay out clouds in the colours of their points' values, one colour scale for all of them.

    Parameters
    ----------
    clouds, foreground, columns, names, azimuth, elevation
        As in `cloud_panels`.
    values, limits, colours, label
        As in `word_maps`; points of NaN stay grey.

    Raises
    ------
    ValueError
        If arrays or lists do not fit each other, or no value is a number.
    """
    ends = limits or _ends(values)
    side: dict[str, Any] = {"azimuth": azimuth, "elevation": elevation, "size": 320}
    lines = [
        [draw_cloud_values(cloud, one, inside, limits=ends, colours=colours, **side) for one in maps]
        for cloud, maps, inside in zip(clouds, values, foreground, strict=True)
    ]
    figure = _lay_out(lines, columns, names, width=_CLOUD, heights=[_CLOUD] * len(lines))
    return _add_bar(figure, ends, colours, label)


def turntable(
    cloud: ArrayLike,
    foreground: ArrayLike,
    *,
    values: ArrayLike | None = None,
    points: ArrayLike | None = None,
    limits: tuple[float, float] | None = None,
    colours: str = ENTROPY_COLOURS,
    label: str = _ENTROPY,
    azimuths: Sequence[float] = (30, 120, 210, 300),
    elevation: float = ELEVATION,
    title: str = "",
) -> Figure:
    """Show a cloud from several sides: its shape, the values of its points, its knowledge points.

    Parameters
    ----------
    cloud, foreground
        As in `draw_cloud`.
    values, points
        Shape ``(U,)``, float and bool; a line each, if given.
    limits, colours, label
        As in `word_maps`.
    azimuths, elevation
        A column each, in degrees; as in `project_cloud`.
    title
        Shown above.

    Raises
    ------
    ValueError
        If arrays do not fit each other.
    """
    sides: list[dict[str, Any]] = [
        {"azimuth": azimuth, "elevation": elevation, "size": 320} for azimuth in azimuths
    ]
    lines = {"input": [draw_cloud(cloud, foreground, **side) for side in sides]}
    if values is not None:
        ends = limits or _ends([[values]])
        lines["values"] = [
            draw_cloud_values(cloud, values, foreground, limits=ends, colours=colours, **side)
            for side in sides
        ]
    if points is not None:
        lines["points"] = [draw_cloud_points(cloud, points, foreground, **side) for side in sides]
    columns = [f"{azimuth:g}\u00b0" for azimuth in azimuths]
    figure = _lay_out([*lines.values()], columns, [*lines], width=_CLOUD, heights=[_CLOUD] * len(lines))
    if values is not None:
        _add_bar(figure, ends, colours, label)
    if points is not None:
        figure.supxlabel(_FOOT.format("object"), fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def rotating_cloud(
    cloud: ArrayLike,
    foreground: ArrayLike,
    *,
    values: ArrayLike | None = None,
    points: ArrayLike | None = None,
    limits: tuple[float, float] | None = None,
    colours: str = ENTROPY_COLOURS,
    title: str = "",
) -> "plotly.graph_objects.Figure":
    """Make a cloud that turns under the mouse, with plotly (``kdviz[interactive]``).

    Parameters
    ----------
    cloud, foreground
        As in `draw_cloud`.
    values, limits, colours
        As in `draw_cloud_values`; None for greys.
    points
        Shape ``(U,)``, bool: drawn larger, discs on the object and diamonds on the background.
    title
        Shown above.

    Returns
    -------
    plotly.graph_objects.Figure
        A trace each for the object, the background and, if given, the knowledge points of the two; the last
        expression of a cell shows it. Pointing at a point tells its unit and its value.

    Raises
    ------
    MissingExtraError
        If plotly is not installed.
    ValueError
        If arrays do not fit each other.
    """
    try:
        from plotly import graph_objects
    except ImportError as error:
        raise MissingExtraError("turning clouds by hand needs plotly: install kdviz[interactive]") from error
    draw_cloud(cloud, foreground, size=8)  # its checks
    places, inside = np.asarray(cloud, float), np.asarray(foreground)
    found = np.zeros(len(places), bool) if points is None else np.asarray(points)
    if found.shape != inside.shape or found.dtype != bool:
        raise ValueError(f"points is {found.dtype} of shape {found.shape}; allowed: bool of {inside.shape}")
    greys = np.where(inside[:, None], 0.35, 0.68) * np.ones(3)
    numbers = np.full(len(places), np.nan) if values is None else np.asarray(values, float)
    if numbers.shape != inside.shape:
        raise ValueError(f"values has shape {numbers.shape}; allowed: {inside.shape}")
    shades = greys
    if values is not None:
        tints = colour_values(numbers, limits or _ends([[values]]), colours)
        shades = np.where(np.isnan(numbers)[:, None], greys, tints)
    looks = {
        "object": (inside & ~found, "", 4, "circle"),
        "background": (~inside & ~found, "", 2.5, "circle"),
        "point on the object": (inside & found, FOREGROUND_COLOUR, 7, "circle"),
        "point on the background": (~inside & found, BACKGROUND_COLOUR, 6, "diamond"),
    }
    figure = graph_objects.Figure()
    for name, (chosen, colour, size, symbol) in looks.items():
        at = np.flatnonzero(chosen)
        if not len(at) and colour and points is None:
            continue
        marker = {"size": size, "symbol": symbol, "line": {"width": 1, "color": "black"} if colour else {}}
        marker["color"] = colour or [to_hex(shade) for shade in shades[at]]
        said = [f"unit {unit}" + ("" if np.isnan(numbers[unit]) else f": {numbers[unit]:.3f}") for unit in at]
        lies = dict(zip("xyz", places[at].T, strict=True))
        figure.add_scatter3d(**lies, mode="markers", name=name, marker=marker, text=said, hoverinfo="text")
    hidden = {axis: {"visible": False} for axis in ("xaxis", "yaxis", "zaxis")}
    figure.update_layout(
        title=title,
        scene={**hidden, "aspectmode": "data"},
        margin={"l": 0, "r": 0, "b": 0, "t": 40 if title else 0},
        legend={"itemsizing": "constant"},
    )
    return figure


# -- private


def _heights(lines: Sequence[Sequence[Text]]) -> list[float]:
    """Give the inches that every line of texts needs, and room for a line of counts."""
    return [max(text.height(_LINE) for text in line) * _WORDS / _LINE + 0.25 for line in lines]


def _lay_out(
    lines: Sequence[Sequence[Text | Picture]],
    columns: Sequence[str],
    names: Sequence[str],
    *,
    width: float,
    heights: Sequence[float],
) -> Figure:
    """Put panels on axes: a line each of `lines`, sizes of a panel in inches."""
    size = width * len(columns) + 0.4, sum(heights) + 0.75
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(lines), len(columns), squeeze=False, height_ratios=heights)
    for of_line, panels, name in zip(axes, lines, names, strict=True):
        if isinstance(panels[0], Text):  # lines of text are too low for a name beside them
            of_line[0].set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
        else:
            of_line[0].set_ylabel(name, fontsize=9)
        for axis, panel in zip(of_line, panels, strict=True):
            show_panel(axis, panel, line=_LINE)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=9)
    return figure


def _count(figure: Figure, points: Sequence[Sequence[ArrayLike]], foreground: Sequence[ArrayLike]) -> None:
    """Write below every panel but the inputs how many points lie on the foreground and on the background."""
    axes = iter(figure.axes)
    for masks, inside in zip(points, foreground, strict=True):
        next(axes)
        for found in masks:
            on_object = int(np.sum(np.asarray(found) & np.asarray(inside)))
            counted = f"{on_object} fg, {int(np.sum(found)) - on_object} bg"
            next(axes).set_xlabel(counted, fontsize=8)


def _ends(values: Sequence[Sequence[ArrayLike]]) -> tuple[float, float]:
    """Give the smallest and the largest of all values."""
    every: NDArray[np.float64] = np.concatenate([np.asarray(one, float) for maps in values for one in maps])
    if not np.isfinite(every).any():
        raise ValueError("values holds no number")
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    return low, max(high, low + 1e-6)


def _add_bar(figure: Figure, ends: tuple[float, float], colours: str, label: str) -> Figure:
    scale = ScalarMappable(Normalize(*ends), colours)
    bar = figure.colorbar(scale, ax=figure.axes, fraction=0.025, pad=0.01)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure
