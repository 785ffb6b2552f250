"""A sample to draw on, by the kind of its units: the one place of the app that tells the kinds apart.

The coordinates of a run's samples say the kind: ``row`` and ``col`` are a grid, ``token`` words, ``x``, ``y``
and ``z`` points in space. A further kind is a further class in `KINDS`.

Symbols: ``U`` units of the sample, padding left out; ``S`` samples, ``P`` units with padding.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdviz import render
from kdviz.render.looks import DETOURS, MAP, POINTS, Bools, Floats, Looks, NetworkView

Panel = render.Picture | render.Text
_FIRST_WORDS = 48  # letters


@dataclass(frozen=True)
class Canvas(ABC):
    """One sample and the places of its units.

    Attributes
    ----------
    coordinates
        By name, each ``(U,)``: ``unit``, and where it lies.
    foreground
        Shape ``(U,)``; all False where the run has none.
    needs
        Coordinates that make a run one of this kind.
    coarsens, turns, is_text
        Whether units can be merged, whether an azimuth changes the picture, whether panels are words.
    inside, edge, legend
        What the foreground is called; how panels show it; what the shapes of the panels mean.
    """

    coordinates: Mapping[str, NDArray]
    foreground: Bools

    needs: ClassVar[tuple[str, ...]]
    coarsens: ClassVar[bool] = False
    turns: ClassVar[bool] = False
    is_text: ClassVar[bool] = False
    inside: ClassVar[str] = "object"
    edge: ClassVar[str]
    legend: ClassVar[str] = render.LEGEND

    @classmethod
    def of(cls, samples: xr.Dataset, ds: xr.Dataset, at: int, foreground: Bools) -> Self:
        """Prepare the sample at position `at`.

        Parameters
        ----------
        samples
            Of the run, as stored.
        ds
            Units as shown, merged where asked for.
        foreground
            Shape ``(P,)``.
        """
        valid = ds["valid"].values[at]
        places = {name: ds[name].values for name in ("unit", *cls.needs)}
        here = {name: values if values.ndim == 1 else values[at] for name, values in places.items()}
        coordinates = {name: values[valid] for name, values in here.items()}
        return cls(coordinates, foreground[valid], **cls._details(samples, ds, at))

    @classmethod
    def grids(cls, samples: xr.Dataset) -> dict[str, int]:
        """Give the ways to merge units by name, each as the factor that leads there."""
        return {"as measured": 1}

    @classmethod
    def merge(cls, samples: xr.Dataset, values: Floats, factor: int) -> Floats:
        """Average a map ``(P,)`` over merged units."""
        return values

    @property
    def caption(self) -> str:
        """A few words that tell the sample from others; empty where its picture does."""
        return ""

    @abstractmethod
    def draw_input(self, looks: Looks, size: int) -> Panel:
        """Draw the sample itself, a picture about `size` pixels wide, or words."""

    @abstractmethod
    def draw_panels(self, one: NetworkView, looks: Looks, size: int) -> dict[str, Panel]:
        """Draw what one network knows of it: `MAP`, `POINTS` and `DETOURS`."""

    @classmethod
    def _details(cls, samples: xr.Dataset, ds: xr.Dataset, at: int) -> dict[str, Any]:
        """Give the fields that a kind adds."""
        return {}


@dataclass(frozen=True)
class GridCanvas(Canvas):
    """An image, ``(H, W, 3)``, plain grey where the run has none, under a grid of `rows` x `cols` cells."""

    picture: render.Picture
    rows: int
    cols: int

    needs = ("row", "col")
    coarsens = True
    edge = "white line: edge of the object"

    @classmethod
    def grids(cls, samples: xr.Dataset) -> dict[str, int]:
        """Give the measured grid and all that merge its cells: ``{"8 x 8": 2}``."""
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
            stored = samples["thumbnail"].values[at]
            picture = np.broadcast_to(stored, (*stored.shape[:2], 3))
        rows, cols = _shape(ds)
        return {"picture": picture, "rows": rows, "cols": cols}

    def draw_input(self, looks: Looks, size: int) -> Panel:
        """Give the picture as stored."""
        return self.picture

    def draw_panels(self, one: NetworkView, looks: Looks, size: int) -> dict[str, Panel]:
        """Draw over the picture."""
        grid: dict[str, Any] = {"rows": self.rows, "cols": self.cols, "size": size}
        inside, points, dropped = (self._spread(mask) for mask in (self.foreground, one.points, one.dropped))
        return {
            MAP: render.draw_values(
                self.picture,
                self._spread(one.values, np.nan),
                inside,
                limits=one.limits,
                colours=looks.colours,
                opacity=looks.opacity,
                **grid,
            ),
            POINTS: render.draw_points(self.picture, points, inside, **grid),
            DETOURS: render.draw_detours(self.picture, points, dropped, inside, **grid),
        }

    def _spread(self, values: NDArray, missing: float | bool = False) -> NDArray:
        """Put units in their cells; cells without one are empty."""
        cells = np.full((self.rows, self.cols), missing, values.dtype)
        cells[self.coordinates["row"], self.coordinates["col"]] = values
        return cells.ravel()


@dataclass(frozen=True)
class WordCanvas(Canvas):
    """A text."""

    needs = ("token",)
    is_text = True
    inside = "foreground"
    edge = "underlined: foreground"
    legend = render.LEGEND.replace("object", "foreground") + "    underlined: foreground"

    @property
    def words(self) -> list[str]:
        """The words."""
        return [str(word) for word in self.coordinates["token"]]

    @property
    def caption(self) -> str:
        """The first words."""
        text = " ".join(self.words)
        return text if len(text) <= _FIRST_WORDS else f"{text[:_FIRST_WORDS].rstrip()}\u2026"

    def draw_input(self, looks: Looks, size: int) -> Panel:
        """Give the text, foreground underlined."""
        return render.text_of(self.words, self.foreground)

    def draw_panels(self, one: NetworkView, looks: Looks, size: int) -> dict[str, Panel]:
        """Colour and mark the words; pointing at one tells its numbers."""
        words, inside = self.words, self.foreground
        notes = render.note_words(one.entropy, one.gain, inside, one.points, one.uncertain)
        return {
            MAP: render.word_values(
                words,
                one.values,
                inside,
                limits=one.limits,
                colours=looks.colours,
                opacity=looks.opacity,
                notes=notes,
            ),
            POINTS: render.word_points(words, one.points, inside, notes=notes),
            DETOURS: render.word_detours(words, one.points, one.dropped, inside, notes=notes),
        }


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

    def draw_input(self, looks: Looks, size: int) -> Panel:
        """Draw the cloud from the chosen side."""
        return render.draw_cloud(self.cloud, self.foreground, azimuth=looks.azimuth, size=size)

    def draw_panels(self, one: NetworkView, looks: Looks, size: int) -> dict[str, Panel]:
        """Colour and mark the points, seen from the chosen side."""
        cloud, inside = self.cloud, self.foreground
        side: dict[str, Any] = {"azimuth": looks.azimuth, "size": size}
        return {
            MAP: render.draw_cloud_values(
                cloud,
                one.values,
                inside,
                limits=one.limits,
                colours=looks.colours,
                opacity=looks.opacity,
                **side,
            ),
            POINTS: render.draw_cloud_points(cloud, one.points, inside, **side),
            DETOURS: render.draw_cloud_detours(cloud, one.points, one.dropped, inside, **side),
        }


KINDS: tuple[type[Canvas], ...] = (GridCanvas, WordCanvas, CloudCanvas)


def choose_kind(samples: xr.Dataset) -> type[Canvas] | None:
    """Choose the canvas by the coordinates of a run's samples; None where they are of no known kind."""
    return next((kind for kind in KINDS if set(kind.needs) <= set(samples.variables)), None)


def _shape(ds: xr.Dataset) -> tuple[int, int]:
    return int(ds["row"].max()) + 1, int(ds["col"].max()) + 1
