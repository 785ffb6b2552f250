"""A sample to draw on: the places of its units, and how values, points and detours look there.

Symbols: ``U`` units of the sample, padding left out; ``P`` units with padding.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from kdviz.render.looks import DETOURS, MAP, OPAQUE, POINTS, Bools, Floats, Looks, NetworkView, Picture
from kdviz.render.style import CROSS, DIAMOND, DISC, Mark, Scale
from kdviz.render.writing import Text
from kdviz.schema import Vocabulary

Panel = Picture | Text


@dataclass(frozen=True)
class Canvas(ABC):
    """One sample and the places of its units.

    A panel is a picture, ``(H, W, 3)``, uint8, or words. All masks and values are of shape ``(U,)``.

    Attributes
    ----------
    coordinates
        By name, each ``(U,)``: ``unit``, where it lies, and ``void`` where some unit is on neither side.
    foreground
        Shape ``(U,)``; all False where the run has none.
    needs
        Coordinates that make a run one of this kind.
    coarsens, turns, is_text
        Whether units can be merged, whether an azimuth changes the picture, whether panels are words.
    vocabulary, edge
        What its parts are called, and how panels show the foreground.
    """

    coordinates: Mapping[str, NDArray]
    foreground: Bools

    needs: ClassVar[tuple[str, ...]]
    coarsens: ClassVar[bool] = False
    turns: ClassVar[bool] = False
    is_text: ClassVar[bool] = False
    vocabulary: ClassVar[Vocabulary]
    edge: ClassVar[str]

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
        places = {name: ds[name].values for name in ("unit", *cls.needs, "void") if name in ds}
        here = {name: values if values.ndim == 1 else values[at] for name, values in places.items()}
        coordinates = {name: values[valid] for name, values in here.items()}
        return cls(coordinates, foreground[valid], **cls._details(samples, ds, at))

    @classmethod
    def grids(cls, samples: xr.Dataset) -> dict[str, int]:
        """List the ways to merge units by name, each as the factor that leads there."""
        return {"as measured": 1}

    @classmethod
    def merge(cls, samples: xr.Dataset, values: Floats, factor: int) -> Floats:
        """Average a map ``(P,)`` over merged units."""
        return values

    @property
    def legend(self) -> str:
        """What the shapes of knowledge points mean."""
        return f"disc: knowledge point on the {self.vocabulary.foreground}    diamond: on the background"

    @property
    def caption(self) -> str:
        """A few words that tell the sample from others; empty where its picture does."""
        return ""

    @abstractmethod
    def draw_input(self, looks: Looks = OPAQUE, size: int = 240) -> Panel:
        """Draw the sample itself, a picture about `size` pixels wide, or words."""

    @abstractmethod
    def draw_values(self, values: ArrayLike, scale: Scale, looks: Looks = OPAQUE, size: int = 240) -> Panel:
        """Draw the values of the units as colours.

        Parameters
        ----------
        values
            Units of NaN stay uncoloured.
        scale
            Which colours.
        looks
            Opacity 0 shows the sample alone, 1 the values alone.
        size
            Of a picture, in pixels.

        Raises
        ------
        ValueError
            If values do not fit the sample, or the limits do not increase.
        """

    def draw_points(self, points: ArrayLike, looks: Looks = OPAQUE, size: int = 240) -> Panel:
        """Draw knowledge points, bool: discs on the foreground, diamonds elsewhere; the rest is dimmed.

        Raises
        ------
        ValueError
            If `points` does not fit the sample or is not bool.
        """
        found = self._fit("points", points, bool)
        marks = [(found & self.foreground, DISC), (found & ~self.foreground, DIAMOND)]
        return self._draw_marks(marks, looks, size)

    def draw_detours(
        self, points: ArrayLike, dropped: ArrayLike, looks: Looks = OPAQUE, size: int = 240
    ) -> Panel:
        """Draw which points of the foreground are held and which were tried and dropped: discs and crosses.

        Points on the background are left out, as in Eq. (9) of the TPAMI paper.

        Raises
        ------
        ValueError
            If a mask does not fit the sample or is not bool.
        """
        held = self._fit("points", points, bool) & self.foreground
        return self._draw_marks([(held, DISC), (self._fit("dropped", dropped, bool), CROSS)], looks, size)

    def draw_panels(self, one: NetworkView, looks: Looks, size: int) -> dict[str, Panel]:
        """Draw what one network knows of it: `MAP`, `POINTS` and `DETOURS`."""
        return {
            MAP: self.draw_values(one.values, looks.scale(one.limits), looks, size),
            POINTS: self.draw_points(one.points, looks, size),
            DETOURS: self.draw_detours(one.points, one.dropped, looks, size),
        }

    @abstractmethod
    def _draw_marks(self, marks: Sequence[tuple[Bools, Mark]], looks: Looks, size: int) -> Panel:
        """Draw marks on the units of each mask; dim the units that have none."""

    @classmethod
    def _details(cls, samples: xr.Dataset, ds: xr.Dataset, at: int) -> dict[str, Any]:
        """Read the fields that a kind adds."""
        return {}

    def _fit(self, name: str, values: ArrayLike, kind: type = float) -> NDArray:
        """Check an array ``(U,)``; masks must be bool."""
        array = np.asarray(values) if kind is bool else np.asarray(values, float)
        if array.dtype != kind:
            raise ValueError(f"{name} must be bool, got {array.dtype}")
        if array.shape != self.foreground.shape:
            raise ValueError(f"{name} has shape {array.shape}, the sample needs {self.foreground.shape}")
        return array
