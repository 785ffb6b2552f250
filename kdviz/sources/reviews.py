"""The built-in texts: rated sentences of movie reviews."""

import hashlib
import lzma
from collections.abc import Iterator
from typing import Literal

import numpy as np

from kdviz.arguments import one_of, whole_number
from kdviz.sources.files import find_data
from kdviz.sources.samples import PARTS, Part
from kdviz.sources.text import TextSet, TextSource

REVIEW_CLASSES = ("negative", "positive")
"""The two classes of the movie reviews and of SST-2, in the order of their labels."""

_HELD_OUT_SHARE = 0.2
_MARGIN = 0.5  # of a mean rating from 0


class MovieReviews(TextSource):
    """The built-in texts: `movie_reviews`."""

    kind: Literal["movie-reviews"] = "movie-reviews"

    def load(self, part: Part) -> TextSet:
        """Read sentences."""
        return movie_reviews(part)


def movie_reviews(split: str = "train", *, count: int | None = None) -> TextSet:
    """Return sentences of movie reviews with the sign of their mean rating by 15 to 29 people [1]_.

    Classes take turns, negative first, so that any even number of texts is balanced, and what is left of the
    larger class is not used. Within a class, order and split are decided by a hash of the sentence's number,
    hence by nothing about it. Nothing but its words tells the class of a sentence.

    Parameters
    ----------
    split
        ``"train"`` or ``"held-out"``, about a fifth; no sentence is in both.
    count
        How many texts, all by default: 8,000 of the training split, 1,930 of the other.

    Returns
    -------
    TextSet
        Foreground: words that people asked for the word alone rated 0.5 or more from 0 (lexicon of [1]_,
        capitals ignored). A text without such a word has an empty mask and is kept.

    Raises
    ------
    ValueError
        If an argument is outside what is said above.
    DataError
        If the data files are missing or damaged.

    Notes
    -----
    Mean ratings, on a scale of -4 to 4, have two humps, highest between 1.5 and 2 on both sides, and few
    sentences lie near 0. The 533 of 10,603 closer to 0 than 0.5 are left out: of these, 7 % are further
    than two standard errors from 0; of the next, up to 0.7, 69 %; beyond, 99.8 %. A tenth of the words are
    foreground. 1,101 of the 8,000 training texts and 279 of the 1,930 held-out ones have no foreground word.

    References
    ----------
    .. [1] Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
       Text", ICWSM 2014, and the data published with it.
    """
    one_of("split", split, PARTS)
    by_class: tuple[list[tuple[str, str]], ...] = ([], [])
    for digest, name, rating, text in sorted(_read_reviews()):
        if (digest < _HELD_OUT_SHARE) == (split == "held-out") and abs(rating) >= _MARGIN:
            by_class[rating > 0].append((name, text))
    largest = 2 * min(map(len, by_class))
    count = largest if count is None else count
    whole_number("count", count, 1, largest)
    chosen = [by_class[index % 2][index // 2] for index in range(count)]
    return TextSet.from_sentences(
        [text for _, text in chosen],
        np.arange(count) % 2,
        sample_ids=[name for name, _ in chosen],
        classes=REVIEW_CLASSES,
        split=split,
        source=f"movie reviews, {split}, margin {_MARGIN:g}",
    )


def _read_reviews() -> Iterator[tuple[float, str, float, str]]:
    """Yield (hash as a number in 0..1, name, mean rating, text) of every sentence."""
    contents = lzma.decompress(find_data("reviews.tsv.xz").read_bytes()).decode("utf-8")
    for line in contents.splitlines():
        number, rating, text = line.split("\t")
        name = f"review-{int(number):05d}"
        digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
        yield digest / 2**64, name, float(rating), text
