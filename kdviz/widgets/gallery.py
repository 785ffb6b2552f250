"""The samples by picture or first words: filtered, ordered, a page at a time; a click selects."""

from typing import Any

import ipywidgets as widgets

from kdviz.render.looks import Looks
from kdviz.widgets.drawing import Described, send_panel
from kdviz.widgets.scene import ORDERS, Scene
from kdviz.widgets.selection import Selection
from kdviz.widgets.status import Status

PAGE = 12  # samples
_SIZE, _WIDE = 72, 374  # pixels of a picture, and of a button that holds words


class Gallery(widgets.VBox):
    """Choose a sample by its picture or its first words.

    Attributes
    ----------
    by_name
        Controls: ``"sample"``, ``"class"``, ``"order"``, ``"earlier"`` and ``"later"``.
    listed
        Names of all samples of the class, in their order.
    buttons, pictures
        What stands on the page; texts have no pictures.
    """

    def __init__(self, scene: Scene, selection: Selection, status: Status) -> None:
        self._scene, self._selection, self._status = scene, selection, status
        self._page = 0
        self.listed: list[str] = []
        classes = sorted(set(scene.labels.values()) - {""})
        menus = {
            "sample": ({title: name for name, title in scene.titles.items()}, "250px"),
            "class": ({"all": ""} | {name: name for name in classes}, "190px"),
            "order": (ORDERS, "190px"),
        }
        self.by_name: dict[str, Any] = {
            name: widgets.Dropdown(
                description=name,
                options=options,
                layout={"width": width},
                style={"description_width": "50px"},
            )
            for name, (options, width) in menus.items()
        }
        for name, icon, pages in (("earlier", "left", -1), ("later", "right", 1)):
            turner = widgets.Button(
                icon=f"chevron-{icon}", layout={"width": "36px"}, tooltip=f"{name} samples"
            )
            turner.on_click(lambda _, pages=pages: self._turn(pages))
            self.by_name[name] = turner
        self._where = widgets.Label()
        sample, label, order, earlier, later = self.by_name.values()
        words = scene.kind.is_text
        self.pictures = [Described(width=_SIZE, height=_SIZE) for _ in range(0 if words else PAGE)]
        wide = f"{_WIDE if words else _SIZE}px"
        self.buttons = [
            widgets.Button(layout={"width": wide, "height": "22px", "padding": "0"}) for _ in range(PAGE)
        ]
        for button in self.buttons:
            button.on_click(lambda clicked: self._select(clicked.tooltip))
        self._cells = [
            widgets.VBox([*self.pictures[place : place + 1], button], layout={"margin": "0 4px 2px 0"})
            for place, button in enumerate(self.buttons)
        ]
        rows = ([sample, label, order, earlier, self._where, later], self._cells)
        super().__init__([widgets.HBox(row, layout={"flex_flow": "row wrap"}) for row in rows])
        sample.observe(lambda change: self._select(change.new), "value")
        label.observe(self._sort, "value")
        order.observe(self._sort, "value")
        selection.observe(self.follow)
        self._sort()

    def _sort(self, change: Any = None) -> None:
        with self._status.showing_errors(fresh=False):
            order, label = self.by_name["order"].value, self.by_name["class"].value
            listed = self._scene.choose(order, label, self._selection.place)
            if listed != self.listed:
                self.listed, self._page = listed, 0
                self._show()

    def _turn(self, pages: int) -> None:
        with self._status.showing_errors(fresh=False):
            self._page += pages
            self._show()

    def _show(self) -> None:
        first = self._page * PAGE
        here = self.listed[first : first + PAGE]
        for cell in self._cells:  # one that cannot be drawn shows no earlier picture
            cell.layout.display = "none"
        for place, (name, button) in enumerate(zip(here, self.buttons, strict=False)):
            canvas = self._scene.canvas(name)
            if self.pictures:
                panel = canvas.draw_input(Looks(), 2 * _SIZE)
                send_panel(self.pictures[place], panel, f"input: {self._scene.titles[name]}")
            told = filter(None, (self._scene.labels[name], canvas.caption))
            button.description = ": ".join(told) or self._scene.titles[name]
            button.tooltip = name
            self._cells[place].layout.display = "flex"
        self.by_name["earlier"].disabled = first == 0
        self.by_name["later"].disabled = first + PAGE >= len(self.listed)
        self._where.value = f"{min(first + 1, len(self.listed))} to {first + len(here)} of {len(self.listed)}"
        self._mark()

    def _mark(self) -> None:
        for button in self.buttons:
            chosen = button.tooltip == self._selection.sample
            button.button_style = "primary" if chosen else ""

    def _select(self, sample: str) -> None:
        with self._status.showing_errors():
            self._selection.sample = sample

    def follow(self, change: Any = None) -> None:
        """Mark the selected sample; sort anew where the order follows from what is derived."""
        self.by_name["sample"].value = self._selection.sample
        self._mark()
        self._sort()
