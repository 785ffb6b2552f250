"""What samples are changed by, and how much: one table of small functions for images, texts and clouds.

A function takes one sample, a strength and a generator, and returns the sample changed: at strength 0 to the
bit as it was, at every other by the same draws, so that strengths differ by nothing else. Images are pixels
in 0..1, texts `Words`, clouds points first. Changes of letter case need the text and not its tokens, and are
left out.

Symbols: ``C`` channels, ``H`` x ``W`` pixels, ``T`` tokens, ``n`` points.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Generator, Tensor

from kdviz.errors import MissingExtraError

_CLIP = 5  # standard deviations: 0.01 clipped at 0.05 in the published training of PointNet
_MOST_HUE = 0.2  # of a turn, in the published training and in the sweep over strengths


@dataclass(frozen=True)
class Words:
    """One text as changes take it.

    Attributes
    ----------
    ids
        ``(T,)``, token identifiers.
    free
        ``(T,)``, bool, where a token may be changed: neither special nor padding.
    mask_id
        What stands for a token that is dropped.
    """

    ids: Tensor
    free: Tensor
    mask_id: int | None = None

    def clone(self) -> "Words":
        """Return a text of its own memory, as of tensors."""
        return Words(self.ids.clone(), self.free.clone(), self.mask_id)


@dataclass(frozen=True)
class Change:
    """A change of samples.

    Attributes
    ----------
    apply
        ``(sample, strength, generator) -> sample``; of `Words`, identifiers ``(T,)``.
    unit
        What a strength is.
    strengths
        Those asked by default, beside 0.
    most
        The largest.
    whole
        A strength is a whole number.
    views
        1: the answer is compared with that to the sample; 2: answers to two changed samples are compared.
    """

    apply: Callable[[Any, float, Generator], Tensor]
    unit: str = "1"
    strengths: tuple[float, ...] = ()
    most: float = math.inf
    whole: bool = False
    views: int = 1


@functools.cache
def _image_functions() -> Any:
    """Load what changes images: heavy, and not needed for texts and clouds."""
    from kdviz.models.torchvision_shim import prepare_torchvision

    prepare_torchvision()
    try:
        from torchvision.transforms.v2 import functional
    except ModuleNotFoundError:
        raise MissingExtraError("changes of images need torchvision: install kdviz[vision]") from None
    return functional


def _draw(generator: Generator, count: int) -> list[float]:
    """Draw numbers in 0..1."""
    return torch.rand(count, generator=generator, dtype=torch.float64).tolist()


def _draw_corner(generator: Generator, rows: int, columns: int) -> tuple[int, int]:
    top, left = _draw(generator, 2)
    return int(top * rows), int(left * columns)


def _jitter(image: Tensor, strength: float, generator: Generator) -> Tensor:
    """Change brightness, contrast, saturation and hue, in any order."""
    functional = _image_functions()
    if len(image) not in (1, 3):
        raise ValueError(f"jitter of colours needs images of 1 or 3 channels, got {len(image)}")
    *factors, hue = (2 * drawn - 1 for drawn in _draw(generator, 4))
    order = torch.randperm(4, generator=generator).tolist()
    steps = [
        (functional.adjust_brightness, 1 + strength * factors[0]),
        (functional.adjust_contrast, 1 + strength * factors[1]),
        (functional.adjust_saturation, 1 + strength * factors[2]),
        (functional.adjust_hue, min(strength / 2, _MOST_HUE) * hue),
    ]
    for at in order if strength else ():
        adjust, amount = steps[at]
        image = adjust(image, amount)
    return image


def _crop(image: Tensor, strength: float, generator: Generator) -> Tensor:
    """Cut a share of the area away, anywhere, and enlarge the rest."""
    size = image.shape[1:]
    height, width = (max(1, round(side * math.sqrt(1 - strength))) for side in size)
    top, left = _draw_corner(generator, size[0] - height + 1, size[1] - width + 1)
    return _image_functions().resized_crop(image, top, left, height, width, list(size), antialias=True)


def _shift(image: Tensor, strength: float, generator: Generator) -> Tensor:
    """Cut a window anywhere out of the image with its border reflected, `strength` pixels larger."""
    margin, (height, width) = int(strength), image.shape[1:]
    before, after = margin // 2, margin - margin // 2
    if after >= min(height, width):
        raise ValueError(f"a shift of {margin} pixels needs larger images, got {height} x {width}")
    wider = _image_functions().pad(image, [before, before, after, after], padding_mode="reflect")
    top, left = _draw_corner(generator, margin + 1, margin + 1)
    return wider[:, top : top + height, left : left + width]


def _rotate(image: Tensor, strength: float, generator: Generator) -> Tensor:
    """Turn the image about its middle, its border reflected."""
    functional = _image_functions()
    (drawn,) = _draw(generator, 1)
    height, width = image.shape[1:]
    margins = [math.ceil((math.hypot(height, width) - side) / 2) + 1 for side in (width, height)]
    across, down = (
        min(margin, side - 1) for margin, side in zip(margins, (width, height), strict=True)
    )  # as far as there is something to reflect
    wider = functional.pad(image, [across, down, across, down], padding_mode="reflect")
    turned = functional.rotate(
        wider, strength * (2 * drawn - 1), interpolation=functional.InterpolationMode.BILINEAR
    )
    return turned[:, down : down + height, across : across + width]


def _blur(image: Tensor, strength: float, generator: Generator) -> Tensor:
    """Convolve with a Gaussian of `strength` pixels, cut at three of them, the border reflected."""
    if not strength:
        return image
    radius = min(math.ceil(3 * strength), min(image.shape[1:]) - 1)
    return _image_functions().gaussian_blur(image, [2 * radius + 1] * 2, [strength] * 2)


def _add_noise(image: Tensor, strength: float, generator: Generator) -> Tensor:
    """Add Gaussian noise to every value, cut at 0 and 1."""
    return (image + strength * torch.randn(image.shape, generator=generator, dtype=image.dtype)).clamp(0, 1)


def _choose_words(words: Words, strength: float, generator: Generator, least: int) -> Tensor:
    """Choose a share of the tokens that may be changed, those of smaller strengths among them.

    Above strength 0 they are `least` or more, where the text has as many.
    """
    places = torch.nonzero(words.free)[:, 0]
    order = torch.randperm(len(places), generator=generator)
    return places[order[: max(least, round(strength * len(places))) if strength else 0]]


def _drop_words(words: Words, strength: float, generator: Generator) -> Tensor:
    """Put `Words.mask_id` in the place of a share of the tokens, one or more."""
    if words.mask_id is None:
        raise ValueError(
            "dropout of words needs mask_id=, what stands for one left out, such as tokenizer.mask_token_id"
        )
    return words.ids.index_fill(0, _choose_words(words, strength, generator, 1), words.mask_id)


def _reorder_words(words: Words, strength: float, generator: Generator) -> Tensor:
    """Let a share of the tokens, two or more, change places: each goes to that of another, none is lost."""
    chosen = _choose_words(words, strength, generator, 2)
    return words.ids.index_copy(0, chosen, words.ids[chosen.roll(1)])


def _turn_points(points: Tensor, strength: float, generator: Generator) -> Tensor:
    """Turn about the vertical, the third coordinate."""
    (drawn,) = _draw(generator, 1)
    angle = math.radians(strength * (2 * drawn - 1))
    x, y = points[:, :2].double().unbind(1)
    turned = [math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y]
    return torch.cat([torch.stack(turned, 1).to(points.dtype), points[:, 2:]], 1)


def _jitter_points(points: Tensor, strength: float, generator: Generator) -> Tensor:
    """Move every point by Gaussian noise, cut at five standard deviations."""
    noise = torch.randn((len(points), 3), generator=generator, dtype=points.dtype).clamp(-_CLIP, _CLIP)
    return torch.cat([points[:, :3] + strength * noise, points[:, 3:]], 1)


def _drop_points(points: Tensor, strength: float, generator: Generator) -> Tensor:
    """Move a share of the points onto one that stays, where a network that pools does not see them."""
    order = torch.randperm(len(points), generator=generator)
    dropped = order[: min(round(strength * len(points)), len(points) - 1)]
    return points.index_copy(0, dropped, points[order[-1:]].expand(len(dropped), -1))


CHANGES: Mapping[str, Mapping[str, Change]] = MappingProxyType(
    {
        "image": {
            "jitter": Change(_jitter, "largest relative change of colours", (0.3, 0.4, 0.5, 0.6), 1.0),
            "crop": Change(_crop, "share of the area cut away", (0.4, 0.5, 0.6, 0.7), 0.99, views=2),
            "shift": Change(_shift, "pixel", (1, 2, 4, 8), whole=True, views=2),
            "rotation": Change(_rotate, "degree", (10, 20, 30, 40), 180.0),
            "blur": Change(_blur, "pixel", (0.5, 1.0, 1.5, 2.0)),
            "noise": Change(_add_noise, "standard deviation of pixels in 0..1", (0.05, 0.1, 0.15, 0.2)),
        },
        "text": {
            "dropout": Change(_drop_words, "share of the tokens", (0.1, 0.2, 0.3, 0.5), 1.0),
            "order": Change(_reorder_words, "share of the tokens", (0.1, 0.2, 0.5, 1.0), 1.0),
        },
        "cloud": {
            "rotation": Change(_turn_points, "degree", (15, 45, 90, 180), 180.0),
            "jitter": Change(_jitter_points, "standard deviation of coordinates", (0.01, 0.02, 0.05, 0.1)),
            "dropout": Change(_drop_points, "share of the points", (0.1, 0.25, 0.5, 0.75), 0.99),
        },
    }
)
"""Every change by kind of input and name; strengths of colours and crops are the published ones.

Of colours these are the strengths of brightness, contrast and saturation; hue turns by at most half of them,
and never by more than 0.2 of a turn.
"""
