"""The state of the app: what is selected, and nothing else."""

import difflib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from traitlets import Enum, Float, HasTraits, Int, TraitError, Unicode, observe, validate

from kdviz.errors import UnfinishedError
from kdviz.render.looks import ENTROPY, Looks
from kdviz.widgets.derivation import EntropySettings, PointSettings
from kdviz.widgets.scene import Place, Scene


class Selection(HasTraits):
    """What is shown of a run. Setting a trait to what the run does not have raises ``TraitError``.

    Changing `layer` or `seed` moves the other traits to what is there. A layer or seed that cannot be read is
    refused with the error of reading it.

    Attributes
    ----------
    layer, seed, sample, epoch
        Layer, training seed of student and baseline, sample, and completed training epochs.
    threshold, background
        ``threshold`` and ``baseline`` of :func:`kdviz.find_points`.
    solver, weight
        As in :func:`kdviz.derive_entropy`.
    calibration
        ``"entropy"``: on a mean entropy, `target`; ``"loss"``: on `feature_loss`; ``"none"``: none at all.
    target, feature_loss
        As in :func:`kdviz.derive_entropy`.
    coarsening
        Cells a side that are merged into one unit.
    overlay, opacity
        ``"entropy"`` or an attribution method, and how much of it covers the picture.
    azimuth
        Where the viewer of a cloud stands, in degrees; see :func:`kdviz.render.project_cloud`.
    histogram
        ``"entropy"`` or ``"gain"``.
    """

    layer = Unicode()
    seed = Int()
    sample = Unicode()
    epoch = Int()
    threshold = Float(0.2, min=0.0)
    background = Enum(("checkpoint", "sample"), "checkpoint")
    solver = Enum(("descent", "optimum"), "descent")
    weight = Float(7.0, min=1e-3)
    calibration = Enum(("entropy", "loss", "none"), "entropy")
    target = Float(0.386)
    feature_loss = Float(1.5, min=1e-3)
    coarsening = Int(1)
    overlay = Unicode(ENTROPY)
    opacity = Float(0.7, min=0.0, max=1.0)
    azimuth = Int(Looks.azimuth, min=0, max=359)
    histogram = Enum(("entropy", "gain"), "entropy")

    def __init__(self, scene: Scene, **asked: Any) -> None:
        self._scene = scene
        super().__init__()
        self.layer = asked.pop("layer", None) or self._first_layer()
        self.seed = asked.pop("seed", self.seed)
        self.epoch = asked.pop("epoch", self.epochs[-1])
        self.sample = asked.pop("sample", scene.samples[0])
        measured = next(iter(scene.measured(self.layer, self.seed).values()))
        self.weight = float(measured.attrs.get("weight", 7.0))
        self.threshold = float(scene.config.get("threshold", 0.2))
        for name, value in asked.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a trait; a name that is none, such as a misspelt one, is refused."""
        if not name.startswith("_") and not hasattr(type(self), name):
            near = difflib.get_close_matches(name, self.trait_names(), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(self.trait_names()))}"
            raise AttributeError(f"a selection has no {name!r}; {hint}")
        super().__setattr__(name, value)

    def _first_layer(self) -> str:
        """Choose the first layer of which some epoch is finished."""
        *others, last = self._scene.layers
        for layer in others:
            with suppress(UnfinishedError):
                if self._scene.networks(layer, self._scene.seeds(layer)[0]):
                    return layer
        return last

    @property
    def seeds(self) -> list[int]:
        """Training seeds to choose from at this layer."""
        return self._scene.seeds(self.layer)

    @property
    def epochs(self) -> list[int]:
        """Epochs to choose from at this layer and seed."""
        return self._scene.epochs(self.layer, self.seed)

    @property
    def place(self) -> Place:
        """Everything that decides what is derived, apart from epoch and sample."""
        return Place(
            layer=self.layer,
            seed=self.seed,
            entropies=EntropySettings(
                solver=self.solver,
                weight=self.weight,
                calibration=self.target if self.calibration == "entropy" else None,
                feature_loss=self.feature_loss if self.calibration == "loss" else None,
                coarsening=self.coarsening,
            ),
            points=PointSettings(threshold=self.threshold, background=self.background),
        )

    @property
    def looks(self) -> Looks:
        """What changes the picture and derives nothing."""
        return Looks(self.overlay, self.opacity, self.azimuth)

    def as_parameters(self) -> dict[str, str | int | float]:
        """Give every trait by name, as ``explore`` and the notebook ``02_explore`` take them."""
        return {name: getattr(self, name) for name in sorted(self.trait_names())}

    @observe("layer", "seed")
    def _adapt(self, change: Any) -> None:
        """Move seed and epoch to what there is: the nearest epoch at or before the selected one."""
        with self.hold_trait_notifications():  # whoever listens sees the two together
            if self.seed not in self.seeds:
                self.seed = self.seeds[0]
            earlier = [epoch for epoch in self.epochs if epoch <= self.epoch]
            self.epoch = earlier[-1] if earlier else self.epochs[0]

    @validate("layer")
    def _check_layer(self, proposal: dict) -> str:
        layer = _one_of("layer", proposal["value"], self._scene.layers)
        self._scene.epochs(layer, self._scene.seeds(layer)[0])  # a layer that cannot be read is not selected
        return layer

    @validate("sample")
    def _check_sample(self, proposal: dict) -> str:
        return _one_of("sample", proposal["value"], self._scene.samples)

    @validate("seed")
    def _check_seed(self, proposal: dict) -> int:
        seed = _one_of("seed", proposal["value"], self.seeds)
        self._scene.epochs(self.layer, seed)
        return seed

    @validate("epoch")
    def _check_epoch(self, proposal: dict) -> int:
        return _one_of("epoch", proposal["value"], self.epochs)

    @validate("coarsening")
    def _check_coarsening(self, proposal: dict) -> int:
        return _one_of("coarsening", proposal["value"], list(self._scene.grids.values()))

    @validate("overlay")
    def _check_overlay(self, proposal: dict) -> str:
        return _one_of("overlay", proposal["value"], self._scene.overlays)


def _one_of(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    if value in allowed:
        return value
    near = difflib.get_close_matches(value, allowed, n=3) if isinstance(value, str) else []
    listed = ", ".join(map(str, allowed[:20])) + (", ..." if len(allowed) > 20 else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"this run has {listed}"
    raise TraitError(f"{name} is {value!r}; {hint}")
