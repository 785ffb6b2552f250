"""Measurements as pictures: canvases for every kind of unit, figures over canvases, charts of tables.

Pure functions of datasets, arrays and tables; no widgets, no files. Matplotlib is drawn on figures of its
own, never on the state of ``pyplot``, so that nothing is shown twice in a notebook.
"""

from kdviz.errors import MissingExtraError

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise MissingExtraError("pictures need matplotlib: install kdviz[view]") from error

from kdviz.render.arms import arms_chart
from kdviz.render.canvas import Canvas, Panel
from kdviz.render.canvases import CloudCanvas, GridCanvas, WordCanvas, choose_kind, pick_samples
from kdviz.render.charts import count_curves, points_over_distance, ratio_against_accuracy
from kdviz.render.cloud import project_cloud
from kdviz.render.coherency import coherency_chart, coherency_figure
from kdviz.render.describing import describe_figure
from kdviz.render.figures import plot_detours, plot_entropy, plot_maps, plot_points, turntable
from kdviz.render.looks import Looks, NetworkView
from kdviz.render.pages import Page, show_notes, show_table, show_verdict
from kdviz.render.relevance import relevance_chart, relevance_progress
from kdviz.render.style import Scale
from kdviz.render.tables import difference_dots, layer_curves, removal_curves, setting_dots, similarity_table
from kdviz.render.transfer import boundary_maps, invariance_curves, similarity_matrices, transfer_chart

__all__ = [
    "Canvas",
    "CloudCanvas",
    "GridCanvas",
    "Looks",
    "NetworkView",
    "Page",
    "Panel",
    "Scale",
    "WordCanvas",
    "arms_chart",
    "boundary_maps",
    "choose_kind",
    "coherency_chart",
    "coherency_figure",
    "count_curves",
    "describe_figure",
    "difference_dots",
    "invariance_curves",
    "layer_curves",
    "pick_samples",
    "plot_detours",
    "plot_entropy",
    "plot_maps",
    "plot_points",
    "points_over_distance",
    "project_cloud",
    "ratio_against_accuracy",
    "relevance_chart",
    "relevance_progress",
    "removal_curves",
    "setting_dots",
    "show_notes",
    "show_table",
    "show_verdict",
    "similarity_matrices",
    "similarity_table",
    "transfer_chart",
    "turntable",
]
