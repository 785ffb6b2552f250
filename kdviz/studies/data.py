"""Kinds of data as parts of a plan: where samples come from, and how networks and measuring take them."""

import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from kdviz import units
from kdviz.errors import DataError, KdvizWarning
from kdviz.sources import (
    CloudSet,
    ImageSet,
    TextSet,
    encode,
    fashion_composites,
    furniture,
    image_folder,
    movie_reviews,
    normalise,
    read_modelnet40,
    read_sst2,
    review_tokenizer,
)
from kdviz.units import Units

ResolvedPath = Annotated[Path, AfterValidator(lambda path: path.expanduser().resolve())]
_HELD_OUT_SHARE = 0.2


class DataModel(BaseModel):
    """What kinds of data share."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    modality: ClassVar[str]


@dataclass(frozen=True)
class Prepared:
    """Samples as networks and measuring take them; pictures where units do not show themselves."""

    inputs: NDArray[Any]
    units: Units
    foreground: NDArray[np.bool_]
    pictures: NDArray[np.uint8] | None = None


class FashionComposites(DataModel):
    """The built-in images."""

    kind: Literal["fashion-composites"] = "fashion-composites"
    size: int = Field(default=48, ge=16, le=512)
    modality: ClassVar[str] = "image"

    def load(self, part: str) -> ImageSet:
        """Load the samples of ``"train"`` or ``"held-out"``."""
        return fashion_composites(part, canvas=self.size)


class ImageFolder(DataModel):
    """Images and masks as :func:`kdviz.sources.image_folder` reads them."""

    kind: Literal["image-folder"] = "image-folder"
    images: ResolvedPath
    masks: ResolvedPath
    size: int = Field(default=48, ge=16, le=512)
    modality: ClassVar[str] = "image"

    def load(self, part: str) -> ImageSet:
        """Load the samples of ``"train"`` or ``"held-out"``."""
        everything = image_folder(self.images, masks=self.masks, size=self.size)
        chosen = divide(everything, part)
        return replace(chosen, split=np.full(len(chosen), part))


class MovieReviews(DataModel):
    """The built-in sentences; `length` is the most tokens of one."""

    kind: Literal["movie-reviews"] = "movie-reviews"
    length: int = Field(default=96, ge=3, le=512)
    modality: ClassVar[str] = "text"

    def load(self, part: str) -> TextSet:
        """Load the samples of ``"train"`` or ``"held-out"``."""
        return movie_reviews(part)


class Sst2(DataModel):
    """Sentences as :func:`kdviz.sources.read_sst2` reads them."""

    kind: Literal["sst2"] = "sst2"
    file: ResolvedPath
    length: int = Field(default=96, ge=3, le=512)
    modality: ClassVar[str] = "text"

    def load(self, part: str) -> TextSet:
        """Load the samples of ``"train"`` or ``"held-out"``."""
        chosen = divide(read_sst2(self.file), part)
        return replace(chosen, split=np.full(len(chosen), part))


class Furniture(DataModel):
    """The built-in clouds."""

    kind: Literal["furniture"] = "furniture"
    points: int = Field(default=256, ge=2)
    background: int = Field(default=128, ge=1)
    count: int = Field(default=5016, ge=22)
    modality: ClassVar[str] = "cloud"

    def load(self, part: str) -> CloudSet:
        """Load the samples of ``"train"`` or ``"held-out"``."""
        count = self.count if part == "train" else 440
        return furniture(part, count=count, points=self.points, background=self.background)


class ModelNet40(DataModel):
    """Clouds as :func:`kdviz.sources.read_modelnet40` reads them."""

    kind: Literal["modelnet40"] = "modelnet40"
    folder: ResolvedPath
    points: int = Field(default=256, ge=2)
    background: int = Field(default=128, ge=1)
    modality: ClassVar[str] = "cloud"

    def load(self, part: str) -> CloudSet:
        """Load the samples of ``"train"`` or ``"held-out"``."""
        return read_modelnet40(self.folder, part, points=self.points, background=self.background)


Data = Annotated[
    FashionComposites | ImageFolder | MovieReviews | Sst2 | Furniture | ModelNet40,
    Field(discriminator="kind"),
]


@lru_cache(1)
def _tokenizer() -> Any:
    return review_tokenizer()


def prepare(data: Any, samples: Any, grid: int | None) -> Prepared:
    """Bring samples into the form that networks and measuring take."""
    if data.modality == "image":
        return Prepared(normalise(samples.images), units.grid(grid or 16), samples.masks, samples.images)
    if data.modality == "text":
        encoding = encode(samples, _tokenizer(), length=data.length)
        return Prepared(encoding.ids, encoding.units, encoding.texts.foreground_mask)
    return Prepared(samples.clouds, units.cloud(samples.clouds.shape[1]), samples.masks)


def choose(data: Any, samples: Any, count: int) -> Any:
    """Pick the samples to measure: the first ones, of texts those with words of both kinds."""
    if data.modality != "text":
        return samples.select(np.arange(min(count, len(samples))))
    masks = encode(samples, _tokenizer(), length=data.length).texts.foreground
    both = np.flatnonzero([bool(mask.any() and not mask.all()) for mask in masks])
    if not len(both):
        raise DataError(
            f"no text of {samples.source} has both words that the sentiment lexicon rates, the "
            "foreground, and others to compare them with; with masks of your own, use kdviz.measure"
        )
    if len(both) < count:
        warnings.warn(
            f"only {len(both)} texts have words of both kinds; these are measured, not {count}",
            KdvizWarning,
            stacklevel=2,
        )
    return samples.select(both[:count])


def divide(everything: Any, part: str) -> Any:
    """Hold out a fifth of the user's own samples, class by class, by nothing but their number."""
    order = np.random.default_rng(0).permutation(len(everything))
    order = order[np.argsort(everything.labels[order], kind="stable")]
    held_out = np.arange(len(order)) % round(1 / _HELD_OUT_SHARE) == 0
    chosen = order[held_out] if part == "held-out" else order[~held_out]
    return everything.select(np.random.default_rng(1).permutation(chosen))
