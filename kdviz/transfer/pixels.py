"""Between pixels, in which budgets and changes are told, and what networks are fed."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from kdviz.arguments import name_some, positive_number
from kdviz.networks.features import Batch, main_of, noisy_part

_SLACK = 1e-4  # of rounding, in pixels of 0..1


def find_images(batch: Batch, about: str) -> str | None:
    """Name the images of a batch, as :func:`kdviz.networks.features.main_of` takes the name.

    Raises
    ------
    ValueError
        If there are none, in a sentence that begins with `about`.
    """
    with suppress(ValueError):
        name = noisy_part(batch, lambda tensor: tensor.ndim == 4)
        if (images := main_of(batch, name)).ndim == 4 and images.is_floating_point():
            return name
    tensors = [batch] if isinstance(batch, Tensor) else batch.values()
    told = name_some(f"{tuple(one.shape)} of {one.dtype}" for one in tensors)
    raise ValueError(f"{about} is for images (samples, channels, height, width) only, got {told}")


def check_pixels(pixels: "Pixels | None", about: str) -> "Pixels":
    """Ask how images are normalised: that nothing contradicts a normalisation does not mean that it is right.

    Raises
    ------
    ValueError
        If it is not said, in a sentence that begins with `about`.
    TypeError
        If it is no `Pixels`.
    """
    if pixels is None:
        raise ValueError(
            f"{about} works on pixels of 0 to 1 and cannot know how images are normalised: pass "
            "pixels=kdviz.transfer.Pixels() where it is by mean and deviation of ImageNet, as kdviz.sources "
            "does, Pixels((0, 0, 0), (1, 1, 1)) for values of 0 to 1 as they are, or Pixels((0.5, 0.5, 0.5), "
            "(0.5, 0.5, 0.5)) for -1 to 1"
        )
    if not isinstance(pixels, Pixels):
        raise TypeError(f"pixels must be a kdviz.transfer.Pixels(mean, std), got {pixels!r}")
    return pixels


@dataclass(frozen=True)
class Pixels:
    """How inputs are normalised: ``(pixel - mean) / std`` for pixels in 0..1, channel by channel.

    Parameters
    ----------
    mean, std
        One number a channel; by default those of ImageNet, by which :mod:`kdviz.sources` normalises.

    Raises
    ------
    ValueError
        If they are not as many, or a deviation is not positive.
    """

    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        """Check the numbers."""
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean and std must be as many, got {len(self.mean)} and {len(self.std)}")
        for value in self.std:
            positive_number("std", value)

    def read(self, images: Tensor) -> Tensor:
        """Return the pixels, in 0..1, of inputs ``(B, channels, H, W)``.

        Raises
        ------
        ValueError
            If inputs are no such images, or not normalised so.
        """
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise ValueError(
                f"inputs must be images (samples, {len(self.mean)}, height, width), got {tuple(images.shape)}"
            )
        mean, std = self._as(images)
        pixels = images * std + mean
        low, high = float(pixels.min()), float(pixels.max())
        if low < -_SLACK or high > 1 + _SLACK:
            raise ValueError(
                f"inputs are pixels of {low:.3g} to {high:.3g} by mean {tuple(self.mean)} and std "
                f"{tuple(self.std)}, and must be of 0 to 1; pass pixels=Pixels(mean, std) as in training"
            )
        return pixels.clamp(0, 1)

    def write(self, pixels: Tensor) -> Tensor:
        """Return inputs for networks, of pixels ``(B, channels, H, W)`` in 0..1."""
        mean, std = self._as(pixels)
        return (pixels - mean) / std

    def _as(self, images: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, len(self.mean), 1, 1)
        mean, std = (torch.as_tensor(values, dtype=images.dtype) for values in (self.mean, self.std))
        return mean.reshape(shape).to(images.device), std.reshape(shape).to(images.device)
