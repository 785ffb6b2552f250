"""Arrays to pictures: knowledge points over images, words and clouds, and the figures of the notebooks.

Pure functions of arrays and tables; no widgets, no files, no datasets. Matplotlib is drawn on figures of
its own, never on the state of ``pyplot``, so that nothing is shown twice in a notebook.
"""

from kdviz.errors import MissingExtraError

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise MissingExtraError("pictures need matplotlib: install kdviz[view]") from error

from matplotlib.figure import Figure

from kdviz.render.attributions import map_panels, removal_curves, similarity_table
from kdviz.render.charts import Trace, count_curves, difference_dots, setting_dots, view_charts
from kdviz.render.clouds import (
    draw_cloud,
    draw_cloud_detours,
    draw_cloud_points,
    draw_cloud_values,
    project_cloud,
)
from kdviz.render.coherency import coherency_figure
from kdviz.render.layers import entropy_panels, layer_curves
from kdviz.render.learning import detour_panels, points_over_distance, ratio_against_accuracy
from kdviz.render.panels import Picture, draw_detours, draw_points, draw_values, point_panels, shrink
from kdviz.render.sheets import cloud_maps, cloud_panels, rotating_cloud, turntable, word_maps, word_panels
from kdviz.render.style import (
    BACKGROUND_COLOUR,
    DROPPED_COLOUR,
    ENTROPY_COLOURS,
    FOREGROUND_COLOUR,
    ROLE_COLOURS,
    ROLE_MARKERS,
    SIGNED_COLOURS,
)
from kdviz.render.views import LEGEND, colour_stops, encode_figure, encode_png, show_panel, view_figure
from kdviz.render.words import (
    Text,
    Word,
    note_words,
    text_of,
    word_detours,
    word_points,
    word_values,
)

__all__ = [
    "BACKGROUND_COLOUR",
    "DROPPED_COLOUR",
    "ENTROPY_COLOURS",
    "FOREGROUND_COLOUR",
    "LEGEND",
    "ROLE_COLOURS",
    "ROLE_MARKERS",
    "SIGNED_COLOURS",
    "Figure",
    "Picture",
    "Text",
    "Trace",
    "Word",
    "cloud_maps",
    "cloud_panels",
    "coherency_figure",
    "colour_stops",
    "count_curves",
    "detour_panels",
    "difference_dots",
    "draw_cloud",
    "draw_cloud_detours",
    "draw_cloud_points",
    "draw_cloud_values",
    "draw_detours",
    "draw_points",
    "draw_values",
    "encode_figure",
    "encode_png",
    "entropy_panels",
    "layer_curves",
    "map_panels",
    "note_words",
    "point_panels",
    "points_over_distance",
    "project_cloud",
    "ratio_against_accuracy",
    "removal_curves",
    "rotating_cloud",
    "setting_dots",
    "show_panel",
    "shrink",
    "similarity_table",
    "text_of",
    "turntable",
    "view_charts",
    "view_figure",
    "word_detours",
    "word_maps",
    "word_panels",
    "word_points",
    "word_values",
]
