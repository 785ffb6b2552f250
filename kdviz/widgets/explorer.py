"""The app: controls on the left, panels of the networks beside each other, charts below."""

import os
import time
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from kdviz.render.charts import view_charts
from kdviz.render.describing import describe_figure
from kdviz.render.layout import encode_figure
from kdviz.render.looks import ENTROPY, MAP, Looks
from kdviz.widgets.chapters import Chapters
from kdviz.widgets.controls import Controls
from kdviz.widgets.debounce import Debounced
from kdviz.widgets.drawing import (
    Described,
    close_whole,
    describe_panels,
    explain_view,
    head_network,
    name_panels,
    send_panel,
)
from kdviz.widgets.exports import draw_figure, write_view
from kdviz.widgets.gallery import Gallery
from kdviz.widgets.scene import Scene, View
from kdviz.widgets.selection import Selection
from kdviz.widgets.status import Status

_PANEL, _INPUT = 320, 176  # pixels
_NARROWEST = 136  # pixels of a column beside the controls
_TALLEST = "320px"  # of a text; a longer one scrolls
_CHARTS, _CHART_DPI = 1716, 130  # pixels of the widest charts, so many an inch
_CHART_DELAY, _LOOK_AGAIN, _SELDOM = 0.25, 5.0, 60.0  # seconds
_REST = 20  # times as long as a look takes: looking at a large run leaves time for its user
# Panels stand in rows of equals, narrower where the page is, so that all stay in sight.
_COLUMN = {"flex": "1 1 0", "max_width": f"{_PANEL}px", "min_width": "0", "margin": "0 6px 4px 0"}


class Explorer(widgets.VBox):
    """What :func:`kdviz.explore` returns: networks side by side.

    Attributes
    ----------
    selection
        What is shown; setting its traits moves the app as its controls do.
    controls
        Every control by name: those of `Selection` and of its settings; ``"calibrate_on"``, ``"play"``,
        ``"turn"``; ``"class"``, ``"order"``, ``"earlier"``, ``"later"``; ``"chapter"`` and ``"again"``;
        ``"folder"``, ``"file_kind"`` and ``"save"``.
    outputs
        What they move: ``"status"``, ``"notes"``, ``"explanation"``, ``"input"``, ``"charts"``; and by column
        ``"heads"``, ``"map"``, ``"points"``, ``"detours"``.
    gallery
        The samples to choose from.
    chapters
        What is known of the run beyond one sample.
    """

    _open = False

    def __init__(self, scene: Scene, selection: Selection) -> None:
        self.selection, self._scene = selection, scene
        self._drawn = selection.as_parameters()  # several traits may change at once; one drawing is enough
        self._other_layer = False
        self._view: View | None = None
        self._status = Status()
        self.outputs: dict[str, Any] = {
            "status": self._status,
            "notes": widgets.HTML(),
            "explanation": widgets.HTML(),
            "input": self._make_panel({"width": f"{_INPUT}px", "margin": "0 0 4px 0"}),
            "charts": Described(layout={"width": "100%", "max_width": f"{_CHARTS}px"}),
        }
        self._panels, self._gaps = widgets.VBox(), widgets.HTML()
        selection.observe(self._on_selection)  # before all others: it clears what was said of the last one
        self._controls = Controls(scene, selection, self._status)
        self.gallery = Gallery(scene, selection, self._status)
        self.chapters = Chapters(scene, selection, self._status)
        self.controls: dict[str, Any] = self._controls.by_name | self.gallery.by_name | self.chapters.by_name
        self.controls["save"].on_click(lambda _: self._save_asked())
        self._draw_charts_later = Debounced(self._draw_charts, _CHART_DELAY)
        self._look_again = Debounced(self._keep_up, _LOOK_AGAIN, at_once=False)
        self._beside = widgets.VBox(
            [self.outputs["input"], self.outputs["explanation"]],
            layout={"flex": f"0 0 {_INPUT + 24}px", "padding": "0 12px"},
        )
        middle = [self._controls.settings, self._beside, self._panels]
        title = f"{scene.run.path.name}: {scene.run.attrs.get('dataset_id', '')}".strip(": ")
        super().__init__(
            [
                widgets.HTML(f"<b>kdviz</b> {escape(title)}"),
                self._gaps,
                self._controls.time,
                self.gallery,
                self._status,
                widgets.HBox(middle, layout={"flex_flow": "row wrap"}),
                self.outputs["notes"],
                self.outputs["charts"],
                self.chapters,
                self._controls.saving,
            ],
            layout={"width": "100%"},
        )
        with self._status.showing_errors():
            self._draw()
            self._draw_charts()
        self._open = True
        self._tell_gaps(_LOOK_AGAIN)

    def refresh(self) -> bool:
        """Show what has been measured since the run was opened; true if there is anything.

        A run that is being measured does so by itself while the app is on a page. Whoever looked at the last
        epoch then looks at the last one that is new.
        """
        chosen, last = self.selection, self.selection.epochs[-1]
        with self._status.showing_errors(fresh=False):
            if self._scene.reload():
                self._status.clear()
                self._controls.follow()
                self.gallery.follow()
                if chosen.epoch == last < chosen.epochs[-1]:
                    chosen.epoch = chosen.epochs[-1]  # which draws
                else:
                    self._draw()
                self._draw_charts()
                return True
        return False

    def _tell_gaps(self, pause: float) -> None:
        """Say what the run lacks; look again, while it does, as long as the app is open."""
        gaps = self._scene.gaps
        self._gaps.value = f"&#9888; {escape(gaps)}" if gaps else ""
        if self._open and (gaps or self._scene.is_begun):
            self._pause = pause
            self._look_again(pause)

    def _keep_up(self) -> None:
        """Look whether there is more: seldom where nothing comes, or where a look takes long."""
        start = time.perf_counter()
        if not self._scene.run.path.exists():
            return
        grown = self.refresh()
        took = time.perf_counter() - start
        self._tell_gaps(max(_LOOK_AGAIN if grown else min(1.5 * self._pause, _SELDOM), _REST * took))

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

    def figure(self) -> Figure:
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
        self._look_again.cancel()
        self.selection.unobserve_all()
        for child in self.children:
            close_whole(child)
        self.layout.close()
        super().close()

    def __repr__(self) -> str:
        """Run and selection on one line."""
        chosen = self.selection
        where = f"{chosen.layer}, epoch {chosen.epoch}, {chosen.sample}"
        return f"<kdviz.Explorer {self._scene.run.path.name}: {where}>"

    # -- private

    def _on_selection(self, change: Any) -> None:
        state, before = self.selection.as_parameters(), self._drawn
        if state == before:
            return
        self._other_layer |= state["layer"] != before["layer"]
        self._drawn = state
        with self._status.showing_errors():
            self._draw()
            changed = {name for name in state if state[name] != before[name]}
            if changed - {one.name for one in fields(Looks)} or not self.outputs["charts"].value:
                self._draw_charts_later()

    def _draw(self) -> None:
        """Draw all but the charts; where that fails, nothing of the last view is seen."""
        try:
            self._view = self._draw_view()  # the old one until then: charts may be drawn in another thread
        except Exception:
            self._view = None
            self._show_charts(b"")
            raise
        finally:
            for part in (self._beside, self._panels, self.outputs["notes"]):
                part.layout.visibility = "hidden" if self._view is None else "visible"

    def _draw_view(self) -> View:
        chosen, looks, out = self.selection, self.selection.looks, self.outputs
        view = self._scene.look(chosen.sample, chosen.epoch, chosen.overlay, chosen.place)
        if len(out.get("heads", ())) != len(view.networks):
            self._lay_out_panels(len(view.networks))
        inside, notes = view.canvas.vocabulary.foreground, [*view.notes]
        for kind, title in name_panels(chosen.overlay, inside).items():
            self._titles[kind].value = f"<i>{escape(title)}</i>"
        for column, one in enumerate(view.networks):
            out["heads"][column].value = head_network(one, inside, view.styles[one.network].colour)
            told = describe_panels(one, chosen.overlay, inside)
            for kind, panel in view.canvas.draw_panels(one, looks, _PANEL).items():
                send_panel(out[kind][column], panel, told[kind])
        told_input = f"input: {view.title} {view.label}".strip()
        send_panel(out["input"], view.canvas.draw_input(looks, _INPUT), told_input)
        out["explanation"].value = explain_view(view, looks)
        if self._other_layer and chosen.settings.feature_loss is None:
            notes.append(
                "You looked at several layers: under this calibration every layer has the same mean entropy. "
                "To compare layers, calibrate on the feature loss."
            )
        out["notes"].value = "".join(f"<div>&#9432; {escape(note)}</div>" for note in notes)
        return view

    def _make_panel(self, layout: dict[str, str]) -> Described | widgets.HTML:
        """Make the widget that `send_panel` fills."""
        if self._scene.kind.is_text:
            return widgets.HTML(layout=layout | {"max_height": _TALLEST, "overflow": "auto"})
        return Described(layout=layout)

    def _draw_charts(self) -> None:
        chosen = self.selection
        with self._status.showing_errors(fresh=False):
            try:
                shown = self._scene.charts(self.view, chosen.epoch, chosen.histogram, chosen.place)
                figure = view_charts(shown)
                self._show_charts(encode_figure(figure, dpi=_CHART_DPI), describe_figure(figure))
            except Exception:
                self._show_charts(b"")
                raise

    def _show_charts(self, picture: bytes, alternative: str = "") -> None:
        """Show the charts, or nothing."""
        self.outputs["charts"].value, self.outputs["charts"].tooltip = picture, alternative
        self.outputs["charts"].layout.visibility = "visible" if picture else "hidden"

    def _lay_out_panels(self, networks: int) -> None:
        """Make a column for each network; where there is no room beside the controls, below them."""
        for child in self._panels.children:
            close_whole(child)
        kinds = [*name_panels(ENTROPY, "")]
        self._titles = {kind: widgets.HTML() for kind in kinds}
        columns = range(networks)
        self.outputs["heads"] = [widgets.HTML(layout=_COLUMN) for _ in columns]
        self.outputs |= {kind: [self._make_panel(_COLUMN) for _ in columns] for kind in kinds}
        shown = kinds if self._scene.has_points else [MAP]
        rows = [row for kind in shown for row in (self._titles[kind], widgets.HBox(self.outputs[kind]))]
        self._panels.children = [widgets.HBox(self.outputs["heads"]), *rows]
        self._panels.layout.flex = f"1 1 {_NARROWEST * networks}px"
        self._panels.layout.min_width = "0"

    def _save_asked(self) -> None:
        with self._status.showing_errors():
            self._status.say(f"saved {self.save(self._controls.target_file())}")
