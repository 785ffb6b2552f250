"""Units of a grid drawn over the picture they belong to.

Symbols: ``U = rows x cols`` units of a grid, ``H, W`` pixels of a picture.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from kdviz.render.style import (
    BACKGROUND_COLOUR,
    DROPPED_COLOUR,
    ENTROPY_COLOURS,
    FOREGROUND_COLOUR,
)

Picture = NDArray[np.uint8]


def draw_points(
    picture: ArrayLike,
    points: ArrayLike,
    foreground: ArrayLike,
    *,
    rows: int,
    cols: int,
    size: int = 240,
    dimming: float = 0.6,
) -> Picture:
    """Draw knowledge points over a picture: discs on the object, diamonds on the background.

    Units that are no knowledge points are dimmed; a white line follows the edge of the object.

    Parameters
    ----------
    picture
        Shape ``(H, W, 3)`` or ``(H, W)``, uint8.
    points, foreground
        Shape ``(U,)``, bool, in row-major order of the grid.
    rows, cols
        The grid.
    size
        Height of the result in pixels; its width keeps the aspect of `picture`.
    dimming
        How much of the light the other units lose: 0 none, 1 all.

    Returns
    -------
    ndarray
        RGB, uint8.

    Raises
    ------
    ValueError
        If the arrays do not fit the grid, the picture is not uint8 or a mask is not bool.
    """
    canvas = _Canvas(picture, rows, cols, size)
    found, on_object = canvas.mask("points", points), canvas.mask("foreground", foreground)
    canvas.dim(np.where(found, 1.0, 1.0 - dimming))
    canvas.outline(on_object)
    for cell in np.argwhere(found):
        if on_object[*cell]:
            canvas.disc(cell, FOREGROUND_COLOUR)
        else:
            canvas.diamond(cell, BACKGROUND_COLOUR)
    return canvas.finish()


def draw_detours(
    picture: ArrayLike,
    points: ArrayLike,
    dropped: ArrayLike,
    foreground: ArrayLike,
    *,
    rows: int,
    cols: int,
    size: int = 240,
    dimming: float = 0.6,
) -> Picture:
    """Draw which points of the object are held and which were tried and dropped: discs and crosses.

    Parameters
    ----------
    picture, foreground, rows, cols, size, dimming
        As in `draw_points`.
    points
        Shape ``(U,)``, bool: knowledge points now. Those on the background are left out, as in Eq. (9).
    dropped
        Shape ``(U,)``, bool: on the object, knowledge points before and not now.

    Returns
    -------
    ndarray
        RGB, uint8.

    Raises
    ------
    ValueError
        As in `draw_points`.
    """
    canvas = _Canvas(picture, rows, cols, size)
    on_object = canvas.mask("foreground", foreground)
    held, lost = canvas.mask("points", points) & on_object, canvas.mask("dropped", dropped)
    canvas.dim(np.where(held | lost, 1.0, 1.0 - dimming))
    canvas.outline(on_object)
    for cell in np.argwhere(held):
        canvas.disc(cell, FOREGROUND_COLOUR)
    for cell in np.argwhere(lost):
        canvas.cross(cell, DROPPED_COLOUR)
    return canvas.finish()


def draw_values(
    picture: ArrayLike,
    values: ArrayLike,
    foreground: ArrayLike,
    *,
    rows: int,
    cols: int,
    limits: tuple[float, float],
    colours: str = ENTROPY_COLOURS,
    opacity: float = 0.7,
    size: int = 240,
) -> Picture:
    """Lay the values of the units over a picture as colours.

    Parameters
    ----------
    picture, foreground, rows, cols, size
        As in `draw_points`.
    values
        Shape ``(U,)``, float. Units of NaN stay uncoloured.
    limits
        Values of the two ends of the colour scale; values beyond take the colour of the end.
    colours
        Name of a matplotlib colour map: a sequential one for entropies, a diverging one with symmetric limits
        for signed maps.
    opacity
        0 shows the picture alone, 1 the values alone.

    Returns
    -------
    ndarray
        RGB, uint8.

    Raises
    ------
    ValueError
        If the arrays do not fit the grid, the picture is not uint8, or the limits do not increase.
    """
    if not limits[0] < limits[1]:
        raise ValueError(f"limits are {limits[0]} and {limits[1]}; the first must be below the second")
    canvas = _Canvas(picture, rows, cols, size)
    grid = np.asarray(values, np.float64)
    if grid.shape != (rows * cols,):
        raise ValueError(f"values has shape {grid.shape}, a grid of {rows} x {cols} needs {(rows * cols,)}")
    grid = grid.reshape(rows, cols)
    table = colormaps[colours](np.linspace(0, 1, 256))[:, :3] * 255
    place = np.clip((grid - limits[0]) / (limits[1] - limits[0]), 0, 1)
    colour = table[np.rint(np.nan_to_num(place) * 255).astype(int)]
    canvas.blend(colour, np.where(np.isnan(grid), 0.0, opacity))
    canvas.outline(canvas.mask("foreground", foreground))
    return canvas.finish()


def shrink(picture: ArrayLike, size: int) -> Picture:
    """Make a picture as small as a thumbnail, `size` pixels on its longer side; a small one is enlarged."""
    base = as_rgb(picture)
    scale = size / max(base.shape[:2])
    shape = max(1, round(base.shape[1] * scale)), max(1, round(base.shape[0] * scale))
    return np.asarray(Image.fromarray(base).resize(shape, Image.Resampling.BILINEAR))


def point_panels(
    pictures: Sequence[ArrayLike],
    points: Sequence[Sequence[ArrayLike]],
    foreground: Sequence[ArrayLike],
    *,
    rows: int,
    cols: int,
    columns: Sequence[str],
    names: Sequence[str],
) -> Figure:
    """Lay out inputs beside their knowledge points: one line a sample, one column a network and epoch.

    Parameters
    ----------
    pictures
        ``S`` pictures ``(H, W, 3)``, uint8.
    points
        ``S`` lists of ``K`` masks ``(U,)``, one for every column.
    foreground
        ``S`` masks ``(U,)``.
    rows, cols
        The grid.
    columns, names
        ``K`` titles and ``S`` labels of the lines.
    """
    figure = Figure(
        figsize=(1.75 * (len(columns) + 1) + 0.4, 1.95 * len(pictures) + 0.75), layout="constrained"
    )
    axes = figure.subplots(len(pictures), len(columns) + 1, squeeze=False)
    for line, (picture, masks, mask, name) in enumerate(
        zip(pictures, points, foreground, names, strict=True)
    ):
        axes[line, 0].imshow(as_rgb(picture), interpolation="nearest")
        axes[line, 0].set_ylabel(name, fontsize=9)
        for axis, found in zip(axes[line, 1:], masks, strict=True):
            axis.imshow(draw_points(picture, found, mask, rows=rows, cols=cols))
            on_object = int(np.sum(np.asarray(found, bool) & np.asarray(mask, bool)))
            axis.set_xlabel(f"{on_object} fg, {int(np.sum(found)) - on_object} bg", fontsize=8)
    for axis, title in zip(axes[0], ["input", *columns], strict=True):
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    figure.supxlabel("disc: knowledge point on the object   diamond: on the background", fontsize=9)
    return figure


class _Canvas:
    """A picture enlarged to drawing size, and the pens that know where its cells are."""

    def __init__(self, picture: ArrayLike, rows: int, cols: int, size: int) -> None:
        base = as_rgb(picture)
        self.rows, self.cols = rows, cols
        width = max(1, round(size * base.shape[1] / base.shape[0]))
        enlarged = Image.fromarray(base).resize((width, size), Image.Resampling.BICUBIC)
        self._pixels: Picture = np.asarray(enlarged)
        self._top, self._left = np.arange(rows + 1) * size / rows, np.arange(cols + 1) * width / cols
        self._row_of = np.minimum((np.arange(size) + 0.5) * rows / size, rows - 1).astype(int)[:, None]
        self._col_of = np.minimum((np.arange(width) + 0.5) * cols / width, cols - 1).astype(int)
        self._radius = 0.3 * min(size / rows, width / cols)
        self._line = max(1, size // 160)
        self._image: Image.Image | None = None

    def mask(self, name: str, mask: ArrayLike) -> NDArray[np.bool_]:
        return on_grid(name, mask, self.rows, self.cols)

    def dim(self, light: NDArray[np.float64]) -> None:
        """Multiply the light of every cell by ``light`` (rows, cols)."""
        self._pixels = (self._pixels * light[self._row_of, self._col_of, None]).astype(np.uint8)

    def blend(self, colour: NDArray[np.float64], opacity: NDArray[np.float64]) -> None:
        """Mix a colour (rows, cols, 3) into every cell with an opacity (rows, cols)."""
        share = opacity[self._row_of, self._col_of, None]
        self._pixels = ((1 - share) * self._pixels + share * colour[self._row_of, self._col_of]).astype(
            np.uint8
        )

    @property
    def _pen(self) -> ImageDraw.ImageDraw:
        if self._image is None:
            self._image = Image.fromarray(self._pixels)
            self._drawing = ImageDraw.Draw(self._image)
        return self._drawing

    def outline(self, on_object: NDArray[np.bool_]) -> None:
        """Draw a white line along the edge of a mask (rows, cols)."""
        outside = np.pad(~on_object, 1, constant_values=True)
        for r, c in np.argwhere(on_object):
            left, top, right, bottom = self._left[c], self._top[r], self._left[c + 1], self._top[r + 1]
            edges = (
                (outside[r, c + 1], (left, top, right, top)),
                (outside[r + 2, c + 1], (left, bottom, right, bottom)),
                (outside[r + 1, c], (left, top, left, bottom)),
                (outside[r + 1, c + 2], (right, top, right, bottom)),
            )
            for at_edge, line in edges:
                if at_edge:
                    self._pen.line(line, fill="white", width=self._line)

    def disc(self, cell: NDArray[np.intp], colour: str) -> None:
        (x, y), reach = self._middle(cell), self._radius
        self._pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour, outline="black")

    def diamond(self, cell: NDArray[np.intp], colour: str) -> None:
        (x, y), reach = self._middle(cell), self._radius
        corners = [(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)]
        self._pen.polygon(corners, fill=colour, outline="black")

    def cross(self, cell: NDArray[np.intp], colour: str) -> None:
        (x, y), reach = self._middle(cell), 0.8 * self._radius
        for line in (
            (x - reach, y - reach, x + reach, y + reach),
            (x - reach, y + reach, x + reach, y - reach),
        ):
            self._pen.line(line, fill="black", width=self._line + 3)
        for line in (
            (x - reach, y - reach, x + reach, y + reach),
            (x - reach, y + reach, x + reach, y - reach),
        ):
            self._pen.line(line, fill=colour, width=self._line + 1)

    def finish(self) -> Picture:
        return self._pixels if self._image is None else np.asarray(self._image)

    def _middle(self, cell: NDArray[np.intp]) -> tuple[float, float]:
        r, c = cell
        return (self._left[c] + self._left[c + 1]) / 2, (self._top[r] + self._top[r + 1]) / 2


def as_rgb(picture: ArrayLike) -> Picture:
    """Give a picture ``(H, W, 3)`` or ``(H, W)``, uint8, as ``(H, W, 3)``.

    Raises
    ------
    ValueError
        If it is neither.
    """
    array = np.asarray(picture)
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1):
        array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"picture must be (H, W, 3) or (H, W), uint8; got {array.shape}, {array.dtype}")
    return array


def on_grid(name: str, mask: ArrayLike, rows: int, cols: int) -> NDArray[np.bool_]:
    """Give a mask ``(U,)``, bool, as ``(rows, cols)``; `name` is for the error of one that does not fit."""
    array = np.asarray(mask)
    if array.dtype != bool:
        raise ValueError(f"{name} must be bool, got {array.dtype}")
    if array.shape != (rows * cols,):
        raise ValueError(f"{name} has shape {array.shape}, a grid of {rows} x {cols} needs {(rows * cols,)}")
    return array.reshape(rows, cols)


def show_picture(axis: Axes, picture: ArrayLike, rows: int, cols: int) -> None:
    """Show a picture on axes whose unit of length is one cell, row 0 at the top."""
    pixels = as_rgb(picture)
    axis.imshow(pixels, extent=(0, cols, rows, 0), interpolation="nearest", aspect="auto")
    axis.set_box_aspect(pixels.shape[0] / pixels.shape[1])
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def outline_object(axis: Axes, on_object: NDArray[np.bool_]) -> None:
    """Draw the edge of a mask ``(rows, cols)`` on axes as `show_picture` makes them."""
    framed = np.pad(on_object, 1)
    across = np.argwhere(framed[1:-1, 1:] != framed[1:-1, :-1])
    along = np.argwhere(framed[1:, 1:-1] != framed[:-1, 1:-1])
    edges = [((col, row), (col, row + 1)) for row, col in across]
    edges += [((col, row), (col + 1, row)) for row, col in along]
    lines = LineCollection(edges, colors="white", linewidths=1.0)
    lines.set_path_effects([withStroke(linewidth=2.2, foreground="black")])  # seen on any colour
    axis.add_collection(lines, autolim=False)
