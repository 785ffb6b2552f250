"""The built-in images: items of clothing over photographs, with exact foreground. NumPy, Pillow and SciPy.

Symbols: ``N`` images.
"""

import functools
import json
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, field_validator

from kdviz.arguments import one_of, whole_number
from kdviz.sources.files import find_data, read_arrays
from kdviz.sources.image import ImageSet, open_upright
from kdviz.sources.samples import PARTS, LazyArray, Part, Source

FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"
)  # fmt: skip
"""The ten classes of Fashion-MNIST in the order of its labels."""

_ITEM_THRESHOLD = 10  # fainter pixels of a raw item are the resampling fringe around it
_SCALE = (0.6, 0.95)  # longer side of an item, in canvas sides
_OPEN_CLASSES = (FASHION_CLASSES.index("sandal"), FASHION_CLASSES.index("bag"))
_ZOOM_STEPS = (1.0, 1.5, 2.0, 3.0)  # side of the crop, in canvas sides


class FashionComposites(Source):
    """The built-in images, as `fashion_composites` composes them."""

    modality: ClassVar[str] = "image"

    kind: Literal["fashion-composites"] = "fashion-composites"
    size: int = Field(default=48, ge=28, le=128, description="height and width in pixels")
    classes: tuple[str, ...] = Field(default=(), description="only these, of `FASHION_CLASSES`; all if none")

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        for name in classes:
            one_of("class of fashion-composites", name, FASHION_CLASSES)
        if len(classes) == 1 or len({*classes}) < len(classes):
            raise ValueError(f"classes of fashion-composites must be several different ones, got {classes}")
        return classes

    def load(self, part: Part) -> ImageSet:
        """Compose images."""
        return fashion_composites(part, canvas=self.size).of_classes(self.classes or FASHION_CLASSES)


def fashion_composites(
    split: str = "train", *, count: int | None = None, canvas: int = 48, seed: int = 0
) -> ImageSet:
    """Compose Fashion-MNIST items over crops of real photographs, with the item's pixels as foreground.

    Every image is drawn from a generator keyed by (`seed`, split, raw item), so image k does not depend
    on `count`. Classes take turns: any multiple of ten images is balanced. Nothing about the background
    (photograph, place, zoom, mirroring, brightness) depends on the class, and the mean, contrast and tint
    of every item are drawn anew, so that its class lies in shape and texture alone.

    Parameters
    ----------
    split
        ``"train"``: 10,000 items over twelve photographs; ``"held-out"``: 2,000 items of the original
        test file over four other photographs.
    count
        How many images, all by default.
    canvas
        Side of the square image in pixels, 28..128.
    seed
        Another seed gives the same items other places, sizes, colours and backgrounds.

    Returns
    -------
    ImageSet
        ``images`` ``(count, canvas, canvas, 3)``, about a third of them foreground, composed when indexed.

    Raises
    ------
    ValueError
        If an argument is outside what is said above.
    DataError
        If the data files are missing or damaged.

    Notes
    -----
    Masks are exact because nothing is blended: a pixel is either the item's or the photograph's. A raw
    pixel belongs to the item if it exceeds the faint fringe or is enclosed by such pixels (dark fabric);
    in sandals and bags, enclosed openings at least 3 pixels wide stay open (between straps, under
    handles). The outline is enlarged with the item and cut at one half, and grey values are interpolated
    from item pixels only, so the raw image's black background does not bleed into the item.
    """
    one_of("split", split, PARTS)
    whole_number("canvas", canvas, 28, 128)
    whole_number("seed", seed)
    names = (f"{split.replace('-', '_')}_{kind}" for kind in ("images", "labels", "indices"))
    pixels, labels, indices = read_arrays("fashion_items.npz", *names)
    count = len(labels) if count is None else count
    whole_number("count", count, 1, len(labels))
    photographs = _load_photographs(split, canvas)

    @functools.cache
    def compose(k: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        rng = np.random.default_rng([seed, PARTS.index(split), int(indices[k])])
        image = _draw_background(photographs, canvas, rng)
        longer_side = round(canvas * rng.uniform(*_SCALE))
        item, outline = _enlarge_item(pixels[k], _outline_item(pixels[k], labels[k]), longer_side)
        height, width = outline.shape
        top, left = rng.integers(0, canvas - height + 1), rng.integers(0, canvas - width + 1)
        window = np.s_[top : top + height, left : left + width]
        mask = np.zeros((canvas, canvas), dtype=bool)
        mask[window] = outline
        image[window][outline] = _colour_item(item[outline], rng)
        return image, mask

    return ImageSet(
        images=LazyArray(lambda k: compose(k)[0], count, (canvas, canvas, 3), np.uint8),
        masks=LazyArray(lambda k: compose(k)[1], count, (canvas, canvas), np.bool_),
        labels=labels[:count].astype(np.int64),
        sample_ids=tuple(f"{split}-{index:05d}" for index in indices[:count]),
        classes=FASHION_CLASSES,
        split=np.full(count, split),
        source=f"fashion composites, {split}, canvas {canvas}, scale 0.6..0.95, seed {seed}",
    )


def _outline_item(pixels: NDArray[np.uint8], label: int) -> NDArray[np.bool_]:
    """Which raw pixels ``(28, 28)`` are the item: bright ones, what they enclose, no openings."""
    from scipy import ndimage  # heavy, and asked for when samples are made, not when a study is looked at

    bright = pixels > _ITEM_THRESHOLD
    filled = ndimage.binary_fill_holes(bright)
    if label in _OPEN_CLASSES:
        filled &= ~ndimage.binary_opening(filled & ~bright, np.ones((3, 3)))
    return filled


def _load_photographs(split: str, canvas: int) -> list[list[NDArray[np.uint8]]]:
    """Every photograph of the split at the sizes of the zoom steps that leave room for the canvas."""
    listing = json.loads(find_data("photographs.json").read_bytes())
    names = [entry["name"] for entry in listing if entry["split"] == split]
    photographs = []
    for name in names:
        photograph = open_upright(find_data(f"photographs/{name}.png")).convert("RGB")
        steps = [step for step in _ZOOM_STEPS if min(photograph.size) >= step * canvas]
        sizes = [(round(photograph.width / step), round(photograph.height / step)) for step in steps]
        photographs.append([np.asarray(photograph.resize(size, Image.Resampling.BOX)) for size in sizes])
    return photographs


def _draw_background(
    photographs: list[list[NDArray[np.uint8]]], canvas: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Cut a random crop ``(canvas, canvas, 3)``, mirrored or not, at a random brightness."""
    sizes = photographs[rng.integers(len(photographs))]
    photograph = sizes[rng.integers(len(sizes))]
    top = rng.integers(photograph.shape[0] - canvas + 1)
    left = rng.integers(photograph.shape[1] - canvas + 1)
    crop = photograph[top : top + canvas, left : left + canvas]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return np.rint((crop * rng.uniform(0.7, 1.2)).clip(0, 255)).astype(np.uint8)


def _enlarge_item(
    pixels: NDArray[np.uint8], outline: NDArray[np.bool_], longer_side: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Cut an item to its outline and bring it to a longer side; grey values count inside the outline only."""
    rows, columns = np.flatnonzero(outline.any(axis=1)), np.flatnonzero(outline.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    cut, covered = pixels[box], outline[box]
    factor = longer_side / max(cut.shape)
    height, width = (max(1, round(side * factor)) for side in cut.shape)

    def resize(array: NDArray[np.uint8]) -> NDArray[np.float64]:
        resized = Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized, dtype=np.float64)

    coverage = resize(covered.astype(np.uint8) * np.uint8(255)) / 255
    grey = resize(cut * covered) / np.maximum(coverage, 1 / 255)
    return grey, coverage >= 0.5


def _colour_item(grey: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw mean, contrast and a mild tint of an item's pixels ``(P,)``; returns ``(P, 3)``."""
    standard = ((grey - grey.mean()) / max(float(grey.std()), 1.0)).clip(-2, 2)
    level = rng.uniform(80, 190) + rng.uniform(20, 45) * (standard - standard.mean())
    tint = 1 - rng.uniform(0, 0.5) * rng.random(3)
    return np.rint((level[:, None] * tint).clip(0, 255)).astype(np.uint8)
