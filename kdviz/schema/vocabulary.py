"""What is particular to each kind of input, words and presets: the one place where all rooms find it."""

from dataclasses import dataclass
from types import MappingProxyType

import xarray as xr


@dataclass(frozen=True)
class Vocabulary:
    """Words and presets of one modality.

    Attributes
    ----------
    sample, unit
        One input, and one unit of it; both make their plural with an s.
    foreground
        What the annotated units of a sample are together.
    less
        Inputs that take less memory.
    idle
        Share of units without any gain from which on a network may be broken: of a cloud's points ordinary
        max pooling keeps few.
    weight, threshold
        Entropy weight and margin of knowledge points, in nat, where nothing is said: the papers' for most
        networks of images, and for PointNet.
    """

    sample: str
    unit: str
    foreground: str
    less: str
    idle: float = 0.5
    weight: float = 7.0
    threshold: float = 0.2


VOCABULARIES = MappingProxyType(
    {
        "image": Vocabulary("image", "cell", "object", "smaller images"),
        "text": Vocabulary("text", "word", "foreground", "texts cut to a shorter `length`"),
        "cloud": Vocabulary("cloud", "point", "object", "clouds of fewer points", 0.9, 4.0, 0.5),
    }
)


def choose_words(samples: xr.Dataset) -> Vocabulary:
    """Return what belongs to samples, or a network's dataset, by the coordinates of their units.

    Those of images where these say nothing.
    """
    kinds = {"token": "text", "z": "cloud"}
    return VOCABULARIES[next((kinds[name] for name in kinds if name in samples.variables), "image")]
