"""Units of a grid, drawn over the image they belong to.

Symbols: ``U`` units, ``H, W`` pixels of a picture.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

from kdviz.render.canvas import Canvas
from kdviz.render.looks import OPAQUE, Bools, Floats, Looks, Picture
from kdviz.render.style import BACKGROUND_COLOUR, DROPPED_COLOUR, FOREGROUND_COLOUR, Scale

_DIMMED = 0.4  # of the light of units that are no points


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
        """Lay the colours over the picture."""
        cells = self._spread(self._fit("values", values), np.nan)
        pens = _Pens(self, size)
        pens.blend(255 * scale.paint(cells), np.where(np.isnan(cells), 0.0, looks.opacity))
        pens.outline(self._spread(self.foreground), cased=True)
        return pens.finish()

    def draw_points(self, points: ArrayLike, looks: Looks = OPAQUE, size: int = 240) -> Picture:
        """Mark points in their cells."""
        found = self._spread(self._fit("points", points, bool))
        on_object = self._spread(self.foreground)
        pens = _Pens(self, size)
        pens.dim(~found)
        pens.outline(on_object)
        for cell in np.argwhere(found):
            if on_object[*cell]:
                pens.disc(cell, FOREGROUND_COLOUR)
            else:
                pens.diamond(cell, BACKGROUND_COLOUR)
        return pens.finish()

    def draw_detours(
        self, points: ArrayLike, dropped: ArrayLike, looks: Looks = OPAQUE, size: int = 240
    ) -> Picture:
        """Mark points in their cells; what is lit was a point at some epoch."""
        held = self._spread(self._fit("points", points, bool) & self.foreground)
        lost = self._spread(self._fit("dropped", dropped, bool))
        pens = _Pens(self, size)
        pens.dim(~(held | lost))
        pens.outline(self._spread(self.foreground))
        for cell in np.argwhere(held):
            pens.disc(cell, FOREGROUND_COLOUR)
        for cell in np.argwhere(lost):
            pens.cross(cell, DROPPED_COLOUR)
        return pens.finish()

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
        self._pixels: Picture = np.asarray(enlarged)
        self._top, self._left = np.arange(rows + 1) * size / rows, np.arange(cols + 1) * width / cols
        self._row_of = np.minimum((np.arange(size) + 0.5) * rows / size, rows - 1).astype(int)[:, None]
        self._col_of = np.minimum((np.arange(width) + 0.5) * cols / width, cols - 1).astype(int)
        self._radius = 0.3 * min(size / rows, width / cols)
        self._line = max(1, size // 160)
        self._image: Image.Image | None = None

    def dim(self, cells: Bools) -> None:
        """Take light from cells (rows, cols)."""
        light = np.where(cells, _DIMMED, 1.0)[self._row_of, self._col_of, None]
        self._pixels = (self._pixels * light).astype(np.uint8)

    def blend(self, colour: NDArray[np.float64], opacity: NDArray[np.float64]) -> None:
        """Mix a colour (rows, cols, 3) into every cell with an opacity (rows, cols)."""
        share = opacity[self._row_of, self._col_of, None]
        mixed = (1 - share) * self._pixels + share * colour[self._row_of, self._col_of]
        self._pixels = np.rint(mixed).astype(np.uint8)

    @property
    def _pen(self) -> ImageDraw.ImageDraw:
        if self._image is None:
            self._image = Image.fromarray(self._pixels)
            self._drawing = ImageDraw.Draw(self._image)
        return self._drawing

    def outline(self, on_object: Bools, *, cased: bool = False) -> None:
        """Draw a white line along the edge of a mask (rows, cols), `cased` in black to be seen anywhere."""
        whole = np.pad(on_object[self._row_of, self._col_of], self._line + 2)  # beyond the picture is outside
        for colour, width in ((0, self._line + 2), (255, self._line))[not cased :]:
            shrunk = Image.fromarray(whole).convert("L").filter(ImageFilter.MinFilter(2 * width + 1))
            edge = whole & (np.asarray(shrunk) == 0)
            self._pixels[edge[self._line + 2 : -self._line - 2, self._line + 2 : -self._line - 2]] = colour

    def disc(self, cell: NDArray[np.intp], colour: str) -> None:
        (x, y), reach = self._middle(cell), self._radius
        self._pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour, outline="black")

    def diamond(self, cell: NDArray[np.intp], colour: str) -> None:
        (x, y), reach = self._middle(cell), self._radius
        corners = [(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)]
        self._pen.polygon(corners, fill=colour, outline="black")

    def cross(self, cell: NDArray[np.intp], colour: str) -> None:
        (x, y), reach = self._middle(cell), 0.8 * self._radius
        for ink, wider in (("black", 3), (colour, 1)):
            for slant in (-reach, reach):
                self._pen.line((x - reach, y - slant, x + reach, y + slant), ink, self._line + wider)

    def finish(self) -> Picture:
        return self._pixels if self._image is None else np.asarray(self._image)

    def _middle(self, cell: NDArray[np.intp]) -> tuple[float, float]:
        r, c = cell
        return (self._left[c] + self._left[c + 1]) / 2, (self._top[r] + self._top[r + 1]) / 2


def as_rgb(picture: ArrayLike) -> Picture:
    """Return a picture ``(H, W, 3)``, ``(H, W, 1)`` or ``(H, W)``, uint8, as ``(H, W, 3)``.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    array = np.asarray(picture)
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1):
        array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"picture must be (H, W, 3) or (H, W), uint8; got {array.shape}, {array.dtype}")
    return array


def shrink(picture: ArrayLike, size: int) -> Picture:
    """Make a picture as small as a thumbnail, `size` pixels on its longer side; a small one is enlarged."""
    base = as_rgb(picture)
    scale = size / max(base.shape[:2])
    shape = max(1, round(base.shape[1] * scale)), max(1, round(base.shape[0] * scale))
    return np.asarray(Image.fromarray(base).resize(shape, Image.Resampling.BILINEAR))


def _shape(ds: xr.Dataset) -> tuple[int, int]:
    return int(ds["row"].max()) + 1, int(ds["col"].max()) + 1
