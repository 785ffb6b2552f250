"""What the source papers fix per architecture: which layers they analyse, and with which constants.

After Zhang et al., "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for Classification",
TPAMI 2022, section 4.1, and the authors' published code; the weight for clouds after that of Shen et al.,
CVPR 2021.
"""

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
        Margin ``b`` in nat below the background mean at which a unit is a knowledge point. Those of VGG and
        ResNet are confirmed by a readable source, the others are not.
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
    modality: str = "image"
    entry: str | None = None
    feature: Literal["relu", "identity"] = "relu"
    weights: Mapping[str, str] = field(default_factory=dict)
