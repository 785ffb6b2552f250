"""Arrays to pictures: knowledge points over images, and the figures of the notebooks.

Pure functions of arrays and tables; no widgets, no files, no datasets. Matplotlib is drawn on figures of
its own, never on the state of ``pyplot``, so that nothing is shown twice in a notebook.
"""

from kdviz.errors import MissingExtraError

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise MissingExtraError("pictures need matplotlib: install kdviz[view]") from error

from kdviz.render.attributions import map_panels, removal_curves, similarity_table
from kdviz.render.charts import count_curves, difference_dots
from kdviz.render.layers import entropy_panels, layer_curves
from kdviz.render.learning import detour_panels, points_over_distance, ratio_against_accuracy
from kdviz.render.panels import Picture, draw_points, point_panels
from kdviz.render.style import (
    BACKGROUND_COLOUR,
    DROPPED_COLOUR,
    FOREGROUND_COLOUR,
    ROLE_COLOURS,
    ROLE_MARKERS,
)

__all__ = [
    "BACKGROUND_COLOUR",
    "DROPPED_COLOUR",
    "FOREGROUND_COLOUR",
    "ROLE_COLOURS",
    "ROLE_MARKERS",
    "Picture",
    "count_curves",
    "detour_panels",
    "difference_dots",
    "draw_points",
    "entropy_panels",
    "layer_curves",
    "map_panels",
    "point_panels",
    "points_over_distance",
    "ratio_against_accuracy",
    "removal_curves",
    "similarity_table",
]
