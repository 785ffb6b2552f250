"""Networks of the source papers by name, each with the papers' layers and constants.

Importing this package also makes ``import torchvision`` work beside a CPU-only torch.
"""

from kdviz.models.image import PRESETS, build, list_models
from kdviz.models.presets import ArchitecturePreset

__all__ = ["PRESETS", "ArchitecturePreset", "build", "list_models"]
