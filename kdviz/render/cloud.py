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
from PIL import Image

from kdviz.render.canvas import Canvas
from kdviz.render.looks import OPAQUE, Looks, Picture
from kdviz.render.style import BACKGROUND_COLOUR, DROPPED_COLOUR, FOREGROUND_COLOUR, Scale

_DISTANCE = 4.0  # of the viewer from the middle, in radii of the cloud
_FINE = 2  # drawn so much larger, then shrunk, for smooth edges
_FADING = 0.3  # how much white the farthest colour takes on
_SMALL, _LARGE, _MARK = 0.0085, 0.0125, 0.021  # radii over the size of the picture
_OBJECT, _REST, _DIMMED = (0.35,) * 3, (0.68,) * 3, (0.84,) * 3  # greys
_ROUND, _SQUARE, _CROSSED = range(3)


def project_cloud(
    cloud: ArrayLike, *, azimuth: float = OPAQUE.azimuth, elevation: float = OPAQUE.elevation, size: int = 240
) -> NDArray[np.float64]:
    """Compute where the points of a cloud are in its picture, in perspective.

    The viewer looks at the middle of the cloud's bounding box from four radii away, the radius being that of
    the ball around that middle which holds all points; so a cloud keeps its place and size as it is turned.

    Parameters
    ----------
    cloud
        Shape ``(U, 3)``: x, y, z.
    azimuth, elevation
        Where the viewer stands, in degrees; see the head of this module.
    size
        The picture is square, so many pixels a side.

    Returns
    -------
    ndarray
        Shape ``(U, 3)``, float64: column and row in pixels from the top left corner of the picture, and the
        depth in radii: negative is nearer than the middle.

    Raises
    ------
    ValueError
        If the cloud is not ``(U, 3)`` with at least one point, or holds NaN or infinity.
    """
    points = np.asarray(cloud, float)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise ValueError(f"cloud has shape {points.shape}; allowed: (points, 3) with at least one point")
    if not np.isfinite(points).all():
        raise ValueError("cloud holds NaN or infinity; leave such points out")
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
        return _paint(self._project(looks, size), self.greys, self._radii, size)

    def draw_values(self, values: ArrayLike, scale: Scale, looks: Looks = OPAQUE, size: int = 240) -> Picture:
        """Colour the points; the nearest has exactly its colour, one of NaN stays grey."""
        array = self._fit("values", values)
        share = np.where(np.isnan(array), 0.0, looks.opacity)[:, None]
        colour = (1 - share) * self.greys + share * scale.paint(array)
        return _paint(self._project(looks, size), colour, self._radii, size)

    def draw_points(self, points: ArrayLike, looks: Looks = OPAQUE, size: int = 240) -> Picture:
        """Mark points, and draw the others pale."""
        found = self._fit("points", points, bool)
        marks = [
            (found & self.foreground, FOREGROUND_COLOUR, _ROUND),
            (found & ~self.foreground, BACKGROUND_COLOUR, _SQUARE),
        ]
        return self._paint_marks(marks, looks, size)

    def draw_detours(
        self, points: ArrayLike, dropped: ArrayLike, looks: Looks = OPAQUE, size: int = 240
    ) -> Picture:
        """Mark points, and draw the others pale."""
        marks = [
            (self._fit("points", points, bool) & self.foreground, FOREGROUND_COLOUR, _ROUND),
            (self._fit("dropped", dropped, bool), DROPPED_COLOUR, _CROSSED),
        ]
        return self._paint_marks(marks, looks, size)

    @property
    def _radii(self) -> NDArray[np.float64]:
        return np.where(self.foreground, _LARGE, _SMALL)

    def _project(self, looks: Looks, size: int) -> NDArray[np.float64]:
        return project_cloud(self.cloud, azimuth=looks.azimuth, elevation=looks.elevation, size=size)

    def _paint_marks(
        self, marks: Sequence[tuple[NDArray[np.bool_], str, int]], looks: Looks, size: int
    ) -> Picture:
        """Draw pale points, and those of each mask large, in a colour and a shape."""
        colour, radius = np.where(self.foreground[:, None], _REST, _DIMMED), self._radii
        shape = np.zeros(len(radius), int)
        for chosen, name, kind in marks:
            colour[chosen], radius[chosen], shape[chosen] = to_rgb(name), _MARK, kind
        return _paint(self._project(looks, size), colour, radius, size, shape=shape, rimmed=radius == _MARK)


# -- private


def _paint(
    places: NDArray[np.float64],
    colour: NDArray[np.float64],
    radius: NDArray[np.float64],
    size: int,
    *,
    shape: NDArray[np.int_] | None = None,
    rimmed: NDArray[np.bool_] | None = None,
) -> Picture:
    """Draw one stamp a point, the farthest first: whoever comes later covers what was there.

    Parameters
    ----------
    places
        From `project_cloud`.
    colour, radius
        ``(U, 3)`` from 0 to 1; ``(U,)`` over the size of the picture.
    shape, rimmed
        ``(U,)``: codes of shapes, all discs if None; with a black rim, not a darker one of their colour.
    """
    order = np.argsort(-places[:, 2], kind="stable")
    places, colour, radius = places[order], colour[order], radius[order]
    shape = np.zeros(len(order), int) if shape is None else shape[order]
    black = np.zeros(len(order), bool) if rimmed is None else rimmed[order]
    depth = places[:, 2]
    fading = _FADING * (depth - depth.min()) / (np.ptp(depth) or 1.0)
    fill = colour + (1 - colour) * fading[:, None]
    rim = np.where(black[:, None], 0.35 * fading[:, None], 0.72 * fill)
    inks = np.full((len(order), 2, 4), 255, np.uint8)  # four bytes a colour, to be written as one number
    inks[..., :3] = np.rint(255 * np.stack([fill, rim], axis=1))
    # stamps are few and used by many points: each is made once, as offsets on the canvas and what is rim
    wide = size * _FINE
    margin = 2 + int(np.ceil(1.3 * max(_MARK * wide, 2)))  # for stamps that reach beyond the picture
    full = wide + 2 * margin
    kinds, kind = np.unique(np.stack([shape, radius], axis=1), axis=0, return_inverse=True)
    stamps = [_stamp(int(form), reach * wide, full) for form, reach in kinds]
    counts = np.array([len(offset) for offset, _ in stamps])
    offsets, at_rim = (np.concatenate(parts) for parts in zip(*stamps, strict=True))
    starts = np.cumsum(counts) - counts
    many = counts[kind]
    point = np.repeat(np.arange(len(order)), many)
    pixel = np.arange(len(point)) + np.repeat(starts[kind] - (np.cumsum(many) - many), many)
    middle = np.floor(places[:, :2] * _FINE).astype(int) + margin
    canvas = np.full(full * full, 0xFFFFFFFF, np.uint32)
    canvas[np.repeat(middle @ (1, full), many) + offsets[pixel]] = inks.view(np.uint32).ravel()[
        2 * point + at_rim[pixel]
    ]
    drawn = canvas.view(np.uint8).reshape(full, full, 4)
    inner = slice(margin, margin + wide)
    return np.asarray(Image.fromarray(drawn[inner, inner, :3]).reduce(_FINE))


def _stamp(shape: int, reach: float, full: int) -> tuple[NDArray[np.int_], NDArray[np.bool_]]:
    """List the pixels of a shape as offsets on a canvas `full` pixels wide, and which of them are its rim."""
    reach = max(1.5, reach)
    edge = np.arange(-int(1.3 * reach), int(1.3 * reach) + 1)
    down, right = (one.ravel() for one in np.meshgrid(edge, edge, indexing="ij"))
    if shape == _ROUND:
        beyond = np.hypot(down, right) - reach
    elif shape == _SQUARE:
        beyond = (abs(down) + abs(right) - 1.25 * reach) / np.sqrt(2)
    else:
        strokes = np.minimum(abs(down - right), abs(down + right)) / np.sqrt(2) - 0.45 * reach
        beyond = np.maximum(strokes, np.maximum(abs(down), abs(right)) - reach)
    stamped = beyond <= 0
    return (down * full + right)[stamped], (beyond > -max(1.0, 0.22 * reach))[stamped]
