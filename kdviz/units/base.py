"""What every kind of units answers.

Symbols: ``B`` samples, ``U`` units, ``C, H, W`` channels, height and width of an image.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdviz.errors import DegenerateWarning
from kdviz.units.regions import Marks, read_mask

Coordinates = Mapping[str, tuple[str | tuple[str, str], NDArray]]
"""Dimensions and values of every coordinate, by the names of :mod:`kdviz.schema`."""


class Units(ABC):
    """What measuring asks of units, whatever the input is. A new kind of input brings a new subclass.

    Attributes
    ----------
    kind, modality, noise_space
        Words for files, titles and attributes.
    base_noise
        Preset ``tau0``.
    method, draws, feature
        Presets of :func:`kdviz.measure`.
    needs_entry
        Whether inputs cannot take noise themselves, so that `entry` must be named.
    axes
        How many a sample has, as it is given: how lists of samples are told from lists of batches.
    """

    kind: str
    modality: str
    noise_space: str
    base_noise: float
    method: Literal["auto", "gain", "path"] = "auto"
    draws: int = 8
    needs_entry: bool = False
    axes: int | None = None
    feature: Literal["relu", "identity"] = "relu"

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of units ``U``, of the longest sample where they differ."""

    @abstractmethod
    def index(self, sample_shape: tuple[int, ...], sample: int = 0) -> NDArray[np.int64]:
        """Return the unit of every element of a sample that noise may fall on, -1 for none."""

    @abstractmethod
    def coordinates(self, inputs: NDArray) -> Coordinates:
        """Name and place the units of `inputs`, ``(B, ...)``."""

    def is_turned(self, sample_shape: tuple[int, ...]) -> bool:
        """Tell whether the two axes of a sample are exchanged: hashes and noise do not depend on that."""
        return False

    def describe(self) -> str:
        """Name the units in one word for files and titles, such as ``points-1024``."""
        return f"{self.kind}-{self.count}"

    @property
    def width(self) -> int | None:
        """Entries of a padded input along its axis of differing length; None if there is no such axis."""
        return None

    def length(self, sample: int) -> int | None:
        """Count the entries along that axis that belong to a sample; None if samples are cut alike."""
        return None

    def cut(self, sample: int) -> bytes:
        """Return what tells apart two cuts of one input, beyond what `describe` says."""
        return b""

    def sizes(self, samples: int, sample_shape: tuple[int, ...] | None) -> NDArray[np.int32]:
        """Count the input elements of every unit, ``(B, U)``: 0 for no unit, 1 for no shape."""
        if sample_shape is None:
            return self.valid(samples).astype(np.int32)
        alike = self.length(0) is None
        counts = [
            np.bincount(index[index >= 0], minlength=self.count)
            for index in (self.index(sample_shape, at).ravel() for at in range(1 if alike else samples))
        ]
        return np.broadcast_to(np.array(counts, np.int32), (samples, self.count))

    def describe_units(self, samples: int, sample_shape: tuple[int, ...] | None) -> Coordinates:
        """Tell which units exist, ``valid``, and, where they differ, their sizes, ``unit_size``.

        Parameters
        ----------
        samples
            How many there are.
        sample_shape
            Of the input that noise falls on; None where that is the output of a module.
        """
        valid, sizes = self.valid(samples), self.sizes(samples, sample_shape)
        dims = ("sample", "unit")
        differ = len(np.unique(sizes[valid])) > 1
        return {"valid": (dims, valid)} | ({"unit_size": (dims, sizes)} if differ else {})

    def valid(self, samples: int) -> NDArray[np.bool_]:
        """Tell which units exist, ``(B, U)``, of so many samples."""
        return np.ones((samples, self.count), bool)

    def place_masks(
        self, foreground: ArrayLike, valid: NDArray[np.bool_], pixels: tuple[int, ...] | None = None
    ) -> dict[str, Any]:
        """Read masks of units, or of the pixels of images, as variables of samples.

        Parameters
        ----------
        foreground
            ``(B, U)``, or of images ``(B, H, W)``; values as :func:`kdviz.units.read_mask` takes them.
        valid
            ``(B, U)``: which units exist.
        pixels
            The only shape that masks of pixels may have.

        Returns
        -------
        dict
            ``foreground`` and, where a unit is neither, ``void``, each with dimensions (sample, unit).

        Raises
        ------
        ValueError
            If the shape is another, or values are of no known kind.

        Warns
        -----
        DegenerateWarning
            If samples have no unit on one of the sides.
        """
        shape, (count, _) = np.shape(foreground), valid.shape
        by_pixel = (
            shape == (pixels or (count, *shape[1:])) and len(shape) == 3 and isinstance(self, ImageUnits)
        )
        if shape != valid.shape and not by_pixel:
            sizes = f"({', '.join(map(str, pixels or (count, 'H', 'W')))})"
            allowed = f", or pixels {sizes}" if isinstance(self, ImageUnits) else ""
            raise ValueError(
                f"foreground has shape {shape}; allowed: {valid.shape}, one flag a unit{allowed}"
            )
        try:
            marks = read_mask(foreground)
        except ValueError as error:
            raise ValueError(f"foreground: {error}") from error
        if shape != valid.shape:
            marks = self.reduce_mask(marks)  # type: ignore[attr-defined]
        found = {"foreground": marks > 0, "void": marks < 0}
        background = valid & ~found["foreground"] & ~found["void"]
        for what, side in (("foreground", found["foreground"]), ("background", background)):
            if (empty := ~side.any(axis=1)).any():
                warnings.warn(
                    f"{empty.sum()} of {count} samples have no {what} in units, first those at "
                    f"{np.flatnonzero(empty)[:5].tolist()}; what is counted on it says nothing of them",
                    DegenerateWarning,
                    stacklevel=4,
                )
        return {name: (("sample", "unit"), one) for name, one in found.items() if name != "void" or one.any()}


class ImageUnits(Units):
    """Units that are parts of images ``(C, H, W)``, all channels of a pixel in one."""

    modality = "image"
    noise_space = "pixels"
    axes = 3
    base_noise = 0.01

    def reduce_mask(self, mask: ArrayLike) -> Marks:
        """Reduce pixel masks to units: on the object are units with more than half of their pixels on it.

        Units with more than half of their pixels void are void; in others void pixels do not count.

        Parameters
        ----------
        mask
            Shape ``(B, H, W)``, values as :func:`kdviz.units.read_mask` takes them.

        Returns
        -------
        ndarray
            Shape ``(B, U)``: bool, or, where some unit is void, int8: 1, 0, and -1 for void.

        Raises
        ------
        ValueError
            If `mask` is not of rank 3, or its values are of no known kind.
        """
        marks = self._read_pixels(mask)
        reduced = np.zeros((len(marks), self.count), np.int8)
        for sample, one in enumerate(marks):
            index = self.index((1, *one.shape), sample)[0]
            on, off, void = (
                np.bincount(index[(index >= 0) & (one == mark)], minlength=self.count) for mark in (1, 0, -1)
            )
            reduced[sample] = np.where(void > on + off, -1, on > off)
        return reduced if (reduced < 0).any() else reduced > 0

    @staticmethod
    def _read_pixels(mask: ArrayLike) -> Marks:
        if np.ndim(mask) != 3:
            raise ValueError(f"masks must have shape (B, H, W), got {np.shape(mask)}")
        return read_mask(mask)

    @staticmethod
    def _check_shape(sample_shape: tuple[int, ...], maker: str) -> tuple[int, ...]:
        """Return height and width of images, or refuse what is none."""
        if len(sample_shape) != 3:
            raise ValueError(
                f"{maker} needs samples of shape (channels, height, width), got {sample_shape}; "
                "pass inputs of shape (B, C, H, W)"
            )
        return sample_shape[1:]
