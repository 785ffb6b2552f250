"""Named data: where it lies, and what comes out of it. No torch, no network access.

A reader is a module with a subclass of `Source`, and a line in `Data`.
"""

from typing import Annotated

from pydantic import Field

from kdviz.sources.checkpoints import find_checkpoints
from kdviz.sources.cloud import FURNITURE_CLASSES, CloudSet, Furniture, furniture
from kdviz.sources.cloud_files import ModelNet40, read_modelnet40
from kdviz.sources.coco import CocoTopTen
from kdviz.sources.cub import Cub
from kdviz.sources.domains import DOMAINS, cue_conflict, make_domain
from kdviz.sources.fashion import FASHION_CLASSES, FashionComposites, fashion_composites
from kdviz.sources.files import find_data
from kdviz.sources.folders import ImageFolder, image_folder
from kdviz.sources.ilsvrc import TERRESTRIAL_MAMMALS, IlsvrcDet, TinyImageNet
from kdviz.sources.image import ImageSet, normalise
from kdviz.sources.meshes import read_mesh
from kdviz.sources.questions import GeneratedQuestions, QuestionSet, generated_questions
from kdviz.sources.reviews import MovieReviews, movie_reviews
from kdviz.sources.samples import LazyArray, OwnSource, Prepared, SampleSet, Source
from kdviz.sources.text import Encoding, TextSet, encode
from kdviz.sources.text_files import LabelledTexts, Squad, Sst2, read_squad, read_sst2, read_texts
from kdviz.sources.tokenizing import review_tokenizer
from kdviz.sources.voc import VOC_CLASSES, Voc2012
from kdviz.sources.words import split_words

Data = Annotated[
    FashionComposites
    | ImageFolder
    | Cub
    | Voc2012
    | IlsvrcDet
    | CocoTopTen
    | TinyImageNet
    | MovieReviews
    | LabelledTexts
    | Sst2
    | Squad
    | GeneratedQuestions
    | Furniture
    | ModelNet40,
    Field(discriminator="kind"),
]
"""Every kind of data that a study can be about."""

__all__ = [
    "DOMAINS",
    "FASHION_CLASSES",
    "FURNITURE_CLASSES",
    "TERRESTRIAL_MAMMALS",
    "VOC_CLASSES",
    "CloudSet",
    "CocoTopTen",
    "Cub",
    "Data",
    "Encoding",
    "FashionComposites",
    "Furniture",
    "GeneratedQuestions",
    "IlsvrcDet",
    "ImageFolder",
    "ImageSet",
    "LabelledTexts",
    "LazyArray",
    "ModelNet40",
    "MovieReviews",
    "OwnSource",
    "Prepared",
    "QuestionSet",
    "SampleSet",
    "Source",
    "Squad",
    "Sst2",
    "TextSet",
    "TinyImageNet",
    "Voc2012",
    "cue_conflict",
    "encode",
    "fashion_composites",
    "find_checkpoints",
    "find_data",
    "furniture",
    "generated_questions",
    "image_folder",
    "make_domain",
    "movie_reviews",
    "normalise",
    "read_mesh",
    "read_modelnet40",
    "read_squad",
    "read_sst2",
    "read_texts",
    "review_tokenizer",
    "split_words",
]
