"""The panels of one sample in several networks as one figure, and pictures as files."""

import io
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from kdviz.render.charts import Trace, draw_view_charts
from kdviz.render.panels import Picture
from kdviz.render.words import Text, fit_line

LEGEND = "disc: knowledge point on the object    diamond: on the background    cross: tried and dropped"


def encode_png(picture: Picture) -> bytes:
    """Write a picture ``(H, W, 3)``, uint8, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png", compress_level=1)  # speed before size
    return buffer.getvalue()


def encode_figure(figure: Figure, kind: str = "png", *, dpi: int = 80) -> bytes:
    """Write a figure as ``"png"``, ``"svg"`` or any other format of matplotlib; text in an SVG stays text."""
    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format=kind, dpi=dpi)
    return buffer.getvalue()


def colour_stops(colours: str, count: int = 9) -> list[str]:
    """Give evenly spaced colours of a colour map as ``#rrggbb``."""
    return [to_hex(colormaps[colours](place)) for place in np.linspace(0, 1, count)]


def show_panel(axis: Axes, panel: Picture | Text, *, line: float | None = None, height: float = 0.0) -> None:
    """Show a picture, or words, on axes of their own; `line` and `height` as in `Text.show_on`."""
    if isinstance(panel, Text):
        panel.show_on(axis, line=line, height=height)
    else:
        axis.imshow(panel)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def view_figure(
    picture: Picture | Text,
    networks: Mapping[str, Mapping[str, Picture | Text]],
    traces: Sequence[Trace],
    *,
    captions: Sequence[str],
    epoch: int,
    quantity: str,
    title: str,
    note: str,
    legend: str = LEGEND,
) -> Figure:
    """Lay out what is seen of one sample: the input, a column a network, a row a kind of panel, the charts.

    Parameters
    ----------
    picture
        The input, ``(H, W, 3)``, uint8, or as words.
    networks
        ``{heading: {row: panel}}``; every network has the same rows, panels are pictures or words.
    traces, epoch, quantity
        As in `view_charts`.
    captions
        Below each network, a line or more.
    title, note, legend
        Above, and small below; `legend` explains the shapes.
    """
    rows = list(next(iter(networks.values())))
    every = [picture, *(panel for panels in networks.values() for panel in panels.values())]
    texts = [panel for panel in every if isinstance(panel, Text)]
    line = fit_line(texts)  # letters of one size
    room = max([0.62 * line, *(text.height(line) for text in texts)])
    tall = 0.2 + 3 * room / line if texts else 2.35
    figure = Figure(figsize=(13.2, tall * len(rows) + 4.3), layout="constrained")
    heights = [tall * len(rows) + 0.9, 3.0]
    top, bottom = figure.subfigures(2, 1, height_ratios=heights)  # type: ignore[misc]  # an array of two
    axes = top.subplots(len(rows), len(networks) + 1, squeeze=False)
    for axis in axes[1:, 0]:
        axis.set_axis_off()
    show_panel(axes[0, 0], picture, line=line, height=room)
    axes[0, 0].set_title("input", fontsize=10)
    for column, (heading, panels) in zip(axes.T[1:], networks.items(), strict=True):
        column[0].set_title(heading, fontsize=10)
        for axis, row in zip(column, rows, strict=True):
            show_panel(axis, panels[row], line=line, height=room)
    for axis, row in zip(axes[:, 1], rows, strict=True):
        axis.set_ylabel(textwrap.fill(row, 30), fontsize=10)
    for axis, caption in zip(axes[-1, 1:], captions, strict=True):
        axis.set_xlabel(caption, fontsize=9)
    top.suptitle(title, fontsize=12)
    draw_view_charts(bottom, traces, epoch=epoch, quantity=quantity)
    bottom.supxlabel(f"{legend}\n{note}".strip(), fontsize=8)
    return figure
