"""Named data: where it lies, and what comes out of it. No torch, no network access."""

from kdviz.sources.checkpoints import find_checkpoints
from kdviz.sources.cloud import FURNITURE_CLASSES, CloudSet, furniture
from kdviz.sources.cloud_files import read_modelnet40, read_off, sample_surface
from kdviz.sources.encoding import Encoding, encode, review_tokenizer
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
from kdviz.sources.samples import SampleSet
from kdviz.sources.text import (
    REVIEW_CLASSES,
    TextSet,
    movie_reviews,
    split_words,
)
from kdviz.sources.text_files import ANSWER_CLASSES, read_squad, read_sst2

__all__ = [
    "ANSWER_CLASSES",
    "FASHION_CLASSES",
    "FURNITURE_CLASSES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "REVIEW_CLASSES",
    "CloudSet",
    "Encoding",
    "ImageSet",
    "SampleSet",
    "TextSet",
    "denormalise",
    "encode",
    "fashion_composites",
    "find_checkpoints",
    "find_data",
    "furniture",
    "image_folder",
    "movie_reviews",
    "normalise",
    "read_modelnet40",
    "read_off",
    "read_squad",
    "read_sst2",
    "review_tokenizer",
    "sample_surface",
    "split_words",
]
