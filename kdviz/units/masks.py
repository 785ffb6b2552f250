"""Any partition of images, such as superpixels.

Symbols: ``B`` samples, ``U`` units, ``C, H, W`` channels, height and width of an image.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdviz.units.base import Coordinates, ImageUnits


@dataclass(frozen=True, eq=False)
class Mask(ImageUnits):
    """The parts of a partition of images, one for all samples or one each. Make one with :func:`mask`.

    Attributes
    ----------
    labels
        Shape ``(H, W)`` or ``(B, H, W)``, int32: the unit of every pixel, -1 for none.
    """

    labels: NDArray[np.int32]
    kind = "mask"

    @property
    def count(self) -> int:
        """Number of units ``U``, of the sample that has most."""
        return int(self.labels.max()) + 1

    def index(self, sample_shape: tuple[int, ...], sample: int = 0) -> NDArray[np.int64]:
        """Return the unit of every input element, ``sample_shape``, -1 for none.

        Raises
        ------
        ValueError
            If a sample is not ``(C, H, W)`` of the partition's height and width.
        """
        if self._check_shape(sample_shape, "units.mask") != self.labels.shape[-2:]:
            height, width = self.labels.shape[-2:]
            raise ValueError(
                f"units.mask divides images of {height} x {width} pixels, inputs are {sample_shape[1]} x "
                f"{sample_shape[2]}; pass labels of the inputs' height and width"
            )
        return np.broadcast_to(self._labels_of(sample).astype(np.int64), sample_shape)

    def coordinates(self, inputs: ArrayLike = ()) -> Coordinates:
        """Return none: parts of a partition have no place that one number tells."""
        return {}

    def length(self, sample: int) -> int | None:
        """Return the images' width where every sample is cut in its own way, and so is measured alone."""
        return None if self.labels.ndim == 2 else self.labels.shape[-1]

    def cut(self, sample: int) -> bytes:
        """Return the unit of every pixel of a sample."""
        return self._labels_of(sample).tobytes()

    def valid(self, samples: int) -> NDArray[np.bool_]:
        """Tell which units exist, ``(B, U)``."""
        if self.labels.ndim == 2:
            return super().valid(samples)
        if samples != len(self.labels):
            raise ValueError(
                f"units.mask has the partitions of {len(self.labels)} samples, inputs are {samples}; pass "
                "labels of shape (H, W) to divide all alike"
            )
        return np.arange(self.count) <= self.labels.max((1, 2))[:, None]

    def _labels_of(self, sample: int) -> NDArray[np.int32]:
        return self.labels if self.labels.ndim == 2 else self.labels[sample]


def mask(labels: ArrayLike) -> Mask:
    """Take the parts of a partition of images as units, such as superpixels; all channels in one.

    Parameters
    ----------
    labels
        Shape ``(H, W)`` for all samples or ``(B, H, W)`` for one partition each, integers: the unit of every
        pixel, from 0 and without gaps in each sample; -1 for pixels that get no noise. Samples may have
        different numbers of units; those that divide samples differently are measured one by one.

    Raises
    ------
    TypeError
        If the labels are no integers.
    ValueError
        If they have another shape, or a sample's labels are not -1 and 0 to its largest, each at least once.

    Examples
    --------
    >>> from kdviz import units
    >>> units.mask([[0, 0, 1], [-1, 2, 1]]).index((1, 2, 3))[0].tolist()
    [[0, 0, 1], [-1, 2, 1]]
    """
    given = np.asarray(labels)
    if given.dtype.kind not in "iu":
        raise TypeError(f"units.mask: labels must be integers, got {given.dtype}")
    if given.ndim not in (2, 3) or not given.size:
        raise ValueError(f"units.mask: labels must have shape (H, W) or (B, H, W), got {given.shape}")
    for sample, one in enumerate(given.reshape(-1, *given.shape[-2:])):
        found = np.unique(one)
        named = found[found != -1]
        if not len(named) or not np.array_equal(named, np.arange(len(named))):
            raise ValueError(
                f"units.mask: labels must be 0 to U-1 without gaps, and -1 for no unit, got "
                f"{found[:5].tolist()}{', ...' if len(found) > 5 else ''} in sample {sample}"
            )
    return Mask(given.astype(np.int32))
