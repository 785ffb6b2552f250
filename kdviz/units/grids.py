"""Cells of a grid over images.

Symbols: ``B`` samples, ``U`` units, ``C, H, W`` channels, height and width of an image.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdviz.arguments import one_of, whole_number
from kdviz.units.base import Coordinates, ImageUnits
from kdviz.units.regions import Marks


@dataclass(frozen=True)
class Grid(ImageUnits):
    """A grid of ``rows`` x ``cols`` cells over an image ``(C, H, W)``, all channels in one cell.

    A pixel belongs to the cell that nearest-neighbour up-sampling of the grid gives it (methods of
    Cheng et al., CVPR 2020 code), so height and width need not be multiples of the grid: see :func:`grid`,
    which makes one.
    """

    rows: int
    cols: int
    kind = "grid"

    @property
    def count(self) -> int:
        """Number of units ``U``."""
        return self.rows * self.cols

    def index(self, sample_shape: tuple[int, ...], sample: int = 0) -> NDArray[np.int64]:
        """Return the unit of every input element.

        Parameters
        ----------
        sample_shape
            Shape of one sample, ``(C, H, W)``.
        sample
            Any: all samples are cut alike.

        Returns
        -------
        ndarray
            Shape `sample_shape`, int64, values ``0..U-1`` in row-major order of the grid.

        Raises
        ------
        ValueError
            If a sample is not ``(C, H, W)`` or is smaller than the grid.
        """
        height, width = self._check_shape(sample_shape, "units.grid")
        if height < self.rows or width < self.cols:
            raise ValueError(
                f"a grid of {self.rows} x {self.cols} units does not fit inputs of {height} x {width} "
                "pixels: every unit needs at least one pixel; choose a coarser grid"
            )
        cell = self._line(height, self.rows)[:, None] * self.cols + self._line(width, self.cols)
        return np.broadcast_to(cell, sample_shape)

    def coordinates(self, inputs: ArrayLike = ()) -> Coordinates:
        """Return the ``row`` and ``col`` of every unit, each of shape ``(U,)``."""
        row, col = np.divmod(np.arange(self.count), self.cols)
        return {"row": ("unit", row), "col": ("unit", col)}

    def reduce_mask(self, mask: ArrayLike, rule: Literal["nearest", "area"] = "nearest") -> Marks:
        """Reduce pixel masks to units.

        Parameters
        ----------
        mask
            Shape ``(B, H, W)``, values as :func:`kdviz.units.read_mask` takes them.
        rule
            ``"nearest"``: the pixel at the middle of the cell decides, as in the authors' code.
            ``"area"``: more than half of the cell's pixels; see `ImageUnits`.

        Returns
        -------
        ndarray
            Shape ``(B, U)``: bool, or, where some unit is void, int8: 1, 0, and -1 for void.

        Raises
        ------
        ValueError
            If `mask` is not of rank 3, its values are of no known kind, or `rule` is unknown.
        """
        one_of("rule", rule, ("nearest", "area"))
        if rule == "area":
            return super().reduce_mask(mask)
        marks = self._read_pixels(mask)
        _, height, width = marks.shape
        rows = ((np.arange(self.rows) + 0.5) * height / self.rows).astype(int)
        cols = ((np.arange(self.cols) + 0.5) * width / self.cols).astype(int)
        reduced = marks[:, rows[:, None], cols].reshape(len(marks), self.count)
        return reduced if (reduced < 0).any() else reduced > 0

    def describe(self) -> str:
        """Name the units in one word for files and titles, such as ``grid-16x16``."""
        return f"{self.kind}-{self.rows}x{self.cols}"

    @staticmethod
    def _line(pixels: int, cells: int) -> NDArray[np.int64]:
        return np.arange(pixels) * cells // pixels


def grid(rows: int, cols: int | None = None) -> Grid:
    """Divide images into ``rows`` x ``cols`` cells; the papers use 16 x 16.

    Parameters
    ----------
    rows, cols
        Positive; `cols` defaults to `rows`.

    Raises
    ------
    ValueError
        If a number is not a positive integer.

    Notes
    -----
    Height and width of images need not be multiples of the grid. Cells then differ by a pixel a side, and the
    gain of a larger one is larger for its area alone; their sizes are kept (``unit_size``), and entropies are
    of gains divided by them, so that equal pixels give equal entropies in all cells
    (``unit_gain="mean"``, the default of :func:`kdviz.measure`).

    Examples
    --------
    >>> from kdviz import units
    >>> units.grid(2, 3).index((1, 4, 6))[0].tolist()[0]
    [0, 0, 1, 1, 2, 2]
    """
    cols = rows if cols is None else cols
    return Grid(whole_number("units.grid: rows", rows, 1), whole_number("units.grid: cols", cols, 1))
