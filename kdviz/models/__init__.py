"""Networks of the source papers by name, each with the papers' layers and constants.

Image networks are made by ``build`` of this package, others by that of ``text`` and ``cloud``.

Importing this package also makes ``import torchvision`` work beside a CPU-only torch.
"""

from types import MappingProxyType

from kdviz.models import cloud, encoders, image, text
from kdviz.models.image import build
from kdviz.models.presets import ArchitecturePreset
from kdviz.models.text import SpanNetwork, TextNetwork

PRESETS = MappingProxyType({**image.PRESETS, **text.PRESETS, "encoder": encoders.PRESET, **cloud.PRESETS})
"""Layers and constants of every network, by name; their ``modality`` says which kind of input it takes."""

__all__ = [
    "PRESETS",
    "ArchitecturePreset",
    "SpanNetwork",
    "TextNetwork",
    "build",
    "cloud",
    "encoders",
    "image",
    "text",
]
