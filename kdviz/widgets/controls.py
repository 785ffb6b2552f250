"""Stock widgets bound to a selection, trait by trait."""

from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from traitlets import link

from kdviz.widgets.exports import KINDS
from kdviz.widgets.scene import Scene
from kdviz.widgets.selection import Selection
from kdviz.widgets.status import Status

_WIDTH = "256px"
_STYLE = {"description_width": "84px"}
_FRAME_MS = 700
_TURN, _TURN_MS = 15, 400  # degrees, and how long each is seen


class Controls:
    """The controls of the app, in three boxes.

    Attributes
    ----------
    time, settings, saving
        Boxes: the epoch with play; everything else that is selected; what to save and where.
    save
        The button that asks for a file.
    """

    def __init__(self, scene: Scene, selection: Selection, status: Status) -> None:
        self._selection, self._status = selection, status
        self._following = False
        wide = {"layout": {"width": _WIDTH}, "style": _STYLE}
        self._epoch = widgets.SelectionSlider(
            description="epoch",
            options=selection.epochs,
            value=selection.epoch,
            layout={"width": "620px"},
            style={"description_width": "50px"},
        )
        self._play = widgets.Play(interval=_FRAME_MS, max=len(selection.epochs) - 1, value=self._epoch.index)
        self._seed = widgets.Dropdown(
            description="seed", options=selection.seeds, value=selection.seed, **wide
        )
        layer = widgets.Dropdown(description="layer", options=scene.layers, value=selection.layer, **wide)
        threshold = _slider("threshold b", selection.threshold, 0.0, 1.0, 0.01)
        background = _choice(
            "background", {"mean of all samples": "checkpoint", "this sample's own": "sample"}
        )
        solver = _choice("solver", {"descent (papers)": "descent", "optimum": "optimum"})
        calibration = _choice(
            "calibrate on", {"mean entropy": "entropy", "feature loss": "loss", "nothing": "none"}
        )
        self._target = _slider("target (nat)", selection.target, 0.05, 1.0, 0.002, slow=True)
        self._feature_loss = _slider("feature loss", selection.feature_loss, 1.05, 4.0, 0.05, slow=True)
        weight = _slider("weight", selection.weight, 1.0, 14.0, 0.1, slow=True)
        overlay = _choice("overlay", {name.replace("_", " "): name for name in scene.overlays})
        opacity = _slider("opacity", selection.opacity, 0.0, 1.0, 0.05)
        histogram = _choice("histogram", {"entropy": "entropy", "gain": "gain"})
        self._bound: dict[str, Any] = {
            "layer": layer,
            "seed": self._seed,
            "epoch": self._epoch,
            "threshold": threshold,
            "background": background,
            "solver": solver,
            "calibration": calibration,
            "target": self._target,
            "feature_loss": self._feature_loss,
            "weight": weight,
            "overlay": overlay,
            "opacity": opacity,
            "histogram": histogram,
        }
        where, picture = [layer, self._seed], [overlay, opacity, histogram]
        if scene.kind.coarsens:
            where.append(
                widgets.Dropdown(description="grid", options=scene.grids, value=selection.coarsening, **wide)
            )
            self._bound["coarsening"] = where[-1]
        if scene.kind.turns:
            azimuth = widgets.IntSlider(selection.azimuth, 0, 359, 5, description="azimuth", **wide)
            turn = widgets.Play(
                value=azimuth.value, max=359, step=_TURN, interval=_TURN_MS, repeat=True, show_repeat=False
            )
            link((turn, "value"), (azimuth, "value"))
            turn.layout.margin = "0 0 0 88px"  # below the slider
            picture += [azimuth, turn]
            self._bound["azimuth"] = azimuth
        self._follow()
        for name, control in self._bound.items():
            control.observe(partial(self._lead, name), "value")
        link((self._play, "value"), (self._epoch, "index"))
        selection.observe(self._follow)

        self.time = widgets.HBox([self._epoch, self._play])
        sections = {
            "Where": where,
            "Knowledge points": [threshold, background],
            "Entropy": [solver, calibration, self._target, self._feature_loss, weight],
            "Picture": picture,
        }
        self.settings = widgets.VBox(
            [child for title, controls in sections.items() for child in (_heading(title), *controls)],
            layout={"flex": "0 0 272px"},
        )
        self._folder = widgets.Text("kdviz-views", description="save into", layout={"width": "300px"})
        self._kind = widgets.Dropdown(options={text: kind for kind, text in KINDS.items()})
        self.save = widgets.Button(description="save", icon="save")
        self.saving = widgets.HBox([self._folder, self._kind, self.save])

    def target_file(self) -> Path:
        """Name the file that the save button asks for."""
        chosen = self._selection
        name = f"{chosen.sample}-{chosen.layer}-s{chosen.seed}-epoch{chosen.epoch}".replace("/", "_")
        return Path(self._folder.value).expanduser() / f"{name}{self._kind.value}"

    def _lead(self, name: str, change: Any) -> None:
        """Take over what the user chose; a choice that is refused goes back."""
        if self._following:
            return
        with self._status.showing_errors():
            try:
                setattr(self._selection, name, change.new)
            finally:
                self._follow()

    def _follow(self, change: Any = None) -> None:
        """Offer what the selected layer and seed have, and show what is selected."""
        chosen = self._selection
        self._following = True  # new options select their first entry, which nobody chose
        try:
            if [*self._seed.options] != chosen.seeds:
                self._seed.options = chosen.seeds
            if [*self._epoch.options] != chosen.epochs:
                self._play.playing = False
                self._epoch.options = chosen.epochs
                self._play.max = len(chosen.epochs) - 1
            for name, control in self._bound.items():
                value = getattr(chosen, name)
                if isinstance(control, widgets.FloatSlider):
                    control.min, control.max = min(control.min, value), max(control.max, value)
                control.value = value
        finally:
            self._following = False
        self._target.layout.display = "flex" if chosen.calibration == "entropy" else "none"
        self._feature_loss.layout.display = "flex" if chosen.calibration == "loss" else "none"


def _slider(
    description: str, value: float, low: float, high: float, step: float, *, slow: bool = False
) -> widgets.FloatSlider:
    """Make a slider; a `slow` one speaks when it is let go, as every network is derived anew."""
    return widgets.FloatSlider(
        value=value,
        min=min(low, value),
        max=max(high, value),
        step=step,
        description=description,
        readout_format=".3g",
        continuous_update=not slow,
        layout={"width": _WIDTH},
        style=_STYLE,
    )


def _choice(description: str, options: dict[str, str]) -> widgets.Dropdown:
    return widgets.Dropdown(description=description, options=options, layout={"width": _WIDTH}, style=_STYLE)


def _heading(title: str) -> widgets.HTML:
    return widgets.HTML(f"<b>{title}</b>")
