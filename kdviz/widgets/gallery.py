"""The samples by picture or first words: filtered, ordered, a page at a time; a click selects."""

from typing import Any

import ipywidgets as widgets

from kdviz import render
from kdviz.render.looks import Looks
from kdviz.widgets.scene import ORDERS, Scene
from kdviz.widgets.selection import Selection
from kdviz.widgets.status import Status

_PAGE, _SIZE, _WIDE = 12, 72, 374  # samples; pixels of a picture, and of a button that holds words
_DRAWN = 2 * _SIZE  # pixels; what is drawn for the page is then made smaller


class Gallery(widgets.VBox):
    """Choose a sample by its picture or its first words."""

    def __init__(self, scene: Scene, selection: Selection, status: Status) -> None:
        self._scene, self._selection, self._status = scene, selection, status
        self._page = 0
        self._shown: list[str] = []
        classes = sorted(set(scene.labels.values()) - {""})
        style = {"description_width": "50px"}
        self._label = widgets.Dropdown(
            description="class",
            options={"all": ""} | {name: name for name in classes},
            layout={"width": "190px"},
            style=style,
        )
        self._order = widgets.Dropdown(
            description="order", options=ORDERS, layout={"width": "270px"}, style=style
        )
        self._sample = widgets.Dropdown(
            description="sample", options=scene.samples, layout={"width": "250px"}, style=style
        )
        self._sample.observe(lambda change: self._select(change.new), "value")
        self._earlier = widgets.Button(
            icon="chevron-left", layout={"width": "36px"}, tooltip="earlier samples"
        )
        self._later = widgets.Button(icon="chevron-right", layout={"width": "36px"}, tooltip="later samples")
        self._where = widgets.Label()
        self._earlier.on_click(lambda _: self._turn(-1))
        self._later.on_click(lambda _: self._turn(1))
        bar = [self._sample, self._label, self._order, self._earlier, self._where, self._later]
        pictures = 0 if scene.kind.is_text else _PAGE
        self._pictures = [widgets.Image(format="png", width=_SIZE, height=_SIZE) for _ in range(pictures)]
        wide = f"{_WIDE if scene.kind.is_text else _SIZE}px"
        self._buttons = [
            widgets.Button(layout={"width": wide, "height": "22px", "padding": "0"}) for _ in range(_PAGE)
        ]
        for place, button in enumerate(self._buttons):
            button.on_click(lambda _, place=place: self._choose(place))
        self._cells = [
            widgets.VBox([*self._pictures[place : place + 1], button], layout={"margin": "0 4px 2px 0"})
            for place, button in enumerate(self._buttons)
        ]
        rows = [widgets.HBox(row, layout={"flex_flow": "row wrap"}) for row in (bar, self._cells)]
        super().__init__(rows)
        self._label.observe(self._sort, "value")
        self._order.observe(self._sort, "value")
        selection.observe(self._follow)
        self._place = selection.place
        self._sort()

    def _sort(self, change: Any = None) -> None:
        with self._status.showing_errors(fresh=False):
            order = self._scene.choose(self._order.value, self._label.value, self._selection.place)
            if order != self._shown:
                self._shown, self._page = order, 0
                self._show()

    def _turn(self, pages: int) -> None:
        with self._status.showing_errors(fresh=False):
            self._page += pages
            self._show()

    def _show(self) -> None:
        first = self._page * _PAGE
        here = self._shown[first : first + _PAGE]
        for place, cell in enumerate(self._cells):
            cell.layout.display = "flex" if place < len(here) else "none"
        for place, (name, button) in enumerate(zip(here, self._buttons, strict=False)):
            canvas = self._scene.canvas(name)
            drawn = canvas.draw_input(Looks(), _DRAWN)
            if not isinstance(drawn, render.Text):
                self._pictures[place].value = render.encode_png(render.shrink(drawn, _SIZE))
            button.description = ": ".join(filter(None, (self._scene.labels[name], canvas.caption))) or name
            button.tooltip = name
        self._earlier.disabled = first == 0
        self._later.disabled = first + _PAGE >= len(self._shown)
        self._where.value = f"{min(first + 1, len(self._shown))} to {first + len(here)} of {len(self._shown)}"
        self._mark()

    def _mark(self) -> None:
        for button in self._buttons:
            chosen = button.tooltip == self._selection.sample
            button.button_style = "primary" if chosen else ""

    def _choose(self, place: int) -> None:
        self._select(self._buttons[place].tooltip)

    def _select(self, sample: str) -> None:
        with self._status.showing_errors():
            self._selection.sample = sample

    def _follow(self, change: Any) -> None:
        """Mark the selected sample; sort anew where the order follows from what is derived."""
        self._sample.value = self._selection.sample
        self._mark()
        if self._selection.place != self._place:
            self._place = self._selection.place
            if self._order.value != ORDERS[0]:
                self._sort()
