"""CAM and gradient maps of any image network, on the same units as the entropy, and how far to trust them.

Modules, each importing only from those before it: ``maps`` (one method, one batch).
"""

from kdviz.errors import MissingExtraError

try:
    import captum  # noqa: F401
except ImportError as error:
    raise MissingExtraError("attribution maps need captum: install kdviz[baselines]") from error

from kdviz.baselines.maps import LAYER_METHODS, METHODS, draw_map, find_map_layer

__all__ = ["LAYER_METHODS", "METHODS", "draw_map", "find_map_layer"]
