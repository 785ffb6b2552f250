"""Units of a grid drawn over the picture they belong to.

Symbols: ``U = rows x cols`` units of a grid, ``H, W`` pixels of a picture.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from kdviz.render.style import BACKGROUND_COLOUR, FOREGROUND_COLOUR

Picture = NDArray[np.uint8]
_DIMMED = 0.4


def draw_points(
    picture: ArrayLike,
    points: ArrayLike,
    foreground: ArrayLike,
    *,
    rows: int,
    cols: int,
    size: int = 240,
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

    Returns
    -------
    ndarray
        RGB, uint8.

    Raises
    ------
    ValueError
        If the arrays do not fit the grid, the picture is not uint8 or a mask is not bool.
    """
    base = as_rgb(picture)
    found, on_object = _on_grid("points", points, rows, cols), _on_grid("foreground", foreground, rows, cols)
    width = max(1, round(size * base.shape[1] / base.shape[0]))
    image = np.asarray(Image.fromarray(base).resize((width, size), Image.Resampling.BICUBIC), np.float64)
    top, left = np.arange(rows + 1) * size / rows, np.arange(cols + 1) * width / cols
    row_of = np.minimum((np.arange(size) + 0.5) * rows / size, rows - 1).astype(int)
    col_of = np.minimum((np.arange(width) + 0.5) * cols / width, cols - 1).astype(int)
    light = np.where(found, 1.0, _DIMMED)[row_of[:, None], col_of]
    canvas = Image.fromarray((image * light[..., None]).astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    for r, c in np.argwhere(on_object):
        box = (left[c], top[r], left[c + 1], top[r + 1])
        for edge, (dr, dc) in zip(_edges(*box), ((-1, 0), (1, 0), (0, -1), (0, 1)), strict=True):
            near_r, near_c = r + dr, c + dc
            outside = not (0 <= near_r < rows and 0 <= near_c < cols)
            if outside or not on_object[near_r, near_c]:
                pen.line(edge, fill="white", width=max(1, size // 160))
    radius = 0.3 * min(size / rows, width / cols)
    for r, c in np.argwhere(found):
        x, y = (left[c] + left[c + 1]) / 2, (top[r] + top[r + 1]) / 2
        if on_object[r, c]:
            disc = (x - radius, y - radius, x + radius, y + radius)
            pen.ellipse(disc, fill=FOREGROUND_COLOUR, outline="black")
        else:
            diamond = [(x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y)]
            pen.polygon(diamond, fill=BACKGROUND_COLOUR, outline="black")
    return np.asarray(canvas)


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


def _on_grid(name: str, mask: ArrayLike, rows: int, cols: int) -> NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.dtype != bool:
        raise ValueError(f"{name} must be bool, got {array.dtype}")
    if array.shape != (rows * cols,):
        raise ValueError(f"{name} has shape {array.shape}, a grid of {rows} x {cols} needs {(rows * cols,)}")
    return array.reshape(rows, cols)


def _edges(left: float, top: float, right: float, bottom: float) -> tuple[tuple[float, ...], ...]:
    """Top, bottom, left and right edge of a box as lines."""
    return (
        (left, top, right, top),
        (left, bottom, right, bottom),
        (left, top, left, bottom),
        (right, top, right, bottom),
    )
