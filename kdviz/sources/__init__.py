"""Named data: where it lies, and what comes out of it. No torch, no network access."""

from kdviz.sources.checkpoints import find_checkpoints
from kdviz.sources.files import find_data
from kdviz.sources.image import (
    FASHION_CLASSES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageSet,
    denormalise,
    fashion_composites,
    image_folder,
    normalise,
)

__all__ = [
    "FASHION_CLASSES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ImageSet",
    "denormalise",
    "fashion_composites",
    "find_checkpoints",
    "find_data",
    "image_folder",
    "normalise",
]
