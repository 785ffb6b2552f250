"""Arrays to pictures: knowledge points over images, and the figures of the notebooks.

Pure functions of arrays and tables; no widgets, no files, no datasets. Matplotlib is drawn on figures of
its own, never on the state of ``pyplot``, so that nothing is shown twice in a notebook.

Symbols: ``U = rows x cols`` units of a grid, ``H, W`` pixels of a picture.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from kdviz.errors import MissingExtraError

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise MissingExtraError("pictures need matplotlib: install kdviz[view]") from error

Picture = NDArray[np.uint8]

# Okabe and Ito's palette, distinguishable with every common colour vision; shapes repeat the message.
ROLE_COLOURS = {"teacher": "#009E73", "student": "#0072B2", "baseline": "#D55E00"}
ROLE_MARKERS = {"teacher": "D", "student": "o", "baseline": "s"}
FOREGROUND_COLOUR, BACKGROUND_COLOUR = "#F0E442", "#CC79A7"
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
    base = _as_rgb(picture)
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
        axes[line, 0].imshow(_as_rgb(picture), interpolation="nearest")
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
    names = {
        "n_fg": "knowledge points on the object",
        "n_bg": "on the background",
        "fg_ratio": "foreground ratio",
    }
    for axis, (column, label) in zip(figure.subplots(1, 3), names.items(), strict=True):
        labelled = set()
        for table in counts.values():
            role = str(table["role"].iloc[0])
            style = {"color": ROLE_COLOURS[role], "label": None if role in labelled else role}
            labelled.add(role)
            if len(table) == 1:
                axis.axhline(table[column].iloc[0], linestyle="--", linewidth=1.2, **style)
                continue
            axis.plot(
                table.index, table[column], marker=ROLE_MARKERS[role], markersize=4, linewidth=1.5, **style
            )
            low, high = table[f"{column}_low"], table[f"{column}_high"]
            axis.fill_between(table.index, low, high, color=ROLE_COLOURS[role], alpha=0.12, linewidth=0)
        axis.set_xlabel("epoch")
        axis.set_title(label, fontsize=10)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_ylim(bottom=0, top=1 if column == "fg_ratio" else None)
        _tidy(axis)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


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
        _tidy(axis)
    figure.axes[0].set_ylabel("student minus baseline")
    figure.suptitle(title, fontsize=11)
    return figure


def _as_rgb(picture: ArrayLike) -> Picture:
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


def _tidy(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
