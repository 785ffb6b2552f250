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
_NARROWEST, _WIDEST = 136, 1800  # pixels of a column beside the controls, and of the app
_TALLEST = "320px"  # of a text; a longer one scrolls
_CHART_DELAY = 0.25  # seconds
_BY_COLUMN = ("heads", MAP, POINTS, DETOURS)
_NOTHING = render.encode_png(np.full((1, 1, 3), 255, np.uint8))  # shown in place of what could not be drawn


class Explorer(widgets.VBox):
    """What :func:`kdviz.explore` returns: networks side by side.

    Attributes
    ----------
    selection
        What is shown; setting its traits moves the app as its controls do.
    controls
        Every control by name: those of `Selection` and of its settings; ``"calibrate_on"``, ``"play"``,
        ``"turn"``; ``"class"``, ``"order"``, ``"earlier"``, ``"later"``; ``"folder"``, ``"file_kind"`` and
        ``"save"``.
    outputs
        What they move: ``"status"``, ``"notes"``, ``"explanation"``, ``"input"``, ``"charts"``; and by column
        ``"heads"``, ``"map"``, ``"points"``, ``"detours"``.
    gallery
        The samples to choose from.
    """

    _open = False

    def __init__(self, scene: Scene, selection: Selection) -> None:
        self.selection, self._scene = selection, scene
        self._drawn = selection.as_parameters()  # several traits may change at once; one drawing is enough
        self._other_layer = False
        self._view: View | None = None
        self._shown: dict[widgets.Image, render.Picture] = {}
        self._status = Status()
        self.outputs: dict[str, Any] = {
            "status": self._status,
            "notes": widgets.HTML(),
            "explanation": widgets.HTML(),
            "input": self._make_panel({"width": f"{_INPUT}px", "margin": "0 0 4px 0"}),
            "charts": widgets.Image(format="png", layout={"width": "100%", "max_width": "1120px"}),
        }
        self._panels = widgets.VBox()
        selection.observe(self._begin)  # before all others
        self._controls = Controls(scene, selection, self._status)
        self.gallery = Gallery(scene, selection, self._status)
        self.controls: dict[str, Any] = self._controls.by_name | self.gallery.by_name
        self.controls["save"].on_click(lambda _: self._save_asked())
        self._draw_charts_later = Debounced(self._redraw_charts, _CHART_DELAY)
        beside = widgets.VBox(
            [self.outputs["input"], self.outputs["explanation"]],
            layout={"flex": f"0 0 {_INPUT + 24}px", "padding": "0 12px"},
        )
        middle = [self._controls.settings, beside, self._panels]
        super().__init__(
            [
                widgets.HTML(f"<b>kdviz</b> {escape(_title(scene.run))}"),
                self._controls.time,
                self.gallery,
                self._status,
                widgets.HBox(middle, layout={"flex_flow": "row wrap"}),
                self.outputs["notes"],
                self.outputs["charts"],
                self._controls.saving,
            ],
            layout={"width": "100%", "max_width": f"{_WIDEST}px"},
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
        """Draw all but the charts; where that fails, nothing of the last view stays."""
        try:
            self._view = self._draw_view()  # the old one until then: charts may be drawn in another thread
        except Exception:
            self._view = None
            self._blank()
            raise

    def _draw_view(self) -> View:
        chosen, looks, out = self.selection, self.selection.looks, self.outputs
        view = self._scene.look(chosen.sample, chosen.epoch, chosen.overlay, chosen.place)
        if len(out.get("heads", ())) != len(view.networks):
            self._lay_out_panels(len(view.networks))
        inside = view.canvas.inside
        for kind, title in name_panels(chosen.overlay, inside).items():
            self._titles[kind].value = f"<i>{escape(title)}</i>"
        for column, one in enumerate(view.networks):
            out["heads"][column].value = head_network(one, inside, view.styles[one.network].colour)
            for kind, panel in view.canvas.draw_panels(one, looks, _PANEL).items():
                self._show(out[kind][column], panel)
        self._show(out["input"], view.canvas.draw_input(looks, _INPUT))
        out["explanation"].value = explain_view(view, looks)
        out["notes"].value = "".join(f"<div>&#9432; {escape(note)}</div>" for note in self._all_notes(view))
        return view

    def _blank(self) -> None:
        columns = [one for name in _BY_COLUMN for one in self.outputs.get(name, ())]
        for one in (*columns, *(self.outputs[name] for name in ("input", "charts", "explanation", "notes"))):
            one.value = _NOTHING if isinstance(one, widgets.Image) else ""
        self._shown.clear()

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
        if self._other_layer and self.selection.settings.feature_loss is None:
            notes.append(
                "You looked at several layers: under this calibration every layer has the same mean entropy. "
                "To compare layers, calibrate on the feature loss."
            )
        return notes

    def _draw_charts(self) -> None:
        chosen, charts = self.selection, self.outputs["charts"]
        try:
            traces = [
                self._scene.trace(one, chosen.sample, chosen.histogram, chosen.place)
                for one in self.view.networks
            ]
            quantity = "entropy (nat)" if chosen.histogram == "entropy" else "log10 gain"
            figure = render.view_charts(traces, epoch=chosen.epoch, quantity=quantity)
            charts.value = render.encode_figure(figure)
        except Exception:
            charts.value = _NOTHING
            raise

    def _redraw_charts(self) -> None:
        with self._status.showing_errors(fresh=False):
            self._draw_charts()

    def _lay_out_panels(self, networks: int) -> None:
        """Make a column for each network; where there is no room beside the controls, below them."""
        for child in self._panels.children:
            _close(child)
        self._shown.clear()
        kinds = (MAP, POINTS, DETOURS)
        self._titles = {kind: widgets.HTML() for kind in kinds}
        columns = range(networks)
        self.outputs["heads"] = [widgets.HTML(layout=_column(_PANEL)) for _ in columns]
        self.outputs |= {kind: [self._make_panel(_column(_PANEL)) for _ in columns] for kind in kinds}
        shown = kinds if self._scene.has_points else (MAP,)
        rows = [row for kind in shown for row in (self._titles[kind], widgets.HBox(self.outputs[kind]))]
        self._panels.children = [widgets.HBox(self.outputs["heads"]), *rows]
        self._panels.layout.flex = f"1 1 {_NARROWEST * networks}px"
        self._panels.layout.min_width = "0"

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
