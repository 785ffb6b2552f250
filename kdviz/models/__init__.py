"""Networks of the source papers by name, each with the papers' layers and constants.

Image networks hang on the package itself; point cloud networks, with functions of the same names, on `cloud`.

Importing this package also makes ``import torchvision`` work beside a CPU-only torch.
"""

from kdviz.models import cloud
from kdviz.models.image import PRESETS, build, list_models
from kdviz.models.presets import ArchitecturePreset
from kdviz.models.text import TextNetwork, load_minilm

__all__ = ["PRESETS", "ArchitecturePreset", "TextNetwork", "build", "list_models", "load_minilm"]
