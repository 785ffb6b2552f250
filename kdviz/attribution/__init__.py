"""CAM and gradient maps of any image network, on the same units as the entropy, and how far to trust them.

Modules, each importing only from those before it: ``maps`` (one method, one batch),
``unit_maps`` (all methods, all samples, reduced to units), ``removal`` (deletion and insertion),
``randomisation`` (do maps move when weights are replaced?). Scores of stored maps are in `kdviz.analysis`.
"""

from kdviz.attribution.maps import METHODS, draw_map, find_map_layer
from kdviz.attribution.randomisation import randomise_weights
from kdviz.attribution.removal import remove_units
from kdviz.attribution.unit_maps import attribute

__all__ = [
    "METHODS",
    "attribute",
    "draw_map",
    "find_map_layer",
    "randomise_weights",
    "remove_units",
]
