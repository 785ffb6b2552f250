"""Words of texts.

Symbols: ``B`` texts, ``T`` tokens of the longest, ``U`` words of the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdviz.units.base import Coordinates, Units


@dataclass(frozen=True, eq=False)
class Tokens(Units):
    """The words of texts: word pieces grouped to the word as shown; special tokens and padding are none.

    Noise falls on the output of the embedding module, ``(tokens, width)``. Make one with :func:`tokens`.
    """

    words: tuple[tuple[str, ...], ...]
    word_of: NDArray[np.int64]
    lengths: NDArray[np.int64]
    kind = "words"
    modality = "text"
    noise_space = "relative embedding"
    axes = 1
    base_noise = 0.01
    feature = "identity"
    needs_entry = True

    @property
    def count(self) -> int:
        """Number of words of the longest sample."""
        return max(len(text) for text in self.words)

    def index(self, sample_shape: tuple[int, ...], sample: int = 0) -> NDArray[np.int64]:
        """Return the word of every element of one sample's embeddings, -1 for special tokens.

        Parameters
        ----------
        sample_shape
            ``(tokens, width)``, without padding.
        sample
            Position of the sample.

        Returns
        -------
        ndarray
            Shape `sample_shape`, int64.

        Raises
        ------
        ValueError
            If the embedding gives something else than one vector a token.
        """
        if len(sample_shape) != 2 or sample_shape[0] != self.length(sample):
            raise ValueError(
                f"units.tokens needs one vector a token, ({self.length(sample)}, width), where noise enters; "
                f"got {sample_shape}; entry must name the module whose output embeds the tokens"
            )
        return np.broadcast_to(self.word_of[sample, : sample_shape[0], None], sample_shape)

    @property
    def width(self) -> int:
        """Number of tokens of a padded text."""
        return self.word_of.shape[1]

    def length(self, sample: int) -> int:
        """Return the number of tokens of a sample, special ones included and padding not."""
        return int(self.lengths[sample])

    def cut(self, sample: int) -> bytes:
        """Return the word of every token of a sample."""
        return self.word_of[sample, : self.length(sample)].tobytes()

    def sizes(self, samples: int, sample_shape: tuple[int, ...] | None) -> NDArray[np.int32]:
        """Count the pieces of every word, ``(B, U)``, 0 where there is no word."""
        counts = [np.bincount(row[row >= 0], minlength=self.count) for row in self.word_of]
        return np.array(counts, np.int32)

    def valid(self, samples: int) -> NDArray[np.bool_]:
        """Tell which words exist, ``(B, U)``."""
        if samples != len(self.words):
            raise ValueError(f"units.tokens has the words of {len(self.words)} texts, inputs are {samples}")
        counts = np.array([len(text) for text in self.words])
        return np.arange(self.count) < counts[:, None]

    def coordinates(self, inputs: ArrayLike = ()) -> Coordinates:
        """Return ``token``, the words as shown, ``(B, U)``; empty where padded."""
        padded = [[*text, *[""] * (self.count - len(text))] for text in self.words]
        return {"token": (("sample", "unit"), np.array(padded, dtype=str))}

    def describe(self) -> str:
        """Name the units."""
        return self.kind


def tokens(words: Sequence[Sequence[str]], word_of: ArrayLike, lengths: ArrayLike) -> Tokens:
    """Take the words of texts as units, from what a tokeniser says.

    Parameters
    ----------
    words
        The words of every text as they are to be shown; at least one each.
    word_of
        Shape ``(B, T)``, integers: the word that each token is a piece of, -1 for special tokens and padding.
    lengths
        Shape ``(B,)``, integers: tokens of every text, special ones included, padding not.

    Raises
    ------
    ValueError
        If a text has no word, a word has no token, or the shapes do not fit.

    Examples
    --------
    >>> from kdviz import units
    >>> two = units.tokens([["un", "likely"], ["good"]], [[-1, 0, 1, 1, -1], [-1, 0, -1, -1, -1]], [5, 3])
    >>> two.index((3, 2), sample=1).tolist()
    [[-1, -1], [0, 0], [-1, -1]]
    """
    texts = tuple(tuple(str(word) for word in text) for text in words)
    pieces, sizes = np.asarray(word_of), np.asarray(lengths)
    whole = pieces.dtype.kind in "iu" and sizes.dtype.kind in "iu"
    fitting = pieces.ndim == 2 and len(pieces) == len(texts) and sizes.shape == (len(texts),)
    if not texts or not whole or not fitting:
        raise ValueError(
            f"units.tokens: word_of must be integers of shape ({len(texts)}, tokens) and lengths one integer "
            f"for each of {len(texts)} texts, at least one; got {pieces.dtype} {pieces.shape} and "
            f"{sizes.dtype} {sizes.shape}"
        )
    for sample, (text, row, size) in enumerate(zip(texts, pieces, sizes, strict=True)):
        named = set(row[:size].tolist()) - {-1}
        if not text or not 0 < size <= len(row) or (row[size:] != -1).any() or named != {*range(len(text))}:
            raise ValueError(
                f"units.tokens: text {sample} has {len(text)} words and {size} tokens; there must be a word, "
                f"word_of must name every word at these tokens, and be -1 after them; got {row.tolist()[:10]}"
            )
    return Tokens(texts, pieces.astype(np.int64), sizes.astype(np.int64))
