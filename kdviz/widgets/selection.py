"""The state of the app: what is selected, and nothing else."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from traitlets import Enum, Float, HasTraits, Instance, Int, List, TraitError, Unicode, observe, validate

from kdviz.analysis import Settings
from kdviz.arguments import one_of, suggest
from kdviz.errors import UnfinishedError
from kdviz.render.looks import ENTROPY, Looks
from kdviz.widgets.scene import Place, Scene


class Selection(HasTraits):
    """What is shown of a run. Setting a trait to what the run does not have raises ``TraitError``.

    Changing `layer` or `networks` moves the other traits to what is there. What cannot be read is refused
    with the error of reading it.

    Attributes
    ----------
    layer, sample, epoch
        Layer, sample, and completed training epochs.
    networks
        Names of one to six networks measured at the layer, in the order of their columns. Those without a
        finished epoch are passed over with a note.
    settings
        Frozen: ``selection.settings = dataclasses.replace(selection.settings, threshold=0.3)``. A weight or
        threshold of None becomes that of the measurement.
    overlay, opacity
        ``"entropy"`` or an attribution method, and how much of it covers the picture.
    azimuth
        Where the viewer of a cloud stands, in degrees; see :func:`kdviz.render.project_cloud`.
    histogram
        ``"entropy"`` or ``"gain"``.
    """

    layer = Unicode()
    networks = List(Unicode())
    sample = Unicode()
    epoch = Int()
    settings = Instance(Settings, ())
    overlay = Unicode(ENTROPY)
    opacity = Float(0.7, min=0.0, max=1.0)
    azimuth = Int(Looks.azimuth, min=0, max=359)
    histogram = Enum(("entropy", "gain"), "entropy")

    def __init__(self, scene: Scene, **asked: Any) -> None:
        self._scene = scene
        super().__init__()
        self.layer = asked.pop("layer", None) or self._first_layer()
        self.networks = asked.pop("networks", self.networks)
        self.epoch = asked.pop("epoch", self.epochs[-1])
        self.sample = asked.pop("sample", scene.samples[0])
        self.settings = asked.pop("settings", self.settings)
        for name, value in asked.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a trait; a name that is none, such as a misspelt one, is refused."""
        if not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"a selection has no {name!r}; {suggest(name, sorted(self.trait_names()))}")
        super().__setattr__(name, value)

    def _first_layer(self) -> str:
        """Choose the first layer of which some epoch is finished."""
        *others, last = self._scene.layers
        for layer in others:
            try:
                self._scene.lineup.start(layer)
            except UnfinishedError:
                continue
            return layer
        return last

    @property
    def epochs(self) -> list[int]:
        """Epochs to choose from at this layer, of these networks."""
        return self._scene.lineup.epochs(self.layer, self.networks)

    @property
    def place(self) -> Place:
        """Everything that decides what is derived, apart from epoch and sample."""
        return Place(self.layer, tuple(self.networks), self.settings)

    @property
    def looks(self) -> Looks:
        """What changes the picture and derives nothing."""
        return Looks(self.overlay, self.opacity, self.azimuth)

    def as_parameters(self) -> dict[str, Any]:
        """Return everything selected by name, the settings one by one, as plain values."""
        traits = {name: getattr(self, name) for name in self.trait_names()}
        return dict(sorted((traits | asdict(traits.pop("settings"))).items()))

    @observe("layer", "networks")
    def _adapt(self, change: Any) -> None:
        """Move networks and epoch to what there is: the nearest epoch at or before the selected one."""
        with self.hold_trait_notifications():  # whoever listens sees all of it together
            if change.name == "layer":
                self.networks = self._carry(change.old, change.new)
            earlier = [epoch for epoch in self.epochs if epoch <= self.epoch]
            self.epoch = earlier[-1] if earlier else self.epochs[0]

    def _carry(self, before: str, layer: str) -> list[str]:
        lineup = self._scene.lineup
        return lineup.carry(self.networks, before, layer) if before else lineup.start(layer)

    @validate("layer")
    def _check_layer(self, proposal: dict) -> str:
        layer = _among("layer", proposal["value"], self._scene.layers)
        self._scene.lineup.epochs(
            layer, self._carry(self.layer, layer)
        )  # what cannot be read is not selected
        return layer

    @validate("networks")
    def _check_networks(self, proposal: dict) -> list[str]:
        try:
            return self._scene.lineup.check(self.layer, proposal["value"])
        except ValueError as error:
            raise TraitError(str(error)) from error

    @validate("settings")
    def _check_settings(self, proposal: dict) -> Settings:
        _among("coarsening", proposal["value"].coarsening, [*self._scene.grids.values()])
        return self._scene.resolve(proposal["value"], self.layer, self.networks[0])

    @validate("sample")
    def _check_sample(self, proposal: dict) -> str:
        return _among("sample", proposal["value"], self._scene.samples)

    @validate("epoch")
    def _check_epoch(self, proposal: dict) -> int:
        return _among("epoch", proposal["value"], self.epochs)

    @validate("overlay")
    def _check_overlay(self, proposal: dict) -> str:
        return _among("overlay", proposal["value"], self._scene.overlays.names)


def _among(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    try:
        return one_of(name, value, allowed)
    except ValueError as error:
        raise TraitError(str(error)) from error
