"""The user's own images: folders of images and, where there are any, of masks. NumPy and Pillow only."""

import functools
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat

from kdviz.arguments import name_some, whole_number
from kdviz.errors import DataError
from kdviz.sources.image import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Colour,
    ImageSet,
    open_upright,
    read_values,
    resize_image,
    resize_marks,
)
from kdviz.sources.samples import AbsolutePath, LazyArray, OwnSource, check_folder, find_classes
from kdviz.units.regions import MaskRule, as_tuple

_IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class ImageFolder(OwnSource):
    """The user's own images, as `image_folder` reads them; a fifth of every class is held out."""

    modality: ClassVar[str] = "image"

    kind: Literal["image-folder"] = "image-folder"
    images: AbsolutePath = Field(description="folder with one folder of images a class")
    masks: AbsolutePath | None = Field(
        default=None, description="folder with the masks, under the same names"
    )
    size: int = Field(default=48, ge=8, description="height and width in pixels")
    foreground: tuple[int, ...] = Field(default=(), description="values of the object in masks")
    void: tuple[int, ...] = Field(default=(), description="values of neither object nor background")
    threshold: float | None = Field(default=None, description="smallest value of the object")
    mean: Colour = Field(default=IMAGENET_MEAN, description="of red, green, blue in 0..1, as in training")
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        default=IMAGENET_STD, description="standard deviations of them"
    )

    def read(self) -> ImageSet:
        """Find the images."""
        check_folder("images (--images)", self.images)
        if self.masks is not None:
            check_folder("masks (--masks)", self.masks)
        options = self.model_dump(include={"masks", "size", "foreground", "void", "threshold"})
        return replace(image_folder(self.images, **options), mean=self.mean, std=self.std)


def image_folder(
    root: str | Path,
    *,
    masks: str | Path | None = None,
    size: int,
    foreground: Collection[float] | float = (),
    void: Collection[float] | float = (),
    threshold: float | None = None,
) -> ImageSet:
    """Find the user's own images and their foreground masks; each is read when it is indexed.

    Images lie at ``root/<class>/<name>.jpg`` (or another common suffix), masks in a parallel tree at
    ``masks/<class>/<name>.png`` (or another), of the same size as the image. Both are turned as their EXIF
    data says; transparency is not looked at. Masks hold grey values of 1 to 32 bits, palette indices, or
    colours, of which the largest of the three counts.

    Parameters
    ----------
    root
        Folder with one folder per class; labels follow their names, sorted. Hidden files, other suffixes and
        deeper folders are passed over.
    masks
        Folder with the masks; None for images whose foreground is unknown.
    size
        Height and width in pixels: images are resized to it with antialiased bilinear interpolation, masks
        with the nearest pixel, the aspect ratio is not kept.
    foreground, void, threshold
        What the values of the masks mean, as in :func:`kdviz.units.read_mask`. Without them the values of all
        masks together tell, which are read for it once, when the first mask is.

    Returns
    -------
    ImageSet
        In the order of classes, then names; identifiers are ``<class>/<name>``. Masks are int8: 1 on the
        object, 0 beside it, -1 void.

    Raises
    ------
    ValueError
        If `size` is not positive, two images share a name, or `foreground`, `void` and `threshold` contradict
        each other.
    DataError
        If a folder is missing or holds no classes or images, or a mask is missing; on reading, if an image
        or mask is damaged or of another size than its partner, or values of masks are of no known kind.
    """
    root = Path(root)
    whole_number("size", size, 1)
    given = MaskRule(as_tuple(foreground), as_tuple(void), threshold)
    names = find_classes(root)
    paths = [path for name in names for path in _list_images(root / name)]
    sample_ids = tuple(f"{path.parent.name}/{path.stem}" for path in paths)
    found = [] if masks is None else _find_masks(Path(masks), sample_ids)

    @functools.cache
    def learn_rule() -> MaskRule:
        if given.foreground or given.threshold is not None:
            return given
        counted = Counter[float]()
        for path in found:
            values, counts = np.unique(read_values(open_upright(path)), return_counts=True)
            counted.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        values = np.array(sorted(counted))
        try:
            return given.settle(
                values, np.array([counted[value] for value in values.tolist()]), f"{masks} hold"
            )
        except ValueError as error:
            raise DataError(f"the masks in {error} (in study.yaml, of data)") from error

    def read_image(k: int) -> NDArray[np.uint8]:
        return resize_image(open_upright(paths[k]), size, paths[k])

    def read_mask(k: int) -> NDArray[np.int8]:
        return _read_mask(found[k], paths[k], size, learn_rule())

    count = len(paths)
    return ImageSet(
        images=LazyArray(read_image, count, (size, size, 3), np.uint8),
        masks=None if masks is None else LazyArray(read_mask, count, (size, size), np.int8),
        labels=np.array([names.index(path.parent.name) for path in paths], dtype=np.int64),
        sample_ids=sample_ids,
        classes=names,
        split=np.full(count, "all"),
        source=f"image folder {root.name}, {size} x {size}",
    )


def _list_images(folder: Path) -> list[Path]:
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    paths = [path for path in visible if path.suffix.lower() in _IMAGE_SUFFIXES]
    if not paths:
        raise DataError(f"{folder} holds no images ({', '.join(sorted(_IMAGE_SUFFIXES))})")
    return paths


def _find_masks(folder: Path, sample_ids: Collection[str]) -> list[Path]:
    """Find the mask of every image, of several the first by suffix."""
    here = sorted(folder.glob("*/*"), reverse=True)
    known = {
        f"{path.parent.name}/{path.stem}": path for path in here if path.suffix.lower() in _IMAGE_SUFFIXES
    }
    if missing := [f"{name}.png" for name in sample_ids if name not in known]:
        raise DataError(f"{folder} lacks the masks of {len(missing)} images: {name_some(missing)}")
    return [known[name] for name in sample_ids]


def _read_mask(path: Path, image_path: Path, size: int, rule: MaskRule) -> NDArray[np.int8]:
    """Read the mask of an image as marks, resized to a square."""
    marks, image = rule.mark(read_values(open_upright(path))), open_upright(image_path)
    height, width = marks.shape
    if image.size != (width, height):
        shown = f"its image {image_path.name} is {image.width} x {image.height} as displayed"
        raise DataError(f"{path} is {width} x {height} pixels, {shown}; sizes must agree")
    return resize_marks(marks, size)
