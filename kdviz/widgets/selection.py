"""The state of the app: what is selected, and nothing else."""

from dataclasses import asdict
from typing import Any

from traitlets import Enum, Float, HasTraits, Instance, Int, List, Unicode, observe, validate

from kdviz.analysis import Settings
from kdviz.arguments import one_of, suggest
from kdviz.errors import UnfinishedError
from kdviz.render.looks import ENTROPY, Looks
from kdviz.widgets.scene import Place, Scene


class Selection(HasTraits):
    """What is shown of a run.

    Setting a trait to what the run does not have raises ``ValueError``, to a value of another type or out of
    range ``TraitError``.
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
        Frozen: ``selection.settings = dataclasses.replace(selection.settings, threshold=0.3)``. A weight,
        unit gain or threshold of None becomes that of the measurement.
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
        """Select what is asked for by name of the trait, for None what is shown first."""
        self._scene = scene
        super().__init__()
        chosen = {name: value for name, value in asked.items() if value is not None}
        layers = [chosen.pop("layer")] if "layer" in chosen else scene.layers
        for layer in layers:  # the first of which some epoch is finished
            try:
                self.layer = layer
                break
            except UnfinishedError:
                if layer == layers[-1]:
                    raise
        self.networks = [*chosen.pop("networks", self.networks)]
        first = {"epoch": self.epochs[-1], "sample": scene.samples[0], "settings": self.settings}
        for name, value in (first | chosen).items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a trait; a name that is none, such as a misspelt one, is refused."""
        if not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"a selection has no {name!r}; {suggest(name, sorted(self.trait_names()))}")
        super().__setattr__(name, value)

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
                self.networks = self._scene.lineup.carry(self.networks, change.new)
            earlier = [epoch for epoch in self.epochs if epoch <= self.epoch]
            self.epoch = earlier[-1] if earlier else self.epochs[0]

    @validate("layer")
    def _check_layer(self, proposal: Any) -> str:
        layer, lineup = one_of("layer", proposal.value, self._scene.layers), self._scene.lineup
        lineup.epochs(layer, lineup.carry(self.networks, layer))  # what cannot be read is not selected
        return layer

    @validate("networks")
    def _check_networks(self, proposal: Any) -> list[str]:
        return self._scene.lineup.check(self.layer, proposal.value)

    @validate("settings")
    def _check_settings(self, proposal: Any) -> Settings:
        one_of("coarsening", proposal.value.coarsening, [*self._scene.grids.values()])
        return self._scene.resolve(proposal.value, self.layer, self.networks[0])

    @validate("sample", "epoch", "overlay")
    def _check_choice(self, proposal: Any) -> Any:
        scene, name = self._scene, proposal.trait.name
        allowed: dict[str, list[Any]] = {"sample": scene.samples, "epoch": self.epochs}
        allowed["overlay"] = scene.overlays.names
        return one_of(name, proposal.value, allowed[name])
