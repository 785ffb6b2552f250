"""What the source papers fix per architecture: which layers they analyse, and with which constants."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class ArchitecturePreset:
    """The papers' layers and constants for one architecture.

    Attributes
    ----------
    layers
        Maps the papers' layer names (``"conv"``, ``"fc1"``, ``"fc2"``, ``"fc3"``) to names in
        ``network.named_modules()``. Each named module gives the pre-activation feature that distillation
        matches, and has a ``weight``, whose movement is the papers' weight distance.
    weight
        Weight of the entropy term.
    threshold
        Margin ``b`` in nat below the background mean at which a unit is a knowledge point.
    threshold_verified
        False where `threshold` could not be confirmed from a readable source.
    source
        Where the constants come from.
    modality
        Kind of input: ``"image"``, ``"text"`` or ``"cloud"``.
    entry, feature
        As in :func:`kdviz.measure`.
    weights
        Module whose ``weight`` stands for a layer that has none, by the layer's module.
    """

    layers: Mapping[str, str]
    weight: float
    threshold: float
    threshold_verified: bool
    source: str
    modality: str = "image"
    entry: str | None = None
    feature: Literal["relu", "identity"] = "relu"
    weights: Mapping[str, str] = field(default_factory=dict)
