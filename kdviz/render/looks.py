"""What is shown of one network, and how it is to look: plain values.

Symbols: ``U`` units of the sample; those that only pad it to the length of others are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdviz.render.style import ENTROPY_COLOURS, IMPORTANCE_COLOURS, SIGNED_COLOURS, Scale

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
Picture = NDArray[np.uint8]

ENTROPY = "entropy"  # the overlay that every run has; others are names of attribution methods
MAP, POINTS, DETOURS = "map", "points", "detours"  # the kinds of panels


@dataclass(frozen=True)
class Looks:
    """All of a selection that changes nothing but the picture.

    Attributes
    ----------
    overlay
        ``"entropy"`` or the name of an attribution method.
    opacity
        Of the overlay, from 0 to 1.
    azimuth, elevation
        Of a cloud, in degrees: where the viewer stands, see `project_cloud`.
    """

    overlay: str = ENTROPY
    opacity: float = 0.7
    azimuth: int = 30
    elevation: float = 20

    def scale(self, limits: tuple[float, float]) -> Scale:
        """Choose the colours: sequential of entropies and of values from zero on, diverging of signed."""
        maps = SIGNED_COLOURS if limits[0] < 0 else IMPORTANCE_COLOURS
        return Scale(limits, ENTROPY_COLOURS if self.overlay == ENTROPY else maps)


OPAQUE = Looks(opacity=1.0)


@dataclass(frozen=True)
class NetworkView:
    """One network at one epoch, for one sample.

    Attributes
    ----------
    role, network, epoch
        Which, and its checkpoint: the last at or before the selected epoch, else its first; of a teacher
        beside others its last.
    gain, entropy, values
        Shape ``(U,)``; entropies in nat; `values` is what the overlay shows, NaN where there is no such map.
    limits
        Ends of the overlay's colour scale, equal for all epochs and samples.
    points, dropped, uncertain
        Shape ``(U,)``: points now; foreground points tried and dropped; too close to the threshold to call.
    counts
        ``n_fg``, ``n_bg``, ``fg_ratio``, each also with ``_low`` and ``_high``; empty without foreground.
    """

    role: str
    network: str
    epoch: int
    gain: Floats
    entropy: Floats
    values: Floats
    limits: tuple[float, float]
    points: Bools
    dropped: Bools
    uncertain: Bools
    counts: Mapping[str, float]
