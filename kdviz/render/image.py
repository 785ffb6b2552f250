"""Units of a grid, drawn over the image they belong to.

Symbols: ``U`` units, ``H, W`` pixels of a picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from kdviz.arguments import as_bytes
from kdviz.render.canvas import Canvas
from kdviz.render.looks import OPAQUE, Bools, Floats, Looks, Picture
from kdviz.render.marks import draw_mark
from kdviz.render.style import Mark, Scale
from kdviz.schema import VOCABULARIES

_DIMMED = 0.6  # of the light of units without a mark


@dataclass(frozen=True)
class GridCanvas(Canvas):
    """An image under a grid of `rows` x `cols` cells.

    A white line follows the edge of the object; pictures keep the aspect of the image, `size` pixels high.

    Attributes
    ----------
    picture
        Shape ``(H, W, 3)`` or ``(H, W)``, uint8; plain grey where the run has none.
    """

    picture: Picture
    rows: int
    cols: int

    needs = ("row", "col")
    coarsens = True
    vocabulary = VOCABULARIES["image"]
    edge = "white line: edge of the object"

    @classmethod
    def grids(cls, samples: xr.Dataset) -> dict[str, int]:
        """List the measured grid and all that merge its cells: ``{"8 x 8": 2}``."""
        rows, cols = _shape(samples)
        largest = max(1, min(rows, cols) - 1)  # one unit for all of the image tells nothing
        factors = (one for one in range(1, largest + 1) if rows % one == cols % one == 0)
        return {f"{rows // factor} x {cols // factor}": factor for factor in factors}

    @classmethod
    def merge(cls, samples: xr.Dataset, values: Floats, factor: int) -> Floats:
        """Average a map over merged cells."""
        rows, cols = _shape(samples)
        return values.reshape(rows // factor, factor, cols // factor, factor).mean(axis=(1, 3)).ravel()

    @classmethod
    def _details(cls, samples: xr.Dataset, ds: xr.Dataset, at: int) -> dict[str, Any]:
        rows, cols = _shape(samples)
        picture = np.full((4 * rows, 4 * cols, 3), 128, np.uint8)
        if "thumbnail" in samples:
            picture = as_rgb(samples["thumbnail"].values[at])
        rows, cols = _shape(ds)
        return {"picture": picture, "rows": rows, "cols": cols}

    def draw_input(self, looks: Looks = OPAQUE, size: int = 240) -> Picture:
        """Return the picture as stored."""
        return as_rgb(self.picture)

    def draw_values(self, values: ArrayLike, scale: Scale, looks: Looks = OPAQUE, size: int = 240) -> Picture:
        """Lay the colours over the picture, whose own fade, so that a blue shirt is no negative value."""
        cells = self._spread(self._fit("values", values), np.nan)
        opacity = np.where(np.isnan(cells), 0.0, looks.opacity)
        pens = _Pens(self, size)
        pens.fade(opacity)
        pens.blend(255 * scale.paint(cells), opacity)
        pens.outline(self._spread(self.foreground))
        return pens.pixels

    def _draw_marks(self, marks: Sequence[tuple[Bools, Mark]], looks: Looks, size: int) -> Picture:
        """Mark units in the middle of their cells, and take light from the other cells."""
        lit = self._spread(np.any([chosen for chosen, _ in marks], axis=0))
        pens = _Pens(self, size)
        pens.blend(np.zeros((self.rows, self.cols, 3)), np.where(lit, 0.0, _DIMMED))
        pens.outline(self._spread(self.foreground))
        for chosen, mark in marks:
            pens.mark(np.argwhere(self._spread(chosen)), mark)
        return pens.pixels

    def _spread(self, values: NDArray, missing: float | bool = False) -> NDArray:
        """Put units in their cells, ``(rows, cols)``; cells without one are empty."""
        cells = np.full((self.rows, self.cols), missing, values.dtype)
        cells[self.coordinates["row"], self.coordinates["col"]] = values
        return cells


class _Pens:
    """A picture enlarged to drawing size, and the pens that know where its cells are."""

    def __init__(self, canvas: GridCanvas, size: int) -> None:
        base, rows, cols = canvas.draw_input(), canvas.rows, canvas.cols
        width = max(1, round(size * base.shape[1] / base.shape[0]))
        enlarged = Image.fromarray(base).resize((width, size), Image.Resampling.BICUBIC)
        self.pixels: Picture = np.asarray(enlarged)
        self._high, self._wide = size / rows, width / cols  # of a cell
        self._row_of = ((np.arange(size) + 0.5) * rows / size).astype(int)[:, None]
        self._col_of = ((np.arange(width) + 0.5) * cols / width).astype(int)
        self._line = max(1, size // 160)

    def blend(self, colour: NDArray[np.float64], opacity: NDArray[np.float64]) -> None:
        """Mix a colour (rows, cols, 3) into every cell with an opacity (rows, cols)."""
        where = self._row_of, self._col_of
        kept, added = (1 - opacity[..., None]).astype("f4"), (opacity[..., None] * colour).astype("f4")
        self.pixels = np.rint(kept[where] * self.pixels + added[where]).astype(np.uint8)

    def fade(self, share: NDArray[np.float64]) -> None:
        """Turn every cell grey by a share (rows, cols)."""
        grey, part = self.pixels.mean(-1, keepdims=True), share[self._row_of, self._col_of, None]
        self.pixels = np.rint((1 - part) * self.pixels + part * grey).astype(np.uint8)

    def outline(self, on_object: Bools) -> None:
        """Draw a white line, cased in black to be seen anywhere, along the edge of a mask (rows, cols)."""
        whole = np.pad(on_object[self._row_of, self._col_of], self._line + 2)  # beyond the picture is outside
        for colour, width in ((0, self._line + 2), (255, self._line)):
            edge = whole & ~ndimage.minimum_filter(whole, 2 * width + 1)
            self.pixels[edge[self._line + 2 : -self._line - 2, self._line + 2 : -self._line - 2]] = colour

    def mark(self, cells: NDArray[np.intp], mark: Mark) -> None:
        """Draw a mark in the middle of each cell, ``(N, 2)``."""
        image = Image.fromarray(self.pixels)
        pen = ImageDraw.Draw(image)
        reach = 0.3 * min(self._high, self._wide)
        for row, col in cells:
            place = (col + 0.5) * self._wide, (row + 0.5) * self._high
            draw_mark(pen, mark, place, reach, (mark.colour, "black"), self._line, 4 * self._line)
        self.pixels = np.asarray(image)


def as_rgb(picture: ArrayLike) -> Picture:
    """Return a picture as ``(H, W, 3)``, uint8.

    Parameters
    ----------
    picture
        ``(H, W, 3)``, ``(H, W, 1)`` or ``(H, W)``, uint8, or ``(C, H, W)`` of 0 to 1.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    array = as_bytes(picture)
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1):
        array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(
            "picture must be (H, W, 3) or (H, W), uint8, or (3, H, W) of 0 to 1; got "
            f"{array.shape}, {array.dtype}"
        )
    return array


def _shape(ds: xr.Dataset) -> tuple[int, int]:
    return int(ds["row"].max()) + 1, int(ds["col"].max()) + 1
