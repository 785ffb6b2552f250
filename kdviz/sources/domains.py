"""Images as networks have not seen them: other domains made of a set, and scenes whose cues conflict.

Every image is drawn from a generator keyed by its name, so that a domain's image depends on no other. NumPy
and SciPy.

Symbols: ``N`` images, ``H`` x ``W`` pixels.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from kdviz.arguments import one_of, whole_number
from kdviz.errors import DataError
from kdviz.sources.image import ImageSet
from kdviz.sources.samples import LazyArray

_GREY = np.array([0.299, 0.587, 0.114])  # of red, green and blue, as Pillow weighs them
_INK, _PAPER = 0, 255
_WEAK, _STRONG = 5, 12  # steps of grey from pixel to pixel that go on a line, and that begin one
_COLOURS = 5  # of a palette

Draw = Callable[[NDArray[np.uint8], NDArray[np.bool_], np.random.Generator], NDArray]


def make_domain(images: ImageSet, domain: str) -> ImageSet:
    """Draw images as another domain shows them [1]_.

    Parameters
    ----------
    images
        With masks, the objects are known; without, a whole image counts as one.
    domain
        ``"edges"``: outline and inner edges of the object, black on white. ``"silhouette"``: the object,
        black on white. ``"stylised"``: the whole image in strokes that follow its forms, in colours of
        palettes drawn for each image, so that shapes are left and textures are not. ``"sketch"``: pencil
        lines and hatching of the object on paper. ``"inverted"``: the negative.

    Returns
    -------
    ImageSet
        The same samples with other images, read when they are indexed where those of `images` are.

    Raises
    ------
    ValueError
        If `domain` is unknown, or it is ``"silhouette"`` and there are no masks.

    References
    ----------
    .. [1] Geirhos et al., "ImageNet-trained CNNs are biased towards texture", ICLR 2019, section 2, whose
       edges, silhouettes and stylised images these are after.
    """
    draw = DOMAINS[one_of("domain", domain, DOMAINS)]
    if domain == "silhouette" and images.masks is None:
        raise ValueError("a silhouette needs masks, and images have none")

    def make(k: int) -> NDArray[np.uint8]:
        drawn = draw(images.images[k], _mark_object(images, k), _generator_of(images, k))
        return np.rint(drawn).clip(0, 255).astype(np.uint8)

    return _put_images(images, make, f"{domain} of {images.source}")


def cue_conflict(images: ImageSet, seed: int = 0) -> tuple[ImageSet, NDArray[np.int64]]:
    """Fill the object of every image with the texture of an object of another class [1]_.

    Parameters
    ----------
    images
        With masks.
    seed
        Another seed gives other textures.

    Returns
    -------
    ImageSet
        The same samples with other images: outside of the masks as they were, inside the largest square of
        the other object, tiled, every second tile mirrored.
    NDArray[np.int64]
        ``(N,)``, the classes of the textures; labels are those of the shapes.

    Raises
    ------
    ValueError
        If there are no masks, or samples of one class only.
    DataError
        On reading, if no image of a texture's class shows an object.

    References
    ----------
    .. [1] Geirhos et al., "ImageNet-trained CNNs are biased towards texture", ICLR 2019, section 2, where a
       network transfers the texture to the whole image.
    """
    whole_number("seed", seed)
    if images.masks is None:
        raise ValueError("cue conflict needs masks, and images have none")
    present = np.unique(images.labels)
    if len(present) < 2:
        raise ValueError("cue conflict needs samples of two classes or more")
    textures = np.array(
        [
            _generator_of(images, k, seed, 0).choice(present[present != label])
            for k, label in enumerate(images.labels)
        ]
    )

    def make(k: int) -> NDArray[np.uint8]:
        members = np.flatnonzero(images.labels == textures[k])
        for other in _generator_of(images, k, seed, 1).permutation(members):
            if (mask := _mark_object(images, other)).any():
                break
        else:
            raise DataError(f"no image of class {images.classes[textures[k]]!r} shows an object")
        height, width = mask.shape
        patch = _cut_square(images.images[other], mask)
        padding = [(0, max(0, side - len(patch))) for side in (height, width)]
        filling = np.pad(patch, (*padding, (0, 0)), mode="symmetric")[:height, :width]
        return np.where(_mark_object(images, k)[:, :, None], filling, images.images[k])

    return _put_images(images, make, f"cue conflict of {images.source}, seed {seed}"), textures


def _mark_object(images: ImageSet, k: int) -> NDArray[np.bool_]:
    if images.masks is None:
        return np.ones(images.images.shape[1:3], bool)
    return images.masks[k] == 1  # True, or of int8 what is neither beside it nor void


def _generator_of(images: ImageSet, k: int, *key: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(images.sample_ids[k].encode()), *key])


def _put_images(images: ImageSet, make: Callable[[int], NDArray[np.uint8]], source: str) -> ImageSet:
    lazy = LazyArray(make, len(images), images.images.shape[1:], np.uint8)
    return replace(images, images=lazy if isinstance(images.images, LazyArray) else lazy[:], source=source)


def _cut_square(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Cut the largest square of odd side out of an object."""
    from scipy import ndimage  # heavy, and asked for when samples are made, not when a study is looked at

    depth = ndimage.distance_transform_cdt(np.pad(mask, 1), "chessboard")[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    reach = depth[row, column] - 1
    return image[row - reach : row + reach + 1, column - reach : column + reach + 1]


def _invert(image: NDArray[np.uint8], mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.uint8]:
    return 255 - image


def _fill(image: NDArray[np.uint8], mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    return _print(np.where(mask, _INK, _PAPER))


def _trace(image: NDArray[np.uint8], mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw the object's outline, and within where grey changes most along its own direction (Canny)."""
    from scipy import ndimage

    width = _width_of(mask)
    slope = np.stack([*np.gradient(_blur_object(image @ _GREY, mask, 0.8 * width))])
    steepness = np.hypot(*slope)
    step = slope / np.maximum(steepness, 1e-9)
    ahead, behind = (
        ndimage.map_coordinates(steepness, np.indices(mask.shape) + sign * step, order=1, mode="nearest")
        for sign in (1, -1)
    )
    inner = ndimage.binary_erosion(mask, iterations=2, border_value=1)
    crest = inner & (steepness > ahead) & (steepness >= behind) & (steepness * width > _WEAK)
    lines = ndimage.binary_propagation(crest & (steepness * width > _STRONG), np.ones((3, 3)), crest)
    outline = mask & ~ndimage.binary_erosion(mask, border_value=1)
    return _print(np.where(lines | outline, _INK, _PAPER))


def _sketch(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw outline, dark lines and hatching of the object by an unsteady hand."""
    from scipy import ndimage

    width = _width_of(mask)
    drift = np.stack([ndimage.gaussian_filter(rng.standard_normal(mask.shape), 4 * width) for _ in range(2)])
    drift *= 0.6 * width / max(float(drift.std()), 1e-9)
    at = np.indices(mask.shape) + drift

    def copy(values: NDArray) -> NDArray[np.float64]:
        return ndimage.map_coordinates(values.astype(float), at, order=1, mode="nearest")

    cover = copy(ndimage.gaussian_filter(mask.astype(float), 0.6 * width))
    grey = copy(_blur_object(image @ _GREY, mask, 0.5 * width))
    tone = copy(_blur_object(image @ _GREY, mask, 2.5 * width))
    across = np.indices(mask.shape).sum(0) + drift[0]
    hatching = 0.5 + 0.5 * np.sin(2 * np.pi * across / (4 * width))
    shade = hatching**3 * np.interp(tone, [40, 180], [0.7, 0.1])
    lines = np.clip((tone - grey) / 30, 0, 1)
    inner = (cover > 0.5) * np.maximum(shade, lines)
    outline = (4 * cover * (1 - cover)) ** 2
    grain = 1 + 0.2 * rng.standard_normal(mask.shape)
    return _print(_PAPER - 225 * np.clip(np.maximum(outline, inner) * grain, 0, 1))


def _stylise(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Paint by strokes: tones without detail in colours of a palette, streaked along the forms."""
    from scipy import ndimage

    width = _width_of(mask)
    grey = ndimage.median_filter(image @ _GREY, 2 * round(2 * width) + 1)
    order = grey.argsort(axis=None, kind="stable").argsort(kind="stable").reshape(grey.shape)
    tone = ndimage.gaussian_filter(order / (order.size - 1), 0.4 * width)
    painted = np.empty(image.shape)
    places, hue = np.linspace(0, 1, _COLOURS), rng.random()
    for part, turn in ((mask, 0.0), (~mask, rng.uniform(0.3, 0.7))):  # of other hues beside the object
        palette = _draw_palette(hue + turn, rng)
        painted[part] = np.stack([np.interp(tone[part], places, channel) for channel in palette.T], 1)
    return painted + 25 * _streak(grey, width, rng)[:, :, None]


def _draw_palette(hue: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw colours ``(_COLOURS, 3)`` from dark to bright, of hues around one."""
    hues = hue + np.linspace(-1, 1, _COLOURS) * rng.uniform(-0.15, 0.15)
    phase = hues[:, None] + np.array([0, 1 / 3, 2 / 3])
    colours = 1 - rng.uniform(0.5, 0.9) * (0.5 - 0.5 * np.cos(2 * np.pi * phase))
    return colours / (colours @ _GREY)[:, None] * np.linspace(30, 225, _COLOURS)[:, None]


def _streak(grey: NDArray[np.float64], width: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Smear noise along the edges of an image, the way a brush follows forms (line integral convolution)."""
    from scipy import ndimage

    down, right = (ndimage.gaussian_filter(grey, width, order=order) for order in ((1, 0), (0, 1)))
    spread, twist = (
        ndimage.gaussian_filter(values, 2.5 * width) for values in (right**2 - down**2, 2 * right * down)
    )
    angle = 0.5 * np.arctan2(twist, spread) + np.pi / 2
    along = np.stack([np.sin(angle), np.cos(angle)])
    noise = ndimage.gaussian_filter(rng.standard_normal(grey.shape), 0.5 * width)
    total = noise.copy()
    for sign in (1, -1):
        at, step = np.indices(grey.shape).astype(float), sign * along
        for _ in range(round(5 * width)):
            at += step
            total += ndimage.map_coordinates(noise, at, order=1, mode="reflect")
            there = np.stack([ndimage.map_coordinates(one, at, order=0, mode="nearest") for one in along])
            step = there * np.where((there * step).sum(0) < 0, -1, 1)  # an axis has two directions
    return (total - total.mean()) / max(float(total.std()), 1e-9)


def _width_of(mask: NDArray[np.bool_]) -> float:
    """Return the width of a line: 1 pixel on a side of 48, 2 on one of 192."""
    return math.sqrt(max(mask.shape) / 48)


def _blur_object(grey: NDArray[np.float64], mask: NDArray[np.bool_], sigma: float) -> NDArray[np.float64]:
    """Blur grey values within an object, by themselves."""
    from scipy import ndimage

    weight = ndimage.gaussian_filter(mask.astype(float), sigma)
    return ndimage.gaussian_filter(grey * mask, sigma) / np.maximum(weight, 1e-3)


def _print(grey: NDArray) -> NDArray:
    return grey[:, :, None].repeat(3, 2)


DOMAINS: Mapping[str, Draw] = MappingProxyType(
    {"edges": _trace, "silhouette": _fill, "stylised": _stylise, "sketch": _sketch, "inverted": _invert}
)
"""From an image, where its object is and a generator to the image drawn, by name of the domain."""
