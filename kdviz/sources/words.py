"""Cut texts into words, and tell which of them people rate as good or bad."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdviz.sources.files import find_data

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
    """Cut a text as `split_words` does: each word with its first character's position and its end."""
    return [(match.group(), *match.span()) for match in _WORD.finditer(text)]


def mark_polar(texts: Sequence[Sequence[str]]) -> tuple[NDArray[np.bool_], ...]:
    """Tell for each text which words the lexicon gives a polarity."""
    polar = _read_lexicon(find_data("review_lexicon.txt"))
    return tuple(np.array([word.lower() in polar for word in words]) for words in texts)


@functools.lru_cache(maxsize=2)
def _read_lexicon(path: Path) -> frozenset[str]:
    entries = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return frozenset(word for word, rating in entries if abs(float(rating)) >= _POLARITY)
