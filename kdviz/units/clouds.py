"""Points of clouds.

Symbols: ``B`` clouds, ``n`` points.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kdviz.arguments import whole_number
from kdviz.units.base import Coordinates, Units


@dataclass(frozen=True)
class Cloud(Units):
    """The points of a cloud ``(n, channels)``: x, y, z share one noise scale, further channels get no noise.

    Make one with :func:`cloud`.
    """

    points: int
    kind: str = "points"
    modality: str = "cloud"
    noise_space: str = "coordinates"
    base_noise: float = 0.007
    method: Literal["auto", "gain", "path"] = "path"
    draws: int = 4

    @property
    def count(self) -> int:
        """Number of points."""
        return self.points

    def index(self, sample_shape: tuple[int, ...], sample: int = 0) -> NDArray[np.int64]:
        """Return the point of every coordinate, -1 for channels beyond the third.

        Parameters
        ----------
        sample_shape
            ``(n, channels)``.
        sample
            Any: all samples are cut alike.

        Raises
        ------
        ValueError
            If a sample is no list of so many points.
        """
        if len(sample_shape) != 2 or sample_shape[0] != self.points or sample_shape[1] < 3:
            last = " (the coordinates seem to come first)" if sample_shape == (3, self.points) else ""
            raise ValueError(
                f"units.cloud({self.points}) needs samples of shape ({self.points}, 3 or more), "
                f"got {sample_shape}{last}; pass inputs of shape (B, points, 3)"
            )
        index = np.full(sample_shape, -1, np.int64)
        index[:, :3] = np.arange(self.points)[:, None]
        return index

    def coordinates(self, inputs: NDArray) -> Coordinates:
        """Return ``x``, ``y`` and ``z`` of every point, each ``(B, U)``, float32."""
        places = np.asarray(inputs, np.float32)
        return {name: (("sample", "unit"), places[..., axis]) for axis, name in enumerate("xyz")}


def cloud(points: int) -> Cloud:
    """Take every point of a cloud as a unit.

    Parameters
    ----------
    points
        Points of every cloud; positive.

    Raises
    ------
    ValueError
        If it is no positive integer.

    Examples
    --------
    >>> from kdviz import units
    >>> units.cloud(2).index((2, 4)).tolist()
    [[0, 0, 0, -1], [1, 1, 1, -1]]
    """
    return Cloud(whole_number("units.cloud: points", points, 1))
