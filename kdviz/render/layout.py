"""Panels in rows and columns: the one way in which figures are laid out; and pictures as files."""

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.colors import to_hex
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from kdviz.render.canvas import Panel
from kdviz.render.charts import Charts
from kdviz.render.describing import BAR
from kdviz.render.looks import Picture
from kdviz.render.style import Scale, clear
from kdviz.render.writing import Sheet, Text, fit_line

_LINE = 18.0  # length of a line of words in heights of a letter
_WORDS, _PICTURE = 2.6, 1.75  # inches that a panel is wide
_CAPTION, _WIDEST = 0.2, 2.35


def lay_out(
    lines: Sequence[Sequence[Panel | None]],
    columns: Sequence[str],
    names: Sequence[str],
    *,
    captions: Sequence[Sequence[str]] = (),
    title: str = "",
    note: str = "",
    scale: Scale | Sequence[Scale | None] | None = None,
) -> Figure:
    """Put panels in rows and columns.

    Parameters
    ----------
    lines
        ``S`` rows of ``K`` panels: pictures, words, or None for nothing.
    columns, names
        ``K`` titles of the columns and ``S`` labels of the rows.
    captions
        ``S`` rows of ``K`` texts below the panels.
    title, note
        Above and below all.
    scale
        One colour bar beside all panels, or ``K`` bars, one below each column.

    Raises
    ------
    ValueError
        If the lengths do not fit each other.
    """
    words = any(isinstance(panel, Text) for panels in lines for panel in panels)
    width = _WORDS if words else _PICTURE
    heights = measure_lines(lines, width, captioned=bool(captions))
    size = width * len(columns) + (0.9 if isinstance(scale, Scale) else 0.4)
    note = _fold(note, int(15 * size))  # letters that fit
    bars = isinstance(scale, Sequence)
    below = 0.25 + 0.15 * note.count("\n") if note else 0.0
    tall = sum(heights) + 0.3 + 0.3 * bool(title) + below + 0.3 * bars
    if bars:  # a low row below all others
        lines, names, heights = [*lines, [None] * len(columns)], [*names, ""], [*heights, 0.1]
    figure = Sheet(figsize=(size, tall), layout="constrained")
    axes = fill(figure, lines, columns, names, heights=heights, captions=captions, line=_LINE)
    if isinstance(scale, Scale):
        bar = figure.colorbar(scale.mappable, ax=figure.axes, fraction=0.025, pad=0.01)
        bar.set_label(scale.label, fontsize=8)
        bar.ax.tick_params(labelsize=7)
    for axis, one in zip(axes[-1], scale if isinstance(scale, Sequence) else (), strict=False):
        if one is not None:
            bar = figure.colorbar(one.mappable, cax=axis, orientation="horizontal")
            axis.set_label(BAR)
            bar.set_ticks([*one.limits], labels=[f"{end:.2g}" for end in one.limits], fontsize=7)
            if one.turned:
                axis.invert_xaxis()
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(note, fontsize=9)
    return figure


def _fold(note: str, width: int) -> str:
    """Break a note into lines, where parts of it are set apart by room if it can be."""
    lines: list[str] = []
    for part in re.split(r" {3,}", note):
        together = f"{lines[-1]}    {part}" if lines else part
        if len(together) <= width:
            lines[-1:] = [together]
        else:
            lines[-1:] = [f"{line} " for line in lines[-1:]]  # where its description reads the end of a part
            lines += textwrap.wrap(part, width)
    return "\n".join(lines)


def measure_lines(
    lines: Sequence[Sequence[Panel | None]], width: float, *, captioned: bool, line: float = _LINE
) -> list[float]:
    """Compute the inches that each row needs if its panels are `width` inches wide."""
    heights = []
    for panels in lines:
        shapes = [
            panel.height(line) / line if isinstance(panel, Text) else panel.shape[0] / panel.shape[1]
            for panel in panels
            if isinstance(panel, Text | np.ndarray)
        ]
        heights.append(width * max(shapes) + _CAPTION * captioned + 0.05)
    return heights


def fill(
    figure: Figure | SubFigure,
    lines: Sequence[Sequence[Panel | None]],
    columns: Sequence[str],
    names: Sequence[str],
    *,
    heights: Sequence[float],
    captions: Sequence[Sequence[str]] = (),
    line: float = _LINE,
    named: int = 0,
) -> np.ndarray:
    """Fill a figure with panels as `lay_out` does, names beside column `named`; return axes, ``(S, K)``."""
    axes = figure.subplots(len(lines), len(columns), squeeze=False, height_ratios=heights)
    for row, panels, name in zip(axes, lines, names, strict=True):
        for axis, panel in zip(row, panels, strict=True):
            clear(axis)
            if isinstance(panel, Text):
                panel.show_on(axis, line)
            elif panel is not None:
                axis.imshow(panel)
        low = isinstance(panels[named], Text)  # too low for a name that runs upwards
        beside = {"rotation": 0, "ha": "right", "va": "center"} if low else {}
        folded = name if "\n" in name else textwrap.fill(name, 20 if low else 26)
        row[named].set_ylabel(folded, fontsize=8, **beside)
    for axis, column in zip(axes[0], columns, strict=True):
        axis.set_title(column, fontsize=9)
    for row, texts in zip(axes, captions, strict=False):
        for axis, text in zip(row, texts, strict=True):
            axis.set_xlabel(text, fontsize=8)
    return axes


def view_figure(
    picture: Panel,
    networks: Mapping[str, Mapping[str, Panel]],
    charts: Charts,
    *,
    title: str,
    note: str,
) -> Figure:
    """Lay out what is seen of one sample: the input, a column a network, a row a kind of panel, the charts.

    Parameters
    ----------
    picture
        The input, ``(H, W, 3)``, uint8, or as words.
    networks
        ``{heading: {row: panel}}``, headings of a line or more; every network has the same rows, panels are
        pictures or words.
    charts
        Shown below.
    title, note
        Above, and small below.
    """
    rows = list(next(iter(networks.values())))
    first = [picture, *[None] * (len(rows) - 1)]
    lines = [
        [left, *(panels[row] for panels in networks.values())] for left, row in zip(first, rows, strict=True)
    ]
    texts = [panel for panels in lines for panel in panels if isinstance(panel, Text)]
    line, room = fit_line(texts), 12.4 / len(lines[0])  # letters of one size
    heights = measure_lines(lines, room if texts else min(room, _WIDEST), captioned=False, line=line)
    figure = Sheet(figsize=(13.2, sum(heights) + 4.4), layout="constrained")
    sizes = [sum(heights) + 1.0, 3.0]
    top, bottom = figure.subfigures(2, 1, height_ratios=sizes)  # type: ignore[misc]  # an array of two
    heads = ["input", *networks]
    fill(top, lines, heads, rows, heights=heights, line=line, named=1)
    top.suptitle(title, fontsize=12)
    charts.draw(bottom)
    bottom.supxlabel(note, fontsize=8)
    return figure


def encode_png(picture: Picture) -> bytes:
    """Write a picture ``(H, W, 3)``, uint8, as PNG."""
    return _encode_pixels(picture.shape[1::-1], picture.tobytes())


@lru_cache(maxsize=64)  # the teacher's panels, say, stay the same from epoch to epoch
def _encode_pixels(size: tuple[int, int], pixels: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("RGB", size, pixels).save(buffer, "png", compress_level=1)  # speed before size
    return buffer.getvalue()


def encode_figure(figure: Figure, kind: str = "png", *, dpi: int = 80) -> bytes:
    """Write a figure as ``"png"``, ``"svg"`` or any other format of matplotlib; text in an SVG stays text."""
    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format=kind, dpi=dpi)
    return buffer.getvalue()


def colour_stops(colours: str, count: int = 9) -> list[str]:
    """List evenly spaced colours of a colour map as ``#rrggbb``."""
    return [to_hex(colormaps[colours](place)) for place in np.linspace(0, 1, count)]
