"""Images with exact foreground masks: the built-in fashion composites, and the user's own folders.

NumPy and Pillow only. What networks are fed comes from `normalise`; how a mask falls on units is the
business of ``kdviz.units``.

Symbols: ``N`` images, ``H`` x ``W`` pixels, ``B`` background photographs.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from kdviz.errors import DataError, DegenerateWarning
from kdviz.sources.files import find_data
from kdviz.sources.samples import (
    SampleSet,
    describe,
    find_repeated,
    list_some,
    require_array,
    require_integer,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of red, green and blue over ImageNet, for pixels in 0..1."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of red, green and blue over ImageNet, for pixels in 0..1."""

FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"
)  # fmt: skip
"""The ten classes of Fashion-MNIST in the order of its labels."""

_SPLITS = ("train", "held-out")
_CANVAS_LIMITS = (28, 128)
_ITEM_THRESHOLD = 10  # fainter pixels of a raw item are the resampling fringe around it
_OPEN_CLASSES = (FASHION_CLASSES.index("sandal"), FASHION_CLASSES.index("bag"))
_ZOOM_STEPS = (1.0, 1.5, 2.0, 3.0)  # side of the crop, in canvas sides
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # others may start programs, as EPS does
_IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True, eq=False)
class ImageSet(SampleSet):
    """Images of one size with their foreground, classes and stable names.

    Parameters
    ----------
    images
        ``(N, H, W, 3)``, uint8, red, green, blue.
    masks
        ``(N, H, W)``, bool, True on the object.
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

    images: NDArray[np.uint8]
    masks: NDArray[np.bool_]
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

    @property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of everything but `source`."""
        return self._digest((self.images, self.masks, self.labels))


def normalise(images: NDArray[np.uint8]) -> NDArray[np.float32]:
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


def fashion_composites(
    split: str = "train",
    *,
    count: int | None = None,
    canvas: int = 48,
    seed: int = 0,
    scale: tuple[float, float] = (0.6, 0.95),
    with_item: bool = True,
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
    scale
        Smallest and largest longer side of an item, as a share of `canvas`.
    with_item
        False leaves the item out: the bare backgrounds, with unchanged labels and masks. Whatever a
        classifier finds in them is a leak.

    Returns
    -------
    ImageSet
        ``images`` ``(count, canvas, canvas, 3)``, about a third of them foreground.

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
    if split not in _SPLITS:
        raise ValueError(f"split must be one of {_SPLITS}, got {split!r}")
    require_integer("canvas", canvas, *_CANVAS_LIMITS)
    require_integer("seed", seed, 0)
    if not (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1):
        raise ValueError(f"scale must be (smallest, largest) with 0 < smallest <= largest <= 1, got {scale}")
    pixels, labels, indices = _load_items(split)
    count = len(labels) if count is None else count
    require_integer("count", count, 1, len(labels))
    pixels, labels, indices = pixels[:count], labels[:count].astype(np.int64), indices[:count]

    outlines = _outline_items(pixels, labels)
    photographs = _load_photographs(split, canvas)
    images = np.empty((count, canvas, canvas, 3), dtype=np.uint8)
    masks = np.zeros((count, canvas, canvas), dtype=bool)
    for k in range(count):
        rng = np.random.default_rng([seed, _SPLITS.index(split), int(indices[k])])
        images[k] = _draw_background(photographs, canvas, rng)
        item, outline = _enlarge_item(pixels[k], outlines[k], round(canvas * rng.uniform(*scale)))
        height, width = outline.shape
        top, left = rng.integers(0, canvas - height + 1), rng.integers(0, canvas - width + 1)
        window = np.s_[k, top : top + height, left : left + width]
        masks[window] = outline
        if with_item:
            images[window][outline] = _colour_item(item[outline], rng)
    return ImageSet(
        images=images,
        masks=masks,
        labels=labels,
        sample_ids=tuple(f"{split}-{index:05d}" for index in indices),
        classes=FASHION_CLASSES,
        split=np.full(count, split),
        source=f"fashion composites, {split}, canvas {canvas}, scale {scale[0]:g}..{scale[1]:g}, seed {seed}"
        + ("" if with_item else ", backgrounds only"),
    )


def _load_items(split: str) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Read the raw items of a split: pixels ``(N, 28, 28)``, labels and indices ``(N,)``."""
    path = find_data("fashion_items.npz")
    prefix = split.replace("-", "_")
    try:
        with np.load(path, allow_pickle=False) as archive:
            pixels, labels, indices = (
                archive[f"{prefix}_{name}"] for name in ("images", "labels", "indices")
            )
    except Exception as error:  # a damaged archive makes NumPy raise nearly anything
        raise DataError(f"{path} cannot be read: {error}") from error
    count = len(pixels) if pixels.ndim else 0
    shapes = (pixels.shape[1:], labels.shape, indices.shape)
    kinds = pixels.dtype.str[1:] + labels.dtype.kind + indices.dtype.kind
    if shapes != ((28, 28), (count,), (count,)) or kinds not in ("u1uu", "u1ui", "u1iu", "u1ii"):
        raise DataError(f"{path} holds other arrays than the items of Fashion-MNIST")
    return pixels, labels, indices


def _outline_items(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which raw pixels ``(N, 28, 28)`` are the item: bright ones, what they enclose, no openings."""
    bright = pixels > _ITEM_THRESHOLD
    enclosed = ~bright & ~_reach_from_border(~bright)
    openings = _keep_wide(enclosed) & np.isin(labels, _OPEN_CLASSES)[:, None, None]
    return (bright | enclosed) & ~openings


def _reach_from_border(free: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Free pixels ``(N, H, W)`` that are connected to the image border through free pixels."""
    free = np.pad(free, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    reached = np.zeros_like(free)
    reached[:, 0, 0] = True
    before = -1
    while (now := int(reached.sum())) > before:
        before = now
        for target, neighbour in (
            (np.s_[:, 1:], np.s_[:, :-1]),
            (np.s_[:, :-1], np.s_[:, 1:]),
            (np.s_[:, :, 1:], np.s_[:, :, :-1]),
            (np.s_[:, :, :-1], np.s_[:, :, 1:]),
        ):
            reached[target] |= reached[neighbour] & free[target]
    return reached[:, 1:-1, 1:-1]


def _keep_wide(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Morphological opening of ``(N, H, W)`` with a 3 x 3 square: what is at least 3 pixels wide."""
    squares = np.lib.stride_tricks.sliding_window_view(mask, (3, 3), axis=(1, 2)).all(axis=(3, 4))
    kept = np.zeros_like(mask)
    height, width = squares.shape[1:]
    for row in range(3):
        for column in range(3):
            kept[:, row : row + height, column : column + width] |= squares
    return kept


def _load_photographs(split: str, canvas: int) -> list[list[NDArray[np.uint8]]]:
    """Every photograph of the split at the sizes of the zoom steps that leave room for the canvas."""
    path = find_data("photographs.json")
    try:
        names = [entry["name"] for entry in json.loads(path.read_bytes()) if entry["split"] == split]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    photographs = []
    for name in names:
        photograph = _open_upright(find_data(f"photographs/{name}.png")).convert("RGB")
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
    """Give an item's pixels ``(P,)`` a random mean, contrast and mild tint; returns ``(P, 3)``."""
    standard = ((grey - grey.mean()) / max(float(grey.std()), 1.0)).clip(-2, 2)
    level = rng.uniform(80, 190) + rng.uniform(20, 45) * (standard - standard.mean())
    tint = 1 - rng.uniform(0, 0.5) * rng.random(3)
    return np.rint((level[:, None] * tint).clip(0, 255)).astype(np.uint8)


def image_folder(
    root: str | Path,
    *,
    masks: str | Path,
    size: int | tuple[int, int],
    classes: Sequence[str] | None = None,
    split: str = "all",
) -> ImageSet:
    """Read the user's own images with their foreground masks.

    Images lie at ``root/<class>/<name>.jpg`` (or another common suffix), masks in a parallel tree at
    ``masks/<class>/<name>.png``, of the same size as the image. In a mask, pixels above 0 are
    foreground: grey values, palette indices (so that the VOC palette reads as drawn) or any of the three
    colours; transparency is not looked at, in images neither. Images are turned as their EXIF data says.

    Parameters
    ----------
    root
        Folder with one folder per class. Hidden files, other suffixes and deeper folders are passed over.
    masks
        Folder with the masks.
    size
        Side, or (height, width), in pixels: images are resized to it with antialiased bilinear
        interpolation, masks with the nearest pixel, the aspect ratio is not kept.
    classes
        Class folders to read, in the order of their labels; by default all, sorted by name.
    split
        Name of the partition the images belong to.

    Returns
    -------
    ImageSet
        In the order of classes, then names; identifiers are ``<class>/<name>``.

    Raises
    ------
    ValueError
        If `size` is not positive, or `classes` names folders that do not exist.
    DataError
        If a folder is missing or holds no classes or images, an image or mask is missing, unreadable or
        of another size than its partner, or two images share a name.

    Warns
    -----
    DegenerateWarning
        If masks hold no foreground or no background after resizing.
    """
    if masks is None:
        raise TypeError("masks is None; image_folder reads images with masks, the folder of which is wanted")
    root, masks = Path(root), Path(masks)
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"size must be one side or (height, width), got {size}")
    for side in sides:
        require_integer("size", side, 1)
    height, width = sides
    for argument, folder in (("root", root), ("masks", masks)):
        if not folder.is_dir():
            raise DataError(f"{argument} is not a folder: {folder}")
    found = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise DataError(f"{root} holds no class folders; images belong into {root / '<class>'}")
    names = tuple(found if classes is None else classes)
    unknown = [name for name in names if name not in found]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(f"classes must be different folders out of {list_some(found)}, got {list(names)}")

    paths = [path for name in names for path in _list_images(root / name)]
    sample_ids = tuple(f"{path.parent.name}/{path.stem}" for path in paths)
    repeated = find_repeated(sample_ids)
    if repeated:
        raise DataError(f"images of {root} would share a mask, their names repeat: {list_some(repeated)}")
    missing = [name for name in sample_ids if not (masks / f"{name}.png").is_file()]
    if missing:
        raise DataError(f"{masks} lacks the masks of {len(missing)} images: {list_some(missing, '.png')}")

    images = np.empty((len(paths), height, width, 3), dtype=np.uint8)
    foreground = np.empty((len(paths), height, width), dtype=bool)
    for k, path in enumerate(paths):
        images[k], foreground[k] = _read_pair(path, masks / f"{sample_ids[k]}.png", (width, height))
    _warn_of_one_sided(foreground, sample_ids)
    return ImageSet(
        images=images,
        masks=foreground,
        labels=np.array([names.index(path.parent.name) for path in paths], dtype=np.int64),
        sample_ids=sample_ids,
        classes=names,
        split=np.full(len(paths), split),
        source=f"image folder {root.name}, {height} x {width}",
    )


def _list_images(folder: Path) -> list[Path]:
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    if not paths:
        raise DataError(f"{folder} holds no images ({', '.join(sorted(_IMAGE_SUFFIXES))})")
    return paths


def _read_pair(
    image_path: Path, mask_path: Path, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Read an image and its mask at a size (width, height)."""
    image, mask = _open_upright(image_path), _open_upright(mask_path)
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{image_path} has pixels of mode {image.mode}; convert it to 8 bits a channel")
    if image.size != mask.size:
        raise DataError(
            f"{mask_path} is {mask.width} x {mask.height} pixels, its image {image_path.name} is "
            f"{image.width} x {image.height} as displayed; both must be of one size"
        )
    values = np.asarray(mask.convert("RGB") if mask.mode in ("LA", "PA", "RGBA") else mask) > 0
    drawn = Image.fromarray(values.any(axis=2) if values.ndim == 3 else values)
    pixels = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    return np.asarray(pixels), np.asarray(drawn.resize(size, Image.Resampling.NEAREST))


def _open_upright(path: Path) -> Image.Image:
    if not path.is_file():  # a pipe would be waited for without end
        raise DataError(f"{path} is not a file")
    try:
        with Image.open(path, formats=_FORMATS) as file:
            return ImageOps.exif_transpose(file)
    except Exception as error:  # a damaged file makes the decoders raise nearly anything
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def _warn_of_one_sided(masks: NDArray[np.bool_], sample_ids: tuple[str, ...]) -> None:
    share = masks.mean(axis=(1, 2))
    for kind, affected in (("foreground", share == 0), ("background", share == 1)):
        names = [sample_ids[k] for k in np.flatnonzero(affected)]
        if names:
            warnings.warn(
                f"{len(names)} masks hold no {kind}: {list_some(names, '.png')}",
                DegenerateWarning,
                stacklevel=3,
            )


def _require_images(images: object) -> None:
    if not (isinstance(images, np.ndarray) and images.dtype == np.uint8):
        raise TypeError(f"images must be a NumPy array of uint8, got {describe(images)}")
    if images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images must have shape (N, H, W, 3), got {images.shape}")
