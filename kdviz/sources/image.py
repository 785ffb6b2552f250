"""Images with foreground masks, and what networks are fed of them. NumPy and Pillow only.

How a mask falls on units is the business of ``kdviz.units``.

Symbols: ``N`` images, ``H`` x ``W`` pixels.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from kdviz import units
from kdviz.errors import DataError
from kdviz.sources.samples import LazyArray, Prepared, SampleSet, describe, require_array

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green and blue over ImageNet, for pixels in 0..1."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of red, green and blue over ImageNet, for pixels in 0..1."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # others may start programs, as EPS does


@dataclass(frozen=True, eq=False)
class ImageSet(SampleSet):
    """Images of one size with their foreground, classes and stable names.

    Parameters
    ----------
    images
        ``(N, H, W, 3)``, uint8, red, green, blue: an array, or one whose rows are read when indexed.
    masks
        ``(N, H, W)``, bool, True on the object, the same.
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
    masks: NDArray[np.bool_] | LazyArray
    labels: NDArray[np.int64]
    sample_ids: tuple[str, ...]
    classes: tuple[str, ...]
    split: NDArray[np.str_]
    source: str

    plural = "images"
    by_sample = ("images", "masks")

    def __post_init__(self) -> None:
        """Check shapes, data types, names and labels."""
        _require_images(self.images)
        require_array("masks", self.masks, np.bool_)
        if self.masks.shape != self.images.shape[:3]:
            raise ValueError(
                f"masks must have shape {self.images.shape[:3]} as images, got {self.masks.shape}"
            )
        self._check_names(len(self.images))

    def __repr__(self) -> str:
        """Say how many images of which size, without printing any."""
        height, width = self.images.shape[1:3]
        return f"ImageSet({len(self)} images of {height} x {width}, {self.source!r})"

    def prepare(self, *, grid: int = 16) -> Prepared:
        """Normalise the images, and cut them into `grid` x `grid` units."""
        images = self.images
        if isinstance(images, LazyArray):
            shape = (3, *images.shape[1:3])
            inputs = images.map(lambda image: normalise(image[None])[0], shape, np.float32)
            return Prepared(inputs, units.grid(grid), self.masks, images)
        return Prepared(normalise(images), units.grid(grid), self.masks, images)


def normalise(images: NDArray[np.uint8] | LazyArray) -> NDArray[np.float32]:
    """Turn pixels into what networks are fed: channels first, ImageNet mean 0 and standard deviation 1.

    Parameters
    ----------
    images
        ``(N, H, W, 3)``, uint8.

    Returns
    -------
    NDArray[np.float32]
        ``(N, 3, H, W)``: ``(pixel / 255 - IMAGENET_MEAN) / IMAGENET_STD``, contiguous.

    Raises
    ------
    TypeError, ValueError
        If `images` has another data type or shape.
    """
    _require_images(images)
    images = np.asarray(images)
    scale = 1 / (255 * np.array(IMAGENET_STD))
    shift = np.array(IMAGENET_MEAN) / np.array(IMAGENET_STD)
    scaled = images * scale.astype(np.float32) - shift.astype(np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def denormalise(inputs: ArrayLike) -> NDArray[np.uint8]:
    """Turn network inputs back into pixels for display: the inverse of `normalise`, clipped to 0..255.

    Parameters
    ----------
    inputs
        ``(N, 3, H, W)``, float, as from `normalise`.

    Returns
    -------
    NDArray[np.uint8]
        ``(N, H, W, 3)``.

    Raises
    ------
    ValueError
        If `inputs` has another shape.
    """
    array = np.asarray(inputs)
    if array.ndim != 4 or array.shape[1] != 3:
        raise ValueError(f"inputs must have shape (N, 3, H, W), got {array.shape}")
    pixels = (array.transpose(0, 2, 3, 1) * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)) * 255
    return np.rint(pixels.clip(0, 255)).astype(np.uint8)


def _require_images(images: object) -> None:
    if not (isinstance(images, (np.ndarray, LazyArray)) and images.dtype == np.uint8):
        raise TypeError(f"images must be a NumPy array of uint8, got {describe(images)}")
    if images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images must have shape (N, H, W, 3), got {images.shape}")


def open_upright(path: Path) -> Image.Image:
    """Read an image, turned as its EXIF data says.

    Raises
    ------
    DataError
        If it is no file, or none of an image.
    """
    if not path.is_file():  # a pipe would be waited for without end
        raise DataError(f"{path} is not a file")
    try:
        with Image.open(path, formats=_FORMATS) as file:
            return ImageOps.exif_transpose(file)
    except Exception as error:  # a damaged file makes the decoders raise nearly anything
        raise DataError(f"{path} cannot be read as an image: {error}") from error
