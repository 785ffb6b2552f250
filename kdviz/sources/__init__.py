"""Named data: where it lies, and what comes out of it. No torch, no network access."""

from kdviz.sources.checkpoints import find_checkpoints
from kdviz.sources.cloud import FURNITURE_CLASSES, CloudSet, furniture
from kdviz.sources.cloud_files import read_modelnet40, read_off, sample_surface
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
    "FURNITURE_CLASSES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "CloudSet",
    "ImageSet",
    "denormalise",
    "fashion_composites",
    "find_checkpoints",
    "find_data",
    "furniture",
    "image_folder",
    "normalise",
    "read_modelnet40",
    "read_off",
    "sample_surface",
]
