"""Points of clouds.

Symbols: ``B`` clouds, ``n`` points.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kdviz.arguments import one_of, whole_number
from kdviz.units.base import Coordinates, Units


@dataclass(frozen=True)
class Cloud(Units):
    """The points of a cloud, ``(n, channels)`` or ``(channels, n)``: x, y, z share one noise scale.

    Further channels get no noise. Make one with :func:`cloud`.
    """

    points: int
    axis: Literal[0, 1] | None = None
    kind = "points"
    modality = "cloud"
    noise_space = "coordinates"
    axes = 2
    base_noise = 0.007
    method = "path"
    draws = 4

    @property
    def count(self) -> int:
        """Number of points."""
        return self.points

    def index(self, sample_shape: tuple[int, ...], sample: int = 0) -> NDArray[np.int64]:
        """Return the point of every coordinate, -1 for channels beyond the third.

        Parameters
        ----------
        sample_shape
            ``(n, channels)`` or ``(channels, n)``.
        sample
            Any: all samples are cut alike.

        Raises
        ------
        ValueError
            If a sample is no list of so many points, or it may be read both ways.
        """
        index = np.full(sample_shape, -1, np.int64)
        np.moveaxis(index, self._find_axis(sample_shape), 0)[:, :3] = np.arange(self.points)[:, None]
        return index

    def is_turned(self, sample_shape: tuple[int, ...]) -> bool:
        """Tell whether coordinates come first, ``(channels, n)``; errors are those of `index`."""
        return self._find_axis(sample_shape) == 1

    def coordinates(self, inputs: NDArray) -> Coordinates:
        """Return ``x``, ``y`` and ``z`` of every point, each ``(B, U)``, float32."""
        axis = self._find_axis(inputs.shape[1:])
        places = np.moveaxis(np.asarray(inputs, np.float32), 1 + axis, 1)
        return {name: (("sample", "unit"), places[..., at]) for at, name in enumerate("xyz")}

    def _find_axis(self, sample_shape: tuple[int, ...]) -> int:
        """Tell along which axis of a sample its points lie."""
        n = self.points
        axes = (0, 1) if self.axis is None else (self.axis,)
        sizes = sample_shape if len(sample_shape) == 2 else (0, 0)
        possible = [axis for axis in axes if sizes[axis] == n and sizes[1 - axis] >= 3]
        if len(possible) == 1:
            return possible[0]
        asked = f"; pass units.cloud({n}, axis=0) for points first, axis=1 for coordinates first"
        raise ValueError(
            f"units.cloud({n}) needs samples of shape ({n}, 3 or more) or (3 or more, {n}), got "
            f"{sample_shape}{asked if len(possible) > 1 else ''}"
        )


def cloud(points: int, axis: Literal[0, 1] | None = None) -> Cloud:
    """Take every point of a cloud as a unit.

    Parameters
    ----------
    points
        Points of every cloud; positive.
    axis
        Along which axis of a sample they lie: 0 for ``(n, 3)``, 1 for ``(3, n)``, as most PointNets take
        them; by default the one that has so many entries.

    Raises
    ------
    ValueError
        If `points` is no positive integer, or `axis` another one.

    Examples
    --------
    >>> from kdviz import units
    >>> units.cloud(2).index((2, 4)).tolist()
    [[0, 0, 0, -1], [1, 1, 1, -1]]
    >>> units.cloud(2).index((3, 2)).tolist()
    [[0, 1], [0, 1], [0, 1]]
    """
    return Cloud(
        whole_number("units.cloud: points", points, 1), one_of("units.cloud: axis", axis, (None, 0, 1))
    )
