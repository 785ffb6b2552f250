"""The app: controls on the left, panels of the networks beside each other, charts below."""

import os
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np

from kdviz import render
from kdviz.render.canvases import Panel
from kdviz.render.looks import DETOURS, MAP, POINTS, Looks
from kdviz.store import Run
from kdviz.widgets.controls import Controls
from kdviz.widgets.debounce import Debounced
from kdviz.widgets.drawing import explain_view, head_network, name_panels
from kdviz.widgets.exports import draw_figure, write_view
from kdviz.widgets.gallery import Gallery
from kdviz.widgets.scene import Scene, View
from kdviz.widgets.selection import Selection
from kdviz.widgets.status import Status

_PANEL, _INPUT = 216, 176  # pixels
_TALLEST = "320px"  # of a text; a longer one scrolls
_CHART_DELAY = 0.25  # seconds


class Explorer(widgets.VBox):
    """What :func:`kdviz.explore` gives: teacher, student and baseline side by side.

    Attributes
    ----------
    selection
        What is shown; setting its traits moves the app as its controls do.
    """

    _open = False

    def __init__(self, scene: Scene, selection: Selection) -> None:
        self.selection, self._scene = selection, scene
        self._drawn = selection.as_parameters()  # several traits may change at once; one drawing is enough
        self._other_layer = False
        self._view: View | None = None
        self._shown: dict[widgets.Image, render.Picture] = {}
        self._status = Status()
        self._notes = widgets.HTML()
        self._explanation = widgets.HTML()
        self._input = self._make_panel({"width": f"{_INPUT}px", "margin": "0 0 4px 0"})
        self._charts = widgets.Image(format="png", layout={"width": "100%", "max_width": "1120px"})
        self._panels = widgets.VBox(layout={"flex": "1 1 0", "min_width": "0"})
        selection.observe(self._begin)  # before all others
        self._controls = Controls(scene, selection, self._status)
        self._gallery = Gallery(scene, selection, self._status)
        self._controls.save.on_click(lambda _: self._save_asked())
        self._draw_charts_later = Debounced(self._redraw_charts, _CHART_DELAY)
        middle = widgets.HBox(
            [
                self._controls.settings,
                widgets.VBox(
                    [self._input, self._explanation],
                    layout={"flex": f"0 0 {_INPUT + 24}px", "padding": "0 12px"},
                ),
                self._panels,
            ]
        )
        super().__init__(
            [
                widgets.HTML(f"<b>kdviz</b> {escape(_title(scene.run))}"),
                self._controls.time,
                self._gallery,
                self._status,
                middle,
                self._notes,
                self._charts,
                self._controls.saving,
            ],
            layout={"width": "100%", "max_width": "1180px"},
        )
        with self._status.showing_errors():
            self._draw()
            self._draw_charts()
        selection.observe(self._on_selection)
        self._open = True

    @property
    def view(self) -> View:
        """What is shown now, as arrays.

        Raises
        ------
        ValueError
            If nothing is, because the last drawing failed.
        """
        if self._view is None:
            raise ValueError(
                "nothing is shown: the last drawing failed, see the red line; select something else"
            )
        return self._view

    @property
    def failed(self) -> bool:
        """Whether an error is shown."""
        return self._status.failed

    def figure(self) -> render.Figure:
        """Draw the current view as one figure, for a page where the app itself is not live."""
        return draw_figure(self._scene, self.selection, self.view)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the current view to a file; the ending of its name says what.

        Parameters
        ----------
        path
            ``.png``, ``.svg`` or ``.pdf``: the panels and charts; ``.csv`` or ``.nc``: the shown units of all
            networks; ``.yaml``: the settings as parameters of the notebook ``02_explore``, for
            ``kdviz rerun 02_explore -f FILE``.

        Returns
        -------
        Path
            The file; folders above it are made, an older file of that name is replaced.

        Raises
        ------
        ValueError
            If the ending is another, or nothing is shown.
        StoreError
            If the file cannot be written.
        """
        return write_view(Path(path), self._scene, self.selection, self.view)

    def close(self) -> None:
        """Take the app off the page and its models out of memory."""
        if not self._open:  # ipywidgets closes once more when the object goes
            return
        self._open = False
        self._draw_charts_later.cancel()
        self.selection.unobserve_all()
        for child in self.children:
            _close(child)
        self.layout.close()
        super().close()

    def __repr__(self) -> str:
        """Run and selection on one line."""
        chosen = self.selection
        where = f"{chosen.layer}, epoch {chosen.epoch}, {chosen.sample}"
        return f"<kdviz.Explorer {self._scene.run.path.name}: {where}>"

    # -- private

    def _begin(self, change: Any) -> None:
        """Take away what was said of the last selection; several traits of one change come here in turn."""
        if self.selection.as_parameters() != self._drawn:
            self._status.clear()

    def _on_selection(self, change: Any) -> None:
        state = self.selection.as_parameters()
        if state == self._drawn:
            return
        self._other_layer |= state["layer"] != self._drawn["layer"]
        changed = {name for name, value in state.items() if value != self._drawn[name]}
        self._drawn = state
        with self._status.showing_errors(fresh=False):
            self._draw()
            if changed - {one.name for one in fields(Looks)}:
                self._draw_charts_later()

    def _draw(self) -> None:
        chosen, looks, self._view = self.selection, self.selection.looks, None
        view = self._scene.look(chosen.sample, chosen.epoch, chosen.overlay, chosen.place)
        if len(self._panels.children) == 0 or len(self._heads) != len(view.networks):
            self._lay_out_panels(len(view.networks))
        inside = view.canvas.inside
        for kind, title in name_panels(chosen.overlay, inside).items():
            self._titles[kind].value = f"<i>{escape(title)}</i>"
        styles = render.style_networks({one.network: one.role for one in view.networks})
        for column, one in enumerate(view.networks):
            self._heads[column].value = head_network(one, inside, styles[one.network].colour)
            for kind, panel in view.canvas.draw_panels(one, looks, _PANEL).items():
                self._show(self._images[kind][column], panel)
        self._show(self._input, view.canvas.draw_input(looks, _INPUT))
        self._explanation.value = explain_view(view, looks)
        self._notes.value = "".join(f"<div>&#9432; {escape(note)}</div>" for note in self._all_notes(view))
        self._view = view

    def _make_panel(self, layout: dict[str, str]) -> widgets.Image | widgets.HTML:
        """Make the widget that `_show` fills."""
        if self._scene.kind.is_text:
            return widgets.HTML(layout=layout | {"max_height": _TALLEST, "overflow": "auto"})
        return widgets.Image(format="png", layout=layout)

    def _show(self, image: widgets.Image | widgets.HTML, picture: Panel) -> None:
        """Send a panel to the page, unless it is there already."""
        if isinstance(picture, render.Text):
            image.value = picture.to_html()
        elif not np.array_equal(self._shown.get(image, ()), picture):
            self._shown[image] = picture
            image.value = render.encode_png(picture)

    def _all_notes(self, view: View) -> list[str]:
        notes = list(view.notes)
        if self._other_layer and self.selection.calibration == "entropy":
            notes.append(
                "You looked at several layers: under this calibration every layer has the same mean entropy. "
                "To compare layers, calibrate on the feature loss."
            )
        return notes

    def _draw_charts(self) -> None:
        chosen = self.selection
        traces = [
            self._scene.trace(one, chosen.sample, chosen.histogram, chosen.place)
            for one in self.view.networks
        ]
        quantity = "entropy (nat)" if chosen.histogram == "entropy" else "log10 gain"
        figure = render.view_charts(traces, epoch=chosen.epoch, quantity=quantity)
        self._charts.value = render.encode_figure(figure)

    def _redraw_charts(self) -> None:
        with self._status.showing_errors(fresh=False):
            self._draw_charts()

    def _lay_out_panels(self, networks: int) -> None:
        for child in self._panels.children:
            _close(child)
        self._shown.clear()
        self._heads = [
            widgets.HTML(layout=_column(_PANEL) | {"margin": "0 6px 0 0"}) for _ in range(networks)
        ]
        self._titles = {kind: widgets.HTML() for kind in (MAP, POINTS, DETOURS)}
        self._images = {
            kind: [self._make_panel(_column(_PANEL)) for _ in range(networks)] for kind in self._titles
        }
        shown = self._titles if self._scene.has_points else (MAP,)
        rows = [row for kind in shown for row in (self._titles[kind], widgets.HBox(self._images[kind]))]
        self._panels.children = [widgets.HBox(self._heads), *rows]

    def _save_asked(self) -> None:
        with self._status.showing_errors():
            self._status.say(f"saved {self.save(self._controls.target_file())}")


def _column(width: int) -> dict[str, str]:
    """Lay out what stands in a row of equals: narrower where the page is, so that all stay in sight."""
    return {"flex": "1 1 0", "max_width": f"{width}px", "min_width": "0", "margin": "0 6px 4px 0"}


def _title(run: Run) -> str:
    return f"{run.path.name}: {run.attrs.get('dataset_id', '')}".strip(": ")


def _close(widget: widgets.Widget) -> None:
    """Take a widget, all inside it, and their layouts and styles out of memory."""
    for child in getattr(widget, "children", ()):
        _close(child)
    widget.layout.close()
    if hasattr(widget, "style"):
        widget.style.close()
    widget.close()
