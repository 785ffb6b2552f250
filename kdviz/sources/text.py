"""Texts and the words in them, with foreground words, and what a network reads of them.

Any fast tokenizer of ``transformers`` will do; no torch.

Symbols: ``N`` texts, ``T`` tokens of the longest encoded text, ``U`` words of the longest text.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from kdviz.arguments import name_some, whole_number
from kdviz.errors import DataError, KdvizWarning
from kdviz.sources.samples import AbsolutePath, Prepared, SampleSet, Source, describe, require_array
from kdviz.sources.tokenizing import Pieces, load_tokenizer, review_tokenizer, tokenize
from kdviz.sources.words import locate_words, mark_polar
from kdviz.units import Tokens, tokens


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class TextSet(SampleSet):
    """Texts, or pairs of them, and where their words are, with foreground, classes and stable names.

    `TextSet.from_sentences` makes one of plain sentences.

    Parameters
    ----------
    texts
        ``N`` texts as networks are to read them; of pairs the first of each (question).
    contexts
        For pairs, the ``N`` second texts; they begin where the first end, without a space.
    spans
        For each text its words as ``(words, 2)``, int64: the first character of each, and the one after the
        last, in order; at least one in each text, none without anything to be seen.
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

    Raises
    ------
    TypeError
        If an array has another data type.
    ValueError
        If a text is empty, words lie outside their text, lengths disagree, names repeat or a label is
        outside `classes`.
    """

    texts: tuple[str, ...]
    spans: tuple[NDArray[np.int64], ...]
    foreground: tuple[NDArray[np.bool_], ...]
    contexts: tuple[str, ...] | None = None

    plural = "texts"
    by_sample = ("texts", "spans", "foreground", "contexts")

    def __post_init__(self) -> None:
        """Check lengths, kinds, names and labels."""
        super().__post_init__()
        for field in self.by_sample:
            entries = getattr(self, field)
            if entries is not None and len(entries) != len(self):
                raise ValueError(f"{field} must have {len(self)} entries, one a text, got {len(entries)}")
        for at, (name, spans, mask) in enumerate(
            zip(self.sample_ids, self.spans, self.foreground, strict=True)
        ):
            require_array(f"spans of {name!r}", spans, np.int64, ("N", 2))
            require_array(f"foreground of {name!r}", mask, np.bool_, (len(spans),))
            first, whole = len(self.texts[at]), len(self.whole(at))
            starts, ends = spans.T
            parts = {0} if self.contexts is None else {0, 1}
            if {*(starts >= first).tolist()} != parts or not all(map(str.strip, self.words[at])):
                raise ValueError(f"{name!r} has no words, or an empty one; leave it out")
            inside = starts[0] >= 0 and ends[-1] <= whole and not ((starts < first) & (ends > first)).any()
            if not inside or (np.diff(spans.ravel()) < 0).any():
                raise ValueError(f"spans of {name!r} must lie in its text, one after the other, got {spans}")

    @classmethod
    def from_sentences(
        cls,
        sentences: Sequence[str | Sequence[str]],
        labels: ArrayLike | None = None,
        *,
        contexts: Sequence[str | Sequence[str]] | None = None,
        foreground: Callable[[str], bool] | Sequence[ArrayLike] | None = None,
        classes: Sequence[str] | None = None,
        sample_ids: Sequence[str] | None = None,
        split: str = "all",
        source: str = "own sentences",
    ) -> "TextSet":
        """Make a set of sentences.

        Parameters
        ----------
        sentences
            ``N`` texts, cut by :func:`kdviz.sources.split_words`, or sequences of words, which are joined by
            spaces.
        labels
            ``N`` integers, position in `classes`; all 0 by default.
        contexts
            Of pairs (question and passage, premise and hypothesis) the ``N`` second texts, like `sentences`.
        foreground
            Which words ought to matter: a function of a word, such as ``{"good", "bad"}.__contains__``, or
            for each sentence a mask over its words, those of the second text after those of the first. By
            default the words that the English lexicon of `movie_reviews` gives a polarity.
        classes
            Names of the classes, by default ``"class 0"`` and so on up to the largest label.
        sample_ids
            ``N`` different names, by default ``"sentence 0"`` and so on.
        split
            The partition of all of them.
        source
            Where the sentences come from.

        Raises
        ------
        TypeError
            If a sentence is neither text nor words, labels are no integers, or names are one text.
        ValueError
            If a sentence is empty, a word has a space in it, lengths disagree, names repeat or a label is
            outside `classes`.

        Examples
        --------
        >>> texts = TextSet.from_sentences(["A fine film.", "It drags."], [1, 0], classes=("bad", "good"))
        >>> texts.words[0], texts.foreground[0].tolist()
        (('A', 'fine', 'film', '.'), [False, True, False, False])
        >>> TextSet.from_sentences(["Who?"], contexts=["Ada was."]).words
        (('Who', '?', 'Ada', 'was', '.'),)
        """
        named = {"sentences": sentences, "contexts": contexts, "classes": classes, "sample_ids": sample_ids}
        for name, names in named.items():
            if isinstance(names, str):
                raise TypeError(f"{name} must be a sequence, got the one text {names!r}")
        texts, spans = _place_all("sentences", sentences)
        if contexts is not None:
            contexts, others = _place_all("contexts", contexts)
            if len(contexts) != len(texts):
                raise ValueError(f"contexts must be {len(texts)}, one a sentence, got {len(contexts)}")
            spans = tuple(map(join_spans, texts, spans, others))
        numbers = np.zeros(len(texts), dtype=np.int64) if labels is None else np.asarray(labels)
        if numbers.dtype.kind not in "iu":
            raise TypeError(f"labels must be integers, got {describe(numbers)}")
        if classes is None:
            classes = [f"class {number}" for number in range(numbers.max(initial=0) + 1)]
        if sample_ids is None:
            sample_ids = [f"sentence {at}" for at in range(len(texts))]
        unmarked = cls(
            texts=texts,
            contexts=contexts,
            spans=spans,
            foreground=tuple(np.zeros(len(places), dtype=bool) for places in spans),
            labels=numbers.astype(np.int64),
            sample_ids=tuple(sample_ids),
            classes=tuple(classes),
            split=np.full(len(texts), split),
            source=source,
        )
        if foreground is None:
            masks = mark_polar(unmarked.words)
        elif callable(foreground):
            masks = tuple(np.array([bool(foreground(word)) for word in text]) for text in unmarked.words)
        else:
            masks = tuple(np.asarray(mask) for mask in foreground)
        return replace(unmarked, foreground=masks)

    def whole(self, at: int) -> str:
        """Return a text, or a pair of them one after the other: what `spans` count in."""
        return self.texts[at] + (self.contexts[at] if self.contexts is not None else "")

    @cached_property
    def words(self) -> tuple[tuple[str, ...], ...]:
        """The words of every text as they are shown."""
        wholes = map(self.whole, range(len(self)))
        return tuple(
            tuple(whole[start:end] for start, end in places.tolist())
            for whole, places in zip(wholes, self.spans, strict=True)
        )

    def prepare(self, *, length: int = 96, tokenizer: Any = None) -> Prepared:
        """Cut the texts into tokens, as `encode` does; `tokenizer` is `review_tokenizer` by default."""
        encoding = encode(self, tokenizer or review_tokenizer(), length=length)
        return Prepared(encoding.ids, encoding.units, encoding.texts.foreground_mask)

    def choose(self, count: int, *, evenly: bool = False, length: int = 96, tokenizer: Any = None) -> Self:
        """Pick texts that have words of both kinds: without them there is nothing to compare.

        Raises
        ------
        DataError
            If there are none.

        Warns
        -----
        KdvizWarning
            If there are fewer than asked for.
        """
        masks = encode(self, tokenizer or review_tokenizer(), length=length).texts.foreground
        both = np.flatnonzero([bool(mask.any() and not mask.all()) for mask in masks])
        if not len(both):
            raise DataError(f"no text of {self.source} has foreground words and others to compare them with")
        if len(both) < count:
            message = f"only {len(both)} texts have words of both kinds; these are measured, not {count}"
            warnings.warn(message, KdvizWarning, stacklevel=2)
        return self.select(both).pick_evenly(count) if evenly else self.select(both[:count])

    @property
    def foreground_mask(self) -> NDArray[np.bool_]:
        """``(N, U)``: the foreground of every text, padded with False to the longest."""
        return _pad(self.foreground, 0).astype(bool)

    @property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of everything but `source`."""
        names = [self.sample_ids, self.classes, self.split.tolist(), self.labels.tolist()]
        texts = [
            self.texts,
            self.contexts,
            *([each.tolist() for each in group] for group in (self.spans, self.foreground)),
        ]
        return hashlib.sha256(json.dumps([names, texts]).encode()).hexdigest()[:16]


def _place_all(name: str, given: Sequence[Any]) -> tuple[tuple[str, ...], tuple[NDArray[np.int64], ...]]:
    """Return texts and where their words are, of texts or sequences of words."""
    texts, spans = [], []
    for at, text in enumerate(given):
        if isinstance(text, str):
            places = locate_words(text)
        else:
            if not isinstance(text, (Sequence, np.ndarray)) or not all(
                isinstance(word, str) for word in text
            ):
                raise TypeError(f"{name} must be texts or sequences of words, got {text!r}")
            if spaced := [word for word in text if any(map(str.isspace, word))]:
                raise ValueError(
                    f"{name}[{at}] is a sequence, hence of words, but {spaced[0]!r} has a space in it; pass "
                    "a text as one string, and of a pair the first text in sentences, the second in contexts"
                )
            lengths = np.array([len(word) for word in text], dtype=np.int64)
            ends = np.cumsum(lengths + 1) - 1
            places = np.stack([ends - lengths, ends], axis=1)
            text = " ".join(text)
        texts.append(text)
        spans.append(places)
    return tuple(texts), tuple(spans)


def join_spans(text: str, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Put the words of a second text after those of the first, `text`."""
    return np.concatenate([first, second + len(text)])


class TextSource(Source):
    """Texts as a study reads them: cut into the pieces of `review_tokenizer` or of one's own."""

    modality: ClassVar[str] = "text"

    length: int = Field(default=96, ge=3, le=512, description="the most tokens of a text")
    tokenizer: AbsolutePath | None = Field(default=None, description="folder of a tokenizer of transformers")

    def _options(self) -> dict[str, Any]:
        return {"length": self.length, "tokenizer": self.load_tokenizer()}

    def load_tokenizer(self) -> Any:
        """Return what cuts the texts into tokens."""
        return load_tokenizer(self.tokenizer) if self.tokenizer else review_tokenizer()


@dataclass(frozen=True, eq=False, repr=False)
class Encoding:
    """Texts as token identifiers; made by `encode`.

    Attributes
    ----------
    ids
        ``(N, T)``, int64, filled up with the padding token, or 0 without one; for pairs of texts
        ``(N, 2, T)``: identifiers, and token types (0 in the first text, 1 in the second).
    inputs
        What the tokenizer's own network takes by name, each ``(N, T)``, int64: ``input_ids`` and, where it
        knows them, ``attention_mask`` and ``token_type_ids``.
    word_of
        ``(N, T)``, int64: position in the text of the word that a token belongs to; -1 for special tokens and
        padding.
    lengths
        ``(N,)``, int64: tokens of each text, special ones included.
    texts
        What was encoded: the texts up to the last word that fits; words that share a token are one word.
    """

    ids: NDArray[np.int64]
    inputs: Mapping[str, NDArray[np.int64]]
    word_of: NDArray[np.int64]
    lengths: NDArray[np.int64]
    texts: TextSet

    @property
    def units(self) -> Tokens:
        """The words as units, for ``kdviz.measure``."""
        return tokens(self.texts.words, self.word_of, self.lengths)

    @property
    def answers(self) -> NDArray[np.int64]:
        """``(N, 2)``: first and last token of the foreground words; -1 where there are none."""
        mask = np.pad(self.texts.foreground_mask, ((0, 0), (0, 1)))  # its last column is that of no word
        marked = np.take_along_axis(mask, self.word_of, axis=1)
        ends = [marked.argmax(1), marked.shape[1] - 1 - marked[:, ::-1].argmax(1)]
        return np.where(marked.any(1, keepdims=True), np.stack(ends, axis=1), -1)


def encode(texts: TextSet, tokenizer: Any, *, length: int = 64) -> Encoding:
    """Cut texts into tokens, as the tokenizer does by itself, and tell which word each belongs to.

    Parameters
    ----------
    texts
        Texts, or pairs of texts.
    tokenizer
        A fast tokenizer of transformers, such as `review_tokenizer` or the one that a pretrained network
        comes with.
    length
        Most tokens of a text, special ones included. A longer text ends after the last word that fits; of a
        pair, the second text does.

    Returns
    -------
    Encoding
        ``T`` is the length of the longest text encoded, at most `length`. Its identifiers are those of
        ``tokenizer(text)``, padding comes last.

    Raises
    ------
    TypeError
        If `texts` is no `TextSet`, `tokenizer` not a fast tokenizer, or `length` no integer.
    ValueError
        If `texts` is empty, or not one word of a text fits.

    Warns
    -----
    KdvizWarning
        How many words were left out, as they did not fit or the tokenizer has no token for them; how many
        words the tokenizer does not know, with examples.

    Notes
    -----
    Words are as small as both their boundaries and the tokens allow: a token that reaches over several words
    makes them one, in the foreground if one of them is. So in scripts without spaces the tokens are the
    words. A token of spaces alone belongs to the word after it.
    """
    if not isinstance(texts, TextSet):
        got = f"got {type(texts).__name__}; make one with TextSet.from_sentences"
        raise TypeError(f"texts must be a kdviz.sources.TextSet, {got}")
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(
            f"tokenizer must be a fast tokenizer of transformers, which tells where its tokens lie, "
            f"got {type(tokenizer).__name__}"
        )
    whole_number("length", length, 1)
    if not len(texts):
        raise ValueError("texts must hold at least one text, got none")
    cut, pieces = texts, tokenize(tokenizer, texts.texts, texts.contexts, texts.spans)
    while any(len(row.ids) > length for row in pieces):
        cut = _shorten(cut, pieces, length)
        pieces = tokenize(tokenizer, cut.texts, cut.contexts, cut.spans)
    marks = [
        np.isin(np.arange(len(row.spans)), row.unit_of[mask])
        for row, mask in zip(pieces, cut.foreground, strict=True)
    ]
    seen = replace(cut, spans=tuple(row.spans for row in pieces), foreground=tuple(marks))
    _warn_of_left_out(texts, pieces, length)
    _warn_of_unknown(seen, pieces, tokenizer)
    known = {
        "input_ids": _pad([row.ids for row in pieces], tokenizer.pad_token_id or 0),
        "attention_mask": _pad([[1] * len(row.ids) for row in pieces], 0),
        "token_type_ids": _pad([row.types for row in pieces], 0),
    }
    ids = known["input_ids"]
    return Encoding(
        ids if texts.contexts is None else np.stack([ids, known["token_type_ids"]], axis=1),
        {name: known[name] for name in known if name in ("input_ids", *tokenizer.model_input_names)},
        _pad([row.word_of for row in pieces], -1),
        known["attention_mask"].sum(axis=1),
        seen,
    )


def _shorten(texts: TextSet, pieces: Sequence[Pieces], length: int) -> TextSet:
    """End every text that has more tokens than `length` after the last word that fits."""
    firsts, seconds, spans, foreground = [], [], [], []
    for at, row in enumerate(pieces):
        word_of = np.array(row.word_of)
        special = int((word_of < 0).sum())
        fits = np.cumsum(np.bincount(word_of[word_of >= 0])) + special <= length
        end = int(row.spans[: len(fits)][fits][:, 1].max(initial=0))
        first = 0 if texts.contexts is None else len(texts.texts[at])
        if end <= first:
            text = f"{texts.sample_ids[at]!r} or a part: {len(row.ids)} tokens, {special} special ones"
            raise ValueError(f"length={length} leaves no word of {text}")
        whole, kept = texts.whole(at), texts.spans[at][:, 1] <= end
        if fits.all():
            end = len(whole)
        firsts.append(whole[: first or end])
        seconds.append(whole[first:end])
        spans.append(texts.spans[at][kept])
        foreground.append(texts.foreground[at][kept])
    return replace(
        texts,
        texts=tuple(firsts),
        contexts=texts.contexts and tuple(seconds),
        spans=tuple(spans),
        foreground=tuple(foreground),
    )


def _pad(rows: Sequence[Sequence[int] | NDArray], value: int) -> NDArray[np.int64]:
    """Put rows of different length into one array ``(N, T)``."""
    return np.array(list(zip_longest(*rows, fillvalue=value)), dtype=np.int64).T


def _warn_of_left_out(texts: TextSet, pieces: Sequence[Pieces], length: int) -> None:
    """Warn of the words that have no token, or lie where none fits."""
    left = [
        len(spans) - int((row.unit_of >= 0).sum()) for spans, row in zip(texts.spans, pieces, strict=True)
    ]
    if any(left):
        message = f"{sum(left)} words of {np.count_nonzero(left)} texts were left out: "
        message += f"they lie beyond length={length} tokens, or the tokenizer has no token for them"
        warnings.warn(message, KdvizWarning, stacklevel=3)


def _warn_of_unknown(texts: TextSet, pieces: Sequence[Pieces], tokenizer: Any) -> None:
    """Warn once of the words that became nothing but the unknown token."""
    unknown: list[str] = []
    for words, row in zip(texts.words, pieces, strict=True):
        known = {
            word for word, piece in zip(row.word_of, row.ids, strict=True) if piece != tokenizer.unk_token_id
        }
        unknown += [word for index, word in enumerate(words) if index not in known]
    if unknown:
        message = f"the tokenizer does not know {len(unknown)} words, which all look alike to the network: "
        warnings.warn(message + name_some(list(dict.fromkeys(unknown))), KdvizWarning, stacklevel=3)
