"""The user's own images: folders of images and of masks. NumPy and Pillow only."""

import functools
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from kdviz.arguments import name_some, whole_number
from kdviz.errors import DataError
from kdviz.sources.image import ImageSet, open_upright
from kdviz.sources.samples import AbsolutePath, LazyArray, Part, Source, find_classes

_IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_KEPT = 64  # images in memory, so that a picture and its mask are one reading


class ImageFolder(Source):
    """The user's own images, as `image_folder` reads them; a fifth of every class is held out."""

    modality: ClassVar[str] = "image"

    kind: Literal["image-folder"] = "image-folder"
    images: AbsolutePath = Field(description="folder with one folder of images a class")
    masks: AbsolutePath = Field(description="folder with the masks, under the same names")
    size: int = Field(default=48, ge=16, le=512, description="height and width in pixels")

    def load(self, part: Part) -> ImageSet:
        """Find the images of a part."""
        return image_folder(self.images, masks=self.masks, size=self.size).divide(part)


def image_folder(root: str | Path, *, masks: str | Path, size: int) -> ImageSet:
    """Find the user's own images with their foreground masks; each is read when it is indexed.

    Images lie at ``root/<class>/<name>.jpg`` (or another common suffix), masks in a parallel tree at
    ``masks/<class>/<name>.png``, of the same size as the image. In a mask, pixels above 0 are
    foreground: grey values, palette indices (so that the VOC palette reads as drawn) or any of the three
    colours; transparency is not looked at, in images neither. Images are turned as their EXIF data says.

    Parameters
    ----------
    root
        Folder with one folder per class; labels follow their names, sorted. Hidden files, other suffixes and
        deeper folders are passed over.
    masks
        Folder with the masks.
    size
        Height and width in pixels: images are resized to it with antialiased bilinear interpolation, masks
        with the nearest pixel, the aspect ratio is not kept.

    Returns
    -------
    ImageSet
        In the order of classes, then names; identifiers are ``<class>/<name>``.

    Raises
    ------
    ValueError
        If `size` is not positive, or two images share a name.
    DataError
        If a folder is missing or holds no classes or images, or a mask is missing; on reading, if an image
        or mask is damaged or of another size than its partner.
    """
    root, masks = Path(root), Path(masks)
    whole_number("size", size, 1)
    names = find_classes(root)
    paths = [path for name in names for path in _list_images(root / name)]
    sample_ids = tuple(f"{path.parent.name}/{path.stem}" for path in paths)
    if missing := [f"{name}.png" for name in sample_ids if not (masks / f"{name}.png").is_file()]:
        raise DataError(f"{masks} lacks the masks of {len(missing)} images: {name_some(missing)}")

    @functools.lru_cache(maxsize=_KEPT)
    def read_pair(k: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        return _read_pair(paths[k], masks / f"{sample_ids[k]}.png", size)

    return ImageSet(
        images=LazyArray(lambda k: read_pair(k)[0], len(paths), (size, size, 3), np.uint8),
        masks=LazyArray(lambda k: read_pair(k)[1], len(paths), (size, size), np.bool_),
        labels=np.array([names.index(path.parent.name) for path in paths], dtype=np.int64),
        sample_ids=sample_ids,
        classes=names,
        split=np.full(len(paths), "all"),
        source=f"image folder {root.name}, {size} x {size}",
    )


def _list_images(folder: Path) -> list[Path]:
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    paths = [path for path in visible if path.suffix.lower() in _IMAGE_SUFFIXES]
    if not paths:
        raise DataError(f"{folder} holds no images ({', '.join(sorted(_IMAGE_SUFFIXES))})")
    return paths


def _read_pair(image_path: Path, mask_path: Path, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Read an image and its mask, resized to squares."""
    image, mask = open_upright(image_path), open_upright(mask_path)
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{image_path} has pixels of mode {image.mode}; convert it to 8 bits a channel")
    if image.size != mask.size:
        shown = f"its image {image_path.name} is {image.width} x {image.height} as displayed"
        raise DataError(f"{mask_path} is {mask.width} x {mask.height} pixels, {shown}; sizes must agree")
    values = np.asarray(mask.convert("RGB") if mask.mode in ("LA", "PA", "RGBA") else mask) > 0
    drawn = Image.fromarray(values.any(axis=2) if values.ndim == 3 else values)
    pixels = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(pixels), np.asarray(drawn.resize((size, size), Image.Resampling.NEAREST))
