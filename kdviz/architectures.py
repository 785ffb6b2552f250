"""What the source papers fix per architecture: which layers they analyse, and with which constants.

After Zhang et al., "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for Classification",
TPAMI 2022, section 4.1, and the authors' published code; the weight for clouds after that of Shen et al.,
CVPR 2021.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
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


def _image(layers: str, weight: float, threshold: float = 0.2) -> ArchitecturePreset:
    modules = zip(("conv", "fc1", "fc2", "fc3"), layers.split(), strict=True)
    return ArchitecturePreset(MappingProxyType(dict(modules)), weight, threshold)


def _text(last: str | None = None) -> ArchitecturePreset:
    return ArchitecturePreset(
        layers=MappingProxyType({"hidden": "hidden", "cls": "cls"}),
        weight=6.0,  # our choice; the paper's layer is BERT's last hidden one
        threshold=0.2,
        modality="text",
        entry="encoder.embeddings",
        feature="identity",
        weights=MappingProxyType({} if last is None else {"hidden": last, "cls": last}),
    )


def _cloud(threshold: float) -> ArchitecturePreset:
    layers = MappingProxyType({name: f"head.{name}" for name in ("fc1", "fc2", "fc3")})
    return ArchitecturePreset(layers, 4.0, threshold, modality="cloud")


_RESNET = _image("top.conv2 head.fc1 head.fc2 head.fc3", 6.0)
_VGG_HEAD = "classifier.0 classifier.3 classifier.6"
IMAGE_PRESETS = MappingProxyType(
    {
        "alexnet": _image("features.10 classifier.1 classifier.4 classifier.6", 7.0, threshold=0.25),
        "resnet50": _RESNET,
        "resnet101": _RESNET,
        "resnet152": _RESNET,
        "small_vgg": _image("features.conv4 classifier.fc1 classifier.fc2 classifier.fc3", 7.0),
        "small_vgg_deep": _image("features.conv7 classifier.fc1 classifier.fc2 classifier.fc3", 7.0),
        "vgg11": _image(f"features.18 {_VGG_HEAD}", 7.0),
        "vgg16": _image(f"features.28 {_VGG_HEAD}", 7.0),
        "vgg19": _image(f"features.34 {_VGG_HEAD}", 7.0),
    }
)
TEXT_PRESETS = MappingProxyType(
    {
        "minilm": _text("encoder.encoder.layer.5.output.dense"),
        "small_bert": _text("encoder.encoder.layer.1.output.dense"),
    }
)
ENCODER_PRESET = _text()
"""Of an encoder of one's own; which weights stand for its layers says `models.encoders.last_weights`."""

CLOUD_PRESETS = MappingProxyType(
    {
        "dgcnn": _cloud(0.25),
        "pointconv": _cloud(0.25),
        "pointnet": _cloud(0.5),
        "pointnet2": _cloud(0.25),
        "small_pointnet": _cloud(0.5),
    }
)
PRESETS = MappingProxyType({**IMAGE_PRESETS, **TEXT_PRESETS, "encoder": ENCODER_PRESET, **CLOUD_PRESETS})
"""Layers and constants of every network, by name; their ``modality`` says which kind of input it takes."""
