"""Images, with foreground masks or without, and what networks are fed of them. NumPy and Pillow only.

How a mask falls on units is the business of ``kdviz.units``.

Symbols: ``N`` images, ``H`` x ``W`` pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kdviz import units
from kdviz.errors import DataError
from kdviz.sources.samples import LazyArray, Prepared, SampleSet, require_array

T = TypeVar("T")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green and blue over ImageNet, for pixels in 0..1."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of red, green and blue over ImageNet, for pixels in 0..1."""

Colour = tuple[float, float, float]
_SHAPE = ("N", "H", "W", 3)
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # others may start programs, as EPS does


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ImageSet(SampleSet):
    """Images of one size with their classes and stable names, and, where known, their foreground.

    Parameters
    ----------
    images
        ``(N, H, W, 3)``, uint8, red, green, blue: an array, or one whose rows are read when indexed.
    masks
        ``(N, H, W)``, the same: bool, True on the object; or int8, 1, 0, and -1 where it is neither; or None.
    mean, std
        Of red, green and blue, for pixels in 0..1: by these, networks get the images normalised.
    labels
        ``(N,)``, int64, position in `classes`.
    sample_ids
        ``N`` different names that stay with an image whatever it is selected with.
    classes
        Names of the classes.
    split
        ``(N,)``, text: the partition each image belongs to.
    source
        Where the images come from, for records and captions.

    Raises
    ------
    TypeError
        If an array has another data type.
    ValueError
        If shapes disagree, names repeat or a label is outside `classes`.
    """

    images: NDArray[np.uint8] | LazyArray
    masks: NDArray[np.bool_] | NDArray[np.int8] | LazyArray | None = None
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD

    plural = "images"
    by_sample = ("images", "masks")

    def __post_init__(self) -> None:
        """Check shapes, data types, names and labels."""
        require_array("images", self.images, np.uint8, _SHAPE)
        if self.masks is not None:
            kind = np.int8 if self.masks.dtype == np.int8 else np.bool_
            require_array("masks", self.masks, kind, self.images.shape[:3])
        super().__post_init__()

    def prepare(self, *, grid: int = 16) -> Prepared:
        """Normalise the images, and cut them into `grid` x `grid` units."""
        images, (count, height, width, _) = self.images, self.images.shape
        turn = partial(normalise, mean=self.mean, std=self.std)
        lazy = LazyArray(lambda k: turn(images[[k]])[0], count, (3, height, width), np.float32)
        inputs = lazy if isinstance(images, LazyArray) else turn(images)
        return Prepared(inputs, units.grid(grid), self.masks, images)


def normalise(
    images: NDArray[np.uint8] | LazyArray, *, mean: Colour = IMAGENET_MEAN, std: Colour = IMAGENET_STD
) -> NDArray[np.float32]:
    """Turn pixels into what networks are fed: channels first, mean 0 and standard deviation 1.

    Parameters
    ----------
    images
        ``(N, H, W, 3)``, uint8.
    mean, std
        Of red, green and blue, for pixels in 0..1; those of ImageNet by default.

    Returns
    -------
    NDArray[np.float32]
        ``(N, 3, H, W)``: ``(pixel / 255 - mean) / std``, contiguous.

    Raises
    ------
    TypeError, ValueError
        If `images` has another data type or shape.
    """
    require_array("images", images, np.uint8, _SHAPE)
    images = np.asarray(images)
    scale = 1 / (255 * np.array(std))
    shift = np.array(mean) / np.array(std)
    scaled = images * scale.astype(np.float32) - shift.astype(np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def open_upright(path: Path) -> Image.Image:
    """Read an image, turned as its EXIF data says.

    Raises
    ------
    DataError
        If it is no file, or none of an image.
    """
    return _open(path, ImageOps.exif_transpose)


def open_stored(path: Path) -> Image.Image:
    """Read an image as it is stored, which is what boxes and masks of corpora count; errors as above."""
    return _open(path, Image.Image.copy)


def measure_stored(path: Path) -> tuple[int, int]:
    """Return width and height of an image as it is stored, without decoding it; errors as above."""
    return _open(path, attrgetter("size"))


def resize_image(image: Image.Image, size: int, path: Path) -> NDArray[np.uint8]:
    """Return colours, ``(size, size, 3)``, antialiased; the aspect ratio is not kept.

    Raises
    ------
    DataError
        If the pixels of the image, read from `path`, have more than 8 bits a channel.
    """
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{path} has pixels of mode {image.mode}; convert it to 8 bits a channel")
    return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def resize_marks(marks: NDArray[np.int8], size: int) -> NDArray[np.int8]:
    """Return marks, ``(size, size)``, of the nearest pixels."""
    drawn = Image.fromarray(np.ascontiguousarray(marks).view(np.uint8))
    return np.asarray(drawn.resize((size, size), Image.Resampling.NEAREST)).view(np.int8)


def read_values(mask: Image.Image) -> NDArray:
    """Return a mask's values, ``(H, W)``: grey of 1 to 32 bits, palette indices, the largest of colours."""
    if mask.mode in ("LA", "PA"):
        return np.asarray(mask)[..., 0]
    if mask.mode in ("1", "L", "P") or mask.mode.startswith(("I", "F")):
        return np.asarray(mask)
    return np.asarray(mask.convert("RGB")).max(axis=2)


def _open(path: Path, take: Callable[[Image.Image], T]) -> T:
    """Open an image and take something from it."""
    if not path.is_file():  # a pipe would be waited for without end
        raise DataError(f"{path} is not a file")
    try:
        with Image.open(path, formats=_FORMATS) as file:
            return take(file)
    except Exception as error:  # a damaged file makes the decoders raise nearly anything
        raise DataError(f"{path} cannot be read as an image: {error}") from error
