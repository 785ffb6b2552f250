"""Texts cut into words, with foreground words, and the built-in ones: rated sentences of movie reviews.

NumPy only. Other texts come from ``kdviz.sources.text_files``; how words become what a network reads is the
business of ``kdviz.sources.encoding``.

Symbols: ``N`` texts, ``U`` words of the longest text.
"""

import functools
import hashlib
import json
import lzma
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdviz.errors import DataError
from kdviz.sources.files import find_data
from kdviz.sources.samples import SampleSet, describe, require_integer

REVIEW_CLASSES = ("negative", "positive")
"""The two classes of the movie reviews and of SST-2, in the order of their labels."""

_SPLITS = ("train", "held-out")
_HELD_OUT_SHARE = 0.2
_POLARITY = 0.5  # about two standard errors of a lexicon entry, the mean of ten raters
_WORD = re.compile(
    r"""
    (?:[A-Z]\.){2,}          # initials: J.R.R., U.S.
    | \d+(?:[.,]\d+)+        # numbers: 1.8
    | '\d0s                  # decades: '70s
    | \w+(?:[-'’]\w+)*       # words, inner hyphens and apostrophes included: isn't
    | ([^\w\s])\1*           # punctuation, runs of one mark together: ...
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, eq=False)
class TextSet(SampleSet):
    """Texts as words as shown, with their foreground, classes and stable names.

    `TextSet.from_sentences` makes one of plain sentences.

    Parameters
    ----------
    words
        For each of ``N`` texts its words, at least one, none empty.
    foreground
        For each text a mask over its words, bool; all False where a text has no foreground word.
    labels
        ``(N,)``, int64, position in `classes`.
    sample_ids
        ``N`` different names that stay with a text whatever it is selected with.
    classes
        Names of the classes.
    split
        ``(N,)``, text: the partition each text belongs to.
    source
        Where the texts come from, for records and captions.
    segments
        For pairs of texts, for each pair an int64 array over its words: 0 in the first (question), 1 in the
        second (context), in this order.

    Raises
    ------
    TypeError
        If words are no text, or an array has another data type.
    ValueError
        If a text is empty, lengths disagree, names repeat or a label is outside `classes`.
    """

    words: tuple[tuple[str, ...], ...]
    foreground: tuple[NDArray[np.bool_], ...]
    labels: NDArray[np.int64]
    sample_ids: tuple[str, ...]
    classes: tuple[str, ...]
    split: NDArray[np.str_]
    source: str
    segments: tuple[NDArray[np.int64], ...] | None = None

    plural = "texts"
    by_sample = ("words", "foreground", "segments")

    def __post_init__(self) -> None:
        """Check lengths, kinds, names and labels."""
        self._check_names(len(self.words))
        self._check_words()
        self._check_masks("foreground", self.foreground, np.bool_)
        if self.segments is not None:
            self._check_masks("segments", self.segments, np.int64)
            for name, segment in zip(self.sample_ids, self.segments, strict=True):
                if not np.isin(np.diff(segment, prepend=0, append=1), (0, 1)).all():
                    raise ValueError(
                        f"segments of {name!r} must be 0 for the first text, then 1, got {segment}"
                    )

    def _check_words(self) -> None:
        for name, words in zip(self.sample_ids, self.words, strict=True):
            if isinstance(words, str) or not all(isinstance(word, str) for word in words):
                raise TypeError(f"words of {name!r} must be a sequence of texts, such as from split_words")
            if not words:
                raise ValueError(f"{name!r} is an empty text; leave it out")
            if not all(word.strip() for word in words):
                raise ValueError(
                    f"{name!r} has an empty word at position {[*map(str.strip, words)].index('')}"
                )

    def _check_masks(self, field: str, masks: Sequence[NDArray], kind: type) -> None:
        if len(masks) != len(self):
            raise ValueError(f"{field} must have {len(self)} masks, one a text, got {len(masks)}")
        for name, words, mask in zip(self.sample_ids, self.words, masks, strict=True):
            if not (isinstance(mask, np.ndarray) and mask.dtype == kind):
                raise TypeError(
                    f"{field} of {name!r} must be an array of {kind.__name__}, got {describe(mask)}"
                )
            if mask.shape != (len(words),):
                raise ValueError(f"{field} of {name!r} must have shape ({len(words)},), got {mask.shape}")

    @classmethod
    def from_sentences(
        cls,
        sentences: Sequence[str | Sequence[str]],
        labels: ArrayLike | None = None,
        *,
        foreground: Callable[[str], bool] | Sequence[ArrayLike] | None = None,
        classes: Sequence[str] | None = None,
        sample_ids: Sequence[str] | None = None,
        source: str = "own sentences",
    ) -> "TextSet":
        """Make a set of sentences; its split is ``"all"``.

        Parameters
        ----------
        sentences
            ``N`` texts, cut by `split_words`, or sequences of words, taken as they are.
        labels
            ``N`` integers, position in `classes`; all 0 by default.
        foreground
            Which words ought to matter: a function of a word, such as ``{"good", "bad"}.__contains__``, or
            for each sentence a mask over its words. By default the words that the English lexicon of
            `movie_reviews` gives a polarity.
        classes
            Names of the classes, by default ``"class 0"`` and so on up to the largest label.
        sample_ids
            ``N`` different names, by default ``"sentence 0"`` and so on.
        source
            Where the sentences come from.

        Raises
        ------
        TypeError
            If a sentence is neither text nor words, labels are no integers, or names are one text.
        ValueError
            If there is no sentence or one is empty, lengths disagree, names repeat or a label is outside
            `classes`.

        Examples
        --------
        >>> texts = TextSet.from_sentences(["A fine film.", "It drags."], [1, 0], classes=("bad", "good"))
        >>> texts.words[0], texts.foreground[0].tolist()
        (('A', 'fine', 'film', '.'), [False, True, False, False])
        """
        for name, names in (("sentences", sentences), ("classes", classes), ("sample_ids", sample_ids)):
            if isinstance(names, str):
                raise TypeError(f"{name} must be a sequence, got the one text {names!r}")
        words = tuple(_cut(sentence, at) for at, sentence in enumerate(sentences))
        if not words:
            raise ValueError("sentences must hold at least one text, got none")
        numbers = np.zeros(len(words), dtype=np.int64) if labels is None else np.asarray(labels)
        if numbers.dtype.kind not in "iu":
            raise TypeError(f"labels must be integers, got {describe(numbers)}")
        if classes is None:
            classes = [f"class {number}" for number in range(numbers.max(initial=0) + 1)]
        if sample_ids is None:
            sample_ids = [f"sentence {at}" for at in range(len(words))]
        if foreground is None:
            masks = mark_polar(words)
        elif callable(foreground):
            masks = tuple(np.array([bool(foreground(word)) for word in text]) for text in words)
        elif isinstance(foreground, (Sequence, np.ndarray)):
            masks = tuple(np.asarray(mask) for mask in foreground)
        else:
            raise TypeError(
                "foreground must be a function of a word or one mask a sentence, got "
                f"{describe(foreground)}; of a set of words, pass its .__contains__"
            )
        return cls(
            words=words,
            foreground=masks,
            labels=numbers.astype(np.int64),
            sample_ids=tuple(sample_ids),
            classes=tuple(classes),
            split=np.full(len(words), "all"),
            source=source,
        )

    def __repr__(self) -> str:
        """Say how many texts of what length, without printing any."""
        longest = max(map(len, self.words), default=0)
        return f"TextSet({len(self)} texts of up to {longest} words, {self.source!r})"

    @property
    def foreground_mask(self) -> NDArray[np.bool_]:
        """``(N, U)``: the foreground of every text, padded with False to the longest."""
        mask = np.zeros((len(self), max(map(len, self.words), default=0)), dtype=bool)
        for row, foreground in zip(mask, self.foreground, strict=True):
            row[: len(foreground)] = foreground
        return mask

    @property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of everything but `source`."""
        names = [self.sample_ids, self.classes, self.split.tolist(), self.labels.tolist(), self.words]
        masks = [
            [array.astype(int).tolist() for array in group]
            for group in (self.foreground, self.segments or ())
        ]
        return hashlib.sha256(json.dumps([names, masks]).encode()).hexdigest()[:16]


def _cut(sentence: str | Sequence[str], at: int) -> tuple[str, ...]:
    words = split_words(sentence) if isinstance(sentence, str) else sentence
    if not isinstance(words, (Sequence, np.ndarray)) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"sentences must be texts or sequences of words, got {describe(words)} at {at}")
    if not len(words):
        raise ValueError(f"sentences must not be empty, the one at position {at} is; leave it out")
    return tuple(words)


def split_words(text: str) -> tuple[str, ...]:
    """Cut a text into words as they are shown; punctuation marks are words.

    Inner apostrophes and hyphens stay in their word; a run of one mark (``...``) is one word.

    Examples
    --------
    >>> split_words("It's a so-so film... isn't it?")
    ("It's", 'a', 'so-so', 'film', '...', "isn't", 'it', '?')
    """
    return tuple(word for word, _, _ in locate_words(text))


def locate_words(text: str) -> list[tuple[str, int, int]]:
    """Cut a text as `split_words` does; give each word with its first character's position and its end."""
    return [(match.group(), *match.span()) for match in _WORD.finditer(text)]


def movie_reviews(split: str = "train", *, count: int | None = None, margin: float = 0.5) -> TextSet:
    """Give sentences of movie reviews with the sign of their mean rating by 15 to 29 people [1]_.

    Classes take turns, negative first, so that any even number of texts is balanced, and what is left of the
    larger class is not used. Within a class, order and split are decided by a hash of the sentence's number,
    hence by nothing about it. Nothing but its words tells the class of a sentence.

    Parameters
    ----------
    split
        ``"train"`` or ``"held-out"``, about a fifth; no sentence is in both.
    count
        How many texts, all by default: 8,000 of the training split, 1,930 of the other.
    margin
        Sentences whose mean rating, on a scale of -4 to 4, is closer to 0 than this are left out.

    Returns
    -------
    TextSet
        Foreground: words that people asked for the word alone rated 0.5 or more from 0 (lexicon of [1]_,
        capitals ignored). A text without such a word has an empty mask and is kept.

    Raises
    ------
    ValueError, TypeError
        If an argument is outside what is said above.
    DataError
        If the data files are missing or damaged.

    Notes
    -----
    Mean ratings have two humps, highest between 1.5 and 2 on both sides, and few sentences lie near 0. The
    default margin drops 533 of 10,603 sentences: of these, 7 % are further than two standard errors from 0;
    of the next, up to 0.7, 69 %; beyond, 99.8 %. A tenth of the words are foreground. 1,101 of the 8,000
    training texts and 279 of the 1,930 held-out ones have no foreground word.

    References
    ----------
    .. [1] Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
       Text", ICWSM 2014, and the data published with it.
    """
    if split not in _SPLITS:
        raise ValueError(f"split must be one of {_SPLITS}, got {split!r}")
    if not 0 <= margin < 4:
        raise ValueError(f"margin must lie in [0, 4), got {margin}")
    by_class: tuple[list[tuple[str, str]], ...] = ([], [])
    for digest, name, rating, text in sorted(_read_reviews()):
        if (digest < _HELD_OUT_SHARE) == (split == "held-out") and rating and abs(rating) >= margin:
            by_class[rating > 0].append((name, text))
    largest = 2 * min(map(len, by_class))
    if not largest:
        raise ValueError(f"margin={margin} leaves no sentence of one class; choose a smaller one")
    count = largest if count is None else count
    require_integer("count", count, 1, largest)
    chosen = [by_class[index % 2][index // 2] for index in range(count)]
    words = tuple(split_words(text) for _, text in chosen)
    return TextSet(
        words=words,
        foreground=mark_polar(words),
        labels=np.arange(count) % 2,
        sample_ids=tuple(name for name, _ in chosen),
        classes=REVIEW_CLASSES,
        split=np.full(count, split),
        source=f"movie reviews, {split}, margin {margin:g}",
    )


def _read_reviews() -> Iterator[tuple[float, str, float, str]]:
    """Yield (hash as a number in 0..1, name, mean rating, text) of every sentence."""
    path = find_data("reviews.tsv.xz")
    try:
        for line in lzma.decompress(path.read_bytes()).decode("utf-8").splitlines():
            number, rating, text = line.split("\t")
            name = f"review-{int(number):05d}"
            digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
            yield digest / 2**64, name, float(rating), text
    except (lzma.LZMAError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def mark_polar(texts: Sequence[Sequence[str]]) -> tuple[NDArray[np.bool_], ...]:
    """Tell for each text which words the lexicon gives a polarity."""
    polar = _read_lexicon(find_data("review_lexicon.txt"))
    return tuple(np.array([word.lower() in polar for word in words]) for words in texts)


@functools.lru_cache(maxsize=2)
def _read_lexicon(path: Path) -> frozenset[str]:
    try:
        entries = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        return frozenset(word for word, rating in entries if abs(float(rating)) >= _POLARITY)
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
