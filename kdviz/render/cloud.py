"""Points in space as pictures: discs seen from one side, the near ones in front.

The z axis points up. At azimuth 0 the x axis runs to the right and the y axis away from the viewer; the
azimuth turns the viewer counter-clockwise, seen from above, so that at 90 degrees the y axis runs to the
right. Points of the object are larger; colours fade a little with distance, so that the shape is read.

Symbols: ``U`` units, the points of a cloud.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from kdviz.render.canvas import Canvas
from kdviz.render.looks import OPAQUE, Bools, Looks, Picture
from kdviz.render.marks import draw_mark
from kdviz.render.style import DIAMOND, DISC, Mark, Scale
from kdviz.schema import VOCABULARIES

_DISTANCE = 4.0  # of the viewer from the middle, in radii of the cloud
_FINE = 2  # drawn so much larger, then shrunk, for smooth edges
_FADING = 0.3  # how much white the farthest colour takes on
_SMALL, _LARGE, _MARK = 0.0085, 0.0125, 0.021  # radii over the size of the picture
_OBJECT, _REST, _DIMMED = (0.35,) * 3, (0.68,) * 3, (0.84,) * 3  # greys


def project_cloud(
    cloud: ArrayLike, *, azimuth: float = OPAQUE.azimuth, elevation: float = OPAQUE.elevation, size: int = 240
) -> NDArray[np.float64]:
    """Compute where the points of a cloud are in its picture, in perspective.

    The viewer looks at the middle of the cloud's bounding box from four radii away, the radius being that of
    the ball around that middle which holds all points; so a cloud keeps its place and size as it is turned.

    Parameters
    ----------
    cloud
        Shape ``(U, 3)``: x, y, z, at least one point.
    azimuth, elevation
        Where the viewer stands, in degrees; see the head of this module.
    size
        The picture is square, so many pixels a side.

    Returns
    -------
    ndarray
        Shape ``(U, 3)``, float64: column and row in pixels from the top left corner of the picture, and the
        depth in radii: negative is nearer than the middle.
    """
    points = np.asarray(cloud, float)
    points = points - (points.min(0) + points.max(0)) / 2
    points = points / (np.linalg.norm(points, axis=1).max() or 1.0)
    turn, tilt = np.deg2rad([azimuth, elevation])
    right = np.array([np.cos(turn), np.sin(turn), 0])
    away = np.array([-np.sin(turn) * np.cos(tilt), np.cos(turn) * np.cos(tilt), -np.sin(tilt)])
    across, up, depth = points @ right, points @ np.cross(right, away), points @ away
    reach = 0.5 * size * 0.93 * np.sqrt(_DISTANCE**2 - 1)  # a ball of radius 1 just fits
    scale = reach / (_DISTANCE + depth)
    return np.column_stack([size / 2 + scale * across, size / 2 - scale * up, depth])


@dataclass(frozen=True)
class CloudCanvas(Canvas):
    """Points in space."""

    needs = ("x", "y", "z")
    turns = True
    vocabulary = VOCABULARIES["cloud"]
    edge = "large: object, small: background"

    @property
    def cloud(self) -> NDArray[np.float32]:
        """The points, ``(U, 3)``."""
        return np.stack([self.coordinates[axis] for axis in "xyz"], axis=1)

    @property
    def greys(self) -> NDArray[np.float64]:
        """Colours of the points as they are, ``(U, 3)`` from 0 to 1: dark on the object, else light."""
        return np.where(self.foreground[:, None], _OBJECT, _REST)

    def draw_input(self, looks: Looks = OPAQUE, size: int = 240) -> Picture:
        """Draw the cloud as it is: the object large and dark, the background small and light."""
        return self._paint(self.greys, looks, size)

    def draw_values(self, values: ArrayLike, scale: Scale, looks: Looks = OPAQUE, size: int = 240) -> Picture:
        """Colour the points; the nearest has exactly its colour, one of NaN stays grey."""
        array = self._fit("values", values)
        share = np.where(np.isnan(array), 0.0, looks.opacity)[:, None]
        return self._paint((1 - share) * self.greys + share * scale.paint(array), looks, size)

    def _draw_marks(self, marks: Sequence[tuple[Bools, Mark]], looks: Looks, size: int) -> Picture:
        """Draw marks large and with a black rim, over pale points."""
        return self._paint(np.where(self.foreground[:, None], _REST, _DIMMED), looks, size, marks)

    def _paint(
        self, colour: NDArray[np.float64], looks: Looks, size: int, marks: Sequence[tuple[Bools, Mark]] = ()
    ) -> Picture:
        """Draw points in their colours ``(U, 3)`` from 0 to 1, those of the object larger, and marks.

        One stamp a point, the farthest first: whoever comes later covers what was there.
        """
        radius = np.where(self.foreground, _LARGE, _SMALL)
        shapes: list[Mark] = [DISC] * len(radius)
        for chosen, mark in marks:
            colour[chosen], radius[chosen] = to_rgb(mark.colour), (1.25 if mark is DIAMOND else 1.0) * _MARK
            for at in np.flatnonzero(chosen):
                shapes[at] = mark
        places = project_cloud(self.cloud, azimuth=looks.azimuth, elevation=looks.elevation, size=size)
        depth = places[:, 2]
        fading = (_FADING * (depth - depth.min()) / (np.ptp(depth) or 1.0))[:, None]
        fill = colour + (1 - colour) * fading
        edge = np.where(radius[:, None] >= _MARK, 0.35 * fading, 0.72 * fill)
        inks = np.rint(255 * np.stack([fill, edge], axis=1)).astype(np.uint8)
        image = Image.new("RGB", (size * _FINE, size * _FINE), "white")
        pen = ImageDraw.Draw(image)
        for at in np.argsort(-depth, kind="stable"):
            reach, colours = max(1.5, radius[at] * size * _FINE), map(tuple, inks[at].tolist())
            width, stroke = max(1, round(0.22 * reach)), round(0.9 * reach)
            draw_mark(pen, shapes[at], _FINE * places[at, :2], reach, colours, width, stroke)
        return np.asarray(image.reduce(_FINE))
