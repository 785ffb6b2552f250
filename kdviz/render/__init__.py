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
from kdviz.render.coherency import coherency_figure
from kdviz.render.panels import Picture, draw_points, point_panels
from kdviz.render.style import BACKGROUND_COLOUR, FOREGROUND_COLOUR, ROLE_COLOURS, ROLE_MARKERS

__all__ = [
    "BACKGROUND_COLOUR",
    "FOREGROUND_COLOUR",
    "ROLE_COLOURS",
    "ROLE_MARKERS",
    "Picture",
    "coherency_figure",
    "count_curves",
    "difference_dots",
    "draw_points",
    "map_panels",
    "point_panels",
    "removal_curves",
    "similarity_table",
]
