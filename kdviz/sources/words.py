"""Cut texts of any script into words, and tell which of them people rate as good or bad."""

import functools
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import regex
from numpy.typing import NDArray

from kdviz.sources.files import find_data

_POLARITY = 0.5  # about two standard errors of a lexicon entry, the mean of ten raters
_WORD = regex.compile(
    r"""
    (?! [\s\p{Cc}\p{Default_Ignorable_Code_Point}] )  # nothing that cannot be seen by itself
    (?: (?:\p{Lu}\.){2,}                  # initials: J.R.R., U.S.
    | \d+(?:[.,]\d+)+                     # numbers: 1.8
    | '\d0s                               # decades: '70s
    | \d\ufe0f?\u20e3                     # keycaps
    | (?<!\w)[:;=8]-[()\[\]DP/\\|]+(?!\w) # emoticons: :-)
    | (?<!\S)[:;=][()\[\]DP/\\|](?!\S)    # :) between spaces
    | (?P<run> (?=\w)\X (?:(?!\b|[.:])\X)* ) (?:[-‐‑'’](?&run))*  # inner hyphens, apostrophes: isn't
    | (?P<mark>\X) (?:(?P=mark)(?![\p{GCB=Extend}\p{GCB=ZWJ}\p{GCB=SpacingMark}]))*  # marks alike: ...
    )""",
    regex.VERBOSE
    | regex.WORD
    | regex.VERSION1,  # WORD: \b is a word boundary of Unicode, \X a character as seen
)


def split_words(text: str) -> tuple[str, ...]:
    """Cut a text into words as they are shown; punctuation marks are words.

    Words end at the word boundaries of Unicode [1]_, so that combining marks stay with their letters and an
    emoji is one word; in scripts without spaces (Chinese, Thai) nearly every character is one, and `encode`
    joins those that a tokenizer takes together. Inner apostrophes and hyphens stay in their word; a run of
    one mark (``...``) and an emoticon are one word.

    References
    ----------
    .. [1] Unicode Standard Annex 29, "Unicode Text Segmentation".

    Examples
    --------
    >>> split_words("It's a so-so film... isn't it?")
    ("It's", 'a', 'so-so', 'film', '...', "isn't", 'it', '?')
    """
    return tuple(text[start:end] for start, end in locate_words(text))


def locate_words(text: str) -> NDArray[np.int64]:
    """Return where the words of `split_words` start and end, ``(U, 2)``; nothing between them can be seen."""
    return as_spans([match.span() for match in _WORD.finditer(text)])


def as_spans(places: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Return starts and ends as an array ``(U, 2)``, also of none."""
    return np.array(places, dtype=np.int64).reshape(-1, 2)


def mark_polar(texts: Sequence[Sequence[str]]) -> tuple[NDArray[np.bool_], ...]:
    """Tell for each text which words the lexicon gives a polarity."""
    polar = _read_lexicon(find_data("review_lexicon.txt"))
    return tuple(np.array([word.lower() in polar for word in words], dtype=bool) for words in texts)


def mark_listed(text: str, spans: NDArray[np.int64], words: Sequence[str]) -> NDArray[np.bool_]:
    """Tell which words of a text lie in one of `words`, of which each may be several in a row."""
    marked = np.zeros(len(spans), dtype=bool)
    forms = [unicodedata.normalize(form, word) for word in words for form in ("NFC", "NFD")]
    listed = regex.compile(r"\b\L<words>\b", regex.WORD | regex.IGNORECASE, words=[*words, *forms])
    for match in listed.finditer(text):
        marked |= (spans[:, 0] < match.end()) & (match.start() < spans[:, 1])
    return marked


@functools.lru_cache(maxsize=2)
def _read_lexicon(path: Path) -> frozenset[str]:
    entries = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return frozenset(word for word, rating in entries if abs(float(rating)) >= _POLARITY)
