"""What people call the parts of each kind of input: the one place where messages, pages and app find it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Vocabulary:
    """Words of one modality.

    Attributes
    ----------
    sample, unit
        One input, and one unit of it; both make their plural with an s.
    foreground
        What the annotated units of a sample are together.
    less
        Inputs that take less memory.
    """

    sample: str
    unit: str
    foreground: str
    less: str


VOCABULARIES = MappingProxyType(
    {
        "image": Vocabulary("image", "cell", "object", "smaller images"),
        "text": Vocabulary("text", "word", "foreground", "texts cut to a shorter `length`"),
        "cloud": Vocabulary("cloud", "point", "object", "clouds of fewer points"),
    }
)


def choose_words(attrs: Mapping[str, Any]) -> Vocabulary:
    """Return the words for what a run of these attributes is of; of images where it does not say."""
    return VOCABULARIES[str(attrs.get("modality", "image"))]
