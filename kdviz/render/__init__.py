"""Measurements as pictures: canvases for every kind of unit, figures over canvases, charts of tables.

Pure functions of datasets, arrays and tables; no widgets, no files. Matplotlib is drawn on figures of its
own, never on the state of ``pyplot``, so that nothing is shown twice in a notebook.
"""

from kdviz.errors import MissingExtraError

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise MissingExtraError("pictures need matplotlib: install kdviz[view]") from error

from matplotlib.figure import Figure

from kdviz.render.canvas import LEGEND, Canvas, Panel
from kdviz.render.canvases import CloudCanvas, GridCanvas, WordCanvas, choose_kind
from kdviz.render.charts import Trace, count_curves, points_over_distance, ratio_against_accuracy, view_charts
from kdviz.render.cloud import project_cloud
from kdviz.render.coherency import coherency_figure
from kdviz.render.figures import (
    plot_detours,
    plot_entropy,
    plot_maps,
    plot_points,
    turntable,
)
from kdviz.render.image import shrink
from kdviz.render.layout import colour_stops, encode_figure, encode_png, lay_out, view_figure
from kdviz.render.looks import Looks, NetworkView, Picture
from kdviz.render.style import (
    BACKGROUND_COLOUR,
    DROPPED_COLOUR,
    ENTROPY_COLOURS,
    FOREGROUND_COLOUR,
    ROLE_COLOURS,
    NetworkStyle,
    Scale,
    style_networks,
)
from kdviz.render.tables import (
    difference_dots,
    layer_curves,
    removal_curves,
    setting_dots,
    similarity_table,
)
from kdviz.render.writing import Text

__all__ = [
    "BACKGROUND_COLOUR",
    "DROPPED_COLOUR",
    "ENTROPY_COLOURS",
    "FOREGROUND_COLOUR",
    "LEGEND",
    "ROLE_COLOURS",
    "Canvas",
    "CloudCanvas",
    "Figure",
    "GridCanvas",
    "Looks",
    "NetworkStyle",
    "NetworkView",
    "Panel",
    "Picture",
    "Scale",
    "Text",
    "Trace",
    "WordCanvas",
    "choose_kind",
    "coherency_figure",
    "colour_stops",
    "count_curves",
    "difference_dots",
    "encode_figure",
    "encode_png",
    "lay_out",
    "layer_curves",
    "plot_detours",
    "plot_entropy",
    "plot_maps",
    "plot_points",
    "points_over_distance",
    "project_cloud",
    "ratio_against_accuracy",
    "removal_curves",
    "setting_dots",
    "shrink",
    "similarity_table",
    "style_networks",
    "turntable",
    "view_charts",
    "view_figure",
]
