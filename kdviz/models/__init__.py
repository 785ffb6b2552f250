"""Networks of the source papers by name, each with the papers' layers and constants.

Image networks are made by ``build`` of this package, others by that of ``text`` and ``cloud``.

Importing this package also makes ``import torchvision`` work beside a CPU-only torch.
"""

from kdviz.architectures import PRESETS, ArchitecturePreset
from kdviz.models import cloud, encoders, image, text
from kdviz.models.image import build
from kdviz.models.text import SpanNetwork, TextNetwork

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
