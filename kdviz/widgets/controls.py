"""Stock widgets bound to a selection, name by name."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from traitlets import link

from kdviz.widgets.exports import KINDS
from kdviz.widgets.scene import Scene
from kdviz.widgets.selection import Selection
from kdviz.widgets.status import Status

VIEWS = "kdviz-views"
_WIDE = {"layout": {"width": "256px"}, "style": {"description_width": "84px"}}
_FRAME_MS = 700
_TURN, _TURN_MS = 15, 400  # degrees, and how long each is seen
_LIST_ROWS = 6
_SLOW = {"continuous_update": False}  # speaks when it is let go, as every network is derived anew


def is_served() -> bool:
    """Whether this is a page of Voila, which anybody who reaches it may use."""
    return "VOILA_REQUEST_URL" in os.environ


class Controls:
    """The controls of the app, in three boxes.

    Attributes
    ----------
    by_name
        Every control: of a trait of the selection, or of a field of its settings, by that name;
        ``"calibrate_on"``; ``"play"`` and ``"turn"``; ``"folder"``, ``"file_kind"`` and ``"save"``.
    time, settings, saving
        Boxes: the epoch with play; everything else that is selected; what to save and where.
    """

    def __init__(self, scene: Scene, selection: Selection, status: Status) -> None:
        self._scene, self._selection, self._status = scene, selection, status
        self._following = False
        sample = scene.kind.vocabulary.sample
        epoch = widgets.SelectionSlider(
            description="epoch",
            options=selection.epochs,
            layout={"width": "620px"},
            style={"description_width": "50px"},
        )
        self._bound: dict[str, Any] = {
            "layer": _choice("layer", {}),
            "networks": widgets.SelectMultiple(
                options=scene.lineup.names(selection.layer), layout={"width": "256px"},
                tooltip="Ctrl and a click adds or takes away one",
            ),
            "threshold": _slider("threshold b", 0.0, 1.0, 0.01),
            "background": _choice(
                "background", {f"mean of all {sample}s": "checkpoint", f"this {sample}'s own": "sample"}
            ),
            "solver": _choice("solver", {"descent (papers)": "descent", "optimum": "optimum"}),
            "calibrate_on": _choice(
                "calibrate on", {"mean entropy": "entropy", "feature loss": "loss", "nothing": "none"}
            ),
            "calibration": _slider("mean (nat)", 0.05, 1.0, 0.002, value=0.386, **_SLOW),
            "feature_loss": _slider("feature loss", 1.05, 4.0, 0.05, value=1.5, **_SLOW),
            "weight": _slider("weight", 1.0, 14.0, 0.1, **_SLOW),
            "overlay": _choice("overlay", {}),
            "opacity": _slider("opacity", 0.0, 1.0, 0.05),
            "histogram": _choice("histogram", {"entropy": "entropy", "gain": "gain"}),
            "epoch": epoch,
        }  # fmt: skip
        if "unit_size" in scene.run.samples:
            self._bound["unit_gain"] = _choice(
                "unit gain", {"mean of its parts": "mean", "sum of its parts": "sum"}
            )
        if scene.kind.coarsens:
            self._bound["coarsening"] = _choice("grid", scene.grids)
        if scene.kind.turns:
            self._bound["azimuth"] = widgets.IntSlider(0, 0, 359, 5, description="azimuth", **_WIDE)
        sections = {
            "Where": ["layer", "coarsening"],
            "Networks": ["networks"],
            "Knowledge points": ["threshold", "background"],
            "Entropy": ["solver", "calibrate_on", "calibration", "feature_loss", "weight", "unit_gain"],
            "Look": ["overlay", "opacity", "histogram", "azimuth", "turn"],
        }
        play = widgets.Play(interval=_FRAME_MS, max=len(selection.epochs) - 1)
        folder = widgets.Text(VIEWS, description="save into", disabled=is_served(), layout={"width": "300px"})
        file_kind = widgets.Dropdown(options={text: kind for kind, text in KINDS.items()})
        save = widgets.Button(description="save", icon="save")
        self.by_name: dict[str, Any] = self._bound | {
            "play": play, "folder": folder, "file_kind": file_kind, "save": save,
        }  # fmt: skip
        self.follow()
        link((epoch, "index"), (play, "value"))
        if scene.kind.turns:
            turn = widgets.Play(max=359, step=_TURN, interval=_TURN_MS, repeat=True, show_repeat=False)
            turn.layout.margin = "0 0 0 88px"  # below the slider
            self.by_name["turn"] = turn
            link((self._bound["azimuth"], "value"), (turn, "value"))
        for name, control in self._bound.items():
            control.observe(partial(self._lead, name), "value")
        selection.observe(self.follow)

        self.time = widgets.HBox([epoch, play])
        self.settings = widgets.VBox(
            [
                child
                for title, names in sections.items()
                for child in (
                    widgets.HTML(f"<b>{title}</b>"),
                    *(self.by_name[name] for name in names if name in self.by_name),
                )
            ],
            layout={"flex": "0 0 272px"},
        )
        self.saving = widgets.HBox([folder, file_kind, save])

    def target_file(self) -> Path:
        """Name the file that the save button asks for; on a served page always in `VIEWS`."""
        chosen = self._selection
        name = re.sub(r"[/\\]", "_", f"{chosen.sample}-{chosen.layer}-epoch{chosen.epoch}")
        folder = VIEWS if is_served() else self.by_name["folder"].value
        return Path(folder).expanduser() / f"{name}{self.by_name['file_kind'].value}"

    def _lead(self, name: str, change: Any) -> None:
        """Take over what the user chose; a choice that is refused goes back."""
        if self._following:
            return
        with self._status.showing_errors():
            try:
                self._take(name, change.new)
            finally:
                self.follow()

    def _take(self, name: str, value: Any) -> None:
        chosen = self._selection
        if name == "networks":  # in the order in which they were added
            kept = [one for one in chosen.networks if one in value]
            chosen.networks = [*kept, *(one for one in value if one not in kept)]
        elif name == "calibrate_on":
            levels: dict[str, dict[str, Any]] = {
                "entropy": {"calibration": self._bound["calibration"].value, "feature_loss": None},
                "loss": {"feature_loss": self._bound["feature_loss"].value},
                "none": {"calibration": None, "feature_loss": None},
            }
            chosen.settings = replace(chosen.settings, **levels[value])
        elif chosen.has_trait(name):
            setattr(chosen, name, value)
        else:
            chosen.settings = replace(chosen.settings, **{name: value})

    def follow(self, change: Any = None) -> None:
        """Offer what the selected layer and networks have, and show what is selected."""
        chosen, bound = self._selection, self._bound
        shown, play = _read(chosen), self.by_name["play"]
        self._following = True  # new options select their first entry, which nobody chose
        try:
            for name, offered in (("layer", self._scene.layers), ("overlay", self._scene.overlays.names)):
                options = {one.replace("_", " ") if name == "overlay" else one: one for one in offered}
                if dict(bound[name].options) != options:
                    bound[name].options = options
            names = self._scene.lineup.names(chosen.layer)
            if [*bound["networks"].options] != names:
                bound["networks"].options = names
            bound["networks"].rows = min(len(names), _LIST_ROWS)
            if [*bound["epoch"].options] != chosen.epochs:
                play.playing = False
                bound["epoch"].options = chosen.epochs
                play.max = len(chosen.epochs) - 1
            for name, control in bound.items():
                value = shown[name]
                if value is None:
                    continue
                if isinstance(control, widgets.FloatSlider):
                    control.min, control.max = min(control.min, value), max(control.max, value)
                control.value = value
        finally:
            self._following = False
        for name, kind in (("calibration", "entropy"), ("feature_loss", "loss")):
            bound[name].layout.display = "flex" if shown["calibrate_on"] == kind else "none"


def _read(selection: Selection) -> dict[str, Any]:
    """Read what is selected by the names of the controls."""
    shown = selection.as_parameters()
    nothing = "none" if shown["calibration"] is None else "entropy"
    return shown | {"calibrate_on": nothing if shown["feature_loss"] is None else "loss"}


def _slider(description: str, low: float, high: float, step: float, **more: Any) -> widgets.FloatSlider:
    fixed = {"min": low, "max": high, "step": step, "description": description, "readout_format": ".3g"}
    return widgets.FloatSlider(**{"value": low} | more | fixed | _WIDE)


def _choice(description: str, options: Mapping[str, Any]) -> widgets.Dropdown:
    return widgets.Dropdown(description=description, options=options, **_WIDE)
