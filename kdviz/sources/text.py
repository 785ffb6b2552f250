"""Texts cut into words, with foreground words, and what a network reads of them.

Any fast tokenizer of ``transformers`` will do; no torch.

Symbols: ``N`` texts, ``T`` tokens of the longest encoded text, ``U`` words of the longest text.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from kdviz.arguments import name_some, whole_number
from kdviz.errors import DataError, KdvizWarning, MissingExtraError
from kdviz.sources.files import find_data
from kdviz.sources.samples import Prepared, SampleSet, Source, describe, require_array
from kdviz.sources.words import mark_polar, split_words
from kdviz.units import Tokens, tokens


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
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
        If an array has another data type.
    ValueError
        If a text is empty, lengths disagree, names repeat or a label is outside `classes`.
    """

    words: tuple[tuple[str, ...], ...]
    foreground: tuple[NDArray[np.bool_], ...]
    segments: tuple[NDArray[np.int64], ...] | None = None

    plural = "texts"
    by_sample = ("words", "foreground", "segments")

    def __post_init__(self) -> None:
        """Check lengths, kinds, names and labels."""
        super().__post_init__()
        for name, words in zip(self.sample_ids, self.words, strict=True):
            if not words or not all(map(str.strip, words)):
                raise ValueError(f"{name!r} has no words, or an empty one; leave it out")
        self._check_masks("foreground", self.foreground, np.bool_)
        if self.segments is not None:
            self._check_masks("segments", self.segments, np.int64)
            for name, part in zip(self.sample_ids, self.segments, strict=True):
                if not np.isin(np.diff(part, prepend=0, append=1), (0, 1)).all():
                    raise ValueError(f"segments of {name!r} must be 0 for the first text, then 1, got {part}")

    def _check_masks(self, field: str, masks: Sequence[NDArray], kind: type) -> None:
        if len(masks) != len(self):
            raise ValueError(f"{field} must have {len(self)} masks, one a text, got {len(masks)}")
        for name, words, mask in zip(self.sample_ids, self.words, masks, strict=True):
            require_array(f"{field} of {name!r}", mask, kind, (len(words),))

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
            If a sentence is empty, lengths disagree, names repeat or a label is outside
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
        words = tuple(map(_cut, sentences))
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
        else:
            masks = tuple(np.asarray(mask) for mask in foreground)
        return cls(
            words=words,
            foreground=masks,
            labels=numbers.astype(np.int64),
            sample_ids=tuple(sample_ids),
            classes=tuple(classes),
            split=np.full(len(words), "all"),
            source=source,
        )

    def prepare(self, *, length: int = 96, tokenizer: Any = None) -> Prepared:
        """Cut the texts into tokens, as `encode` does; `tokenizer` is `review_tokenizer` by default."""
        encoding = encode(self, tokenizer or review_tokenizer(), length=length)
        return Prepared(encoding.ids, encoding.units, encoding.texts.foreground_mask)

    def choose(self, count: int, *, length: int = 96, tokenizer: Any = None) -> Self:
        """Pick the first texts that have words of both kinds: without them there is nothing to compare.

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
        return self.select(both[:count])

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


def _cut(sentence: str | Sequence[str]) -> tuple[str, ...]:
    words = split_words(sentence) if isinstance(sentence, str) else sentence
    if not isinstance(words, (Sequence, np.ndarray)) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"sentences must be texts or sequences of words, got {words!r}")
    return tuple(words)


class TextSource(Source):
    """Texts as a study reads them: cut into the pieces of `review_tokenizer`."""

    modality: ClassVar[str] = "text"

    length: int = Field(default=96, ge=3, le=512, description="the most tokens of a text")

    def _options(self) -> dict[str, Any]:
        return {"length": self.length}


@dataclass(frozen=True, eq=False, repr=False)
class Encoding:
    """Texts as token identifiers; made by `encode`.

    Attributes
    ----------
    ids
        ``(N, T)``, int64, filled up with the padding token; for pairs of texts ``(N, 2, T)``: identifiers,
        and token types (0 in the first text, 1 in the second).
    word_of
        ``(N, T)``, int64: position in the text of the word that a token belongs to; -1 for special tokens and
        padding.
    lengths
        ``(N,)``, int64: tokens of each text, special ones included.
    texts
        What was encoded: the texts without the words that were left out.
    """

    ids: NDArray[np.int64]
    word_of: NDArray[np.int64]
    lengths: NDArray[np.int64]
    texts: TextSet

    @property
    def units(self) -> Tokens:
        """The words as units, for ``kdviz.measure``."""
        return tokens(self.texts.words, self.word_of, self.lengths)


def encode(texts: TextSet, tokenizer: Any, *, length: int = 64) -> Encoding:
    """Cut words into tokens, add the special tokens and fill up to the longest text.

    Parameters
    ----------
    texts
        Texts, or pairs of texts.
    tokenizer
        A fast tokenizer of transformers, such as `review_tokenizer` or the one that a pretrained network
        comes with. It gets the words one by one, so one of bytes (RoBERTa, GPT-2) must be loaded with
        ``add_prefix_space=True``.
    length
        Most tokens of a text, special ones included. Words at the end that do not fit whole are left out;
        of a pair, words of the second text.

    Returns
    -------
    Encoding
        ``T`` is the length of the longest text encoded, at most `length`.

    Raises
    ------
    TypeError
        If `texts` is no `TextSet`, `tokenizer` not a fast tokenizer, or `length` no integer.
    ValueError
        If `texts` is empty, the tokenizer has no padding token or reads words one by one as if no space
        stood between them, or not one word of a text fits.

    Warns
    -----
    KdvizWarning
        How many words were left out, as they did not fit or the tokenizer has no token for them; how many
        words the tokenizer does not know, with examples.
    """
    if not isinstance(texts, TextSet):
        got = f"got {type(texts).__name__}; make one with TextSet.from_sentences"
        raise TypeError(f"texts must be a kdviz.sources.TextSet, {got}")
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(f"tokenizer must be a fast tokenizer of transformers, got {type(tokenizer).__name__}")
    spaced = tokenizer("a film", add_special_tokens=False)
    alone = tokenizer(["a", "film"], is_split_into_words=True, add_special_tokens=False)
    if spaced["input_ids"] != alone["input_ids"]:
        advice = "load it with add_prefix_space=True, as AutoTokenizer.from_pretrained takes it"
        raise ValueError(f"tokenizer reads words one by one as if no space stood between them; {advice}")
    whole_number("length", length, 1)
    if not len(texts):
        raise ValueError("texts must hold at least one text, got none")
    encoding = _tokenize(texts, tokenizer)
    fitting = _leave_out(encoding, length)
    if fitting is not texts:
        encoding = _tokenize(fitting, tokenizer)
    _warn_of_unknown(encoding, tokenizer)
    return encoding


def _tokenize(texts: TextSet, tokenizer: Any) -> Encoding:
    """Cut words into tokens, however many they become."""
    firsts = [len(words) for words in texts.words]
    if texts.segments is not None:
        firsts = [int((segment == 0).sum()) for segment in texts.segments]
    parts = [[list(words[:first]) for words, first in zip(texts.words, firsts, strict=True)]]
    if texts.segments is not None:
        parts.append([list(words[first:]) for words, first in zip(texts.words, firsts, strict=True)])
    asked = {"return_token_type_ids": True, "return_attention_mask": True, "return_tensors": "np"}
    padding = {"padding": True, "padding_side": "right"}
    encoded = tokenizer(*parts, is_split_into_words=True, verbose=False, **padding, **asked)
    word_of = np.full(encoded["input_ids"].shape, -1)
    for index, first in enumerate(firsts):
        places = zip(encoded.word_ids(index), encoded.sequence_ids(index), strict=True)
        word_of[index] = [-1 if word is None else word + first * (part or 0) for word, part in places]
    ids = encoded["input_ids"]
    if texts.segments is not None:
        ids = np.stack([ids, encoded["token_type_ids"]], axis=1)
    return Encoding(ids, word_of, encoded["attention_mask"].sum(axis=1), texts)


def _leave_out(encoding: Encoding, length: int) -> TextSet:
    """Leave out words without token and words beyond `length`; the same set if there are none."""
    texts, kept = encoding.texts, []
    for index, words in enumerate(texts.words):
        row = encoding.word_of[index, : encoding.lengths[index]]
        sizes = np.bincount(row[row >= 0], minlength=len(words))
        keep = (sizes > 0) & (np.cumsum(sizes) + (row < 0).sum() <= length)
        parts = np.zeros_like(sizes) if texts.segments is None else texts.segments[index]
        if set(parts[keep]) != set(parts):
            text = f"{texts.sample_ids[index]!r} or a part: {len(row)} tokens, {(row < 0).sum()} special ones"
            raise ValueError(f"length={length} leaves no word of {text}")
        kept.append(keep)
    dropped = [int((~keep).sum()) for keep in kept]
    if not any(dropped):
        return texts
    message = f"{sum(dropped)} words of {np.count_nonzero(dropped)} texts were left out: "
    message += f"they lie beyond length={length} tokens, or the tokenizer has no token for them"
    warnings.warn(message, KdvizWarning, stacklevel=3)

    def shorten(group: tuple[NDArray, ...]) -> tuple[NDArray, ...]:
        return tuple(values[keep] for values, keep in zip(group, kept, strict=True))

    return replace(
        texts,
        words=tuple(tuple(compress(words, keep)) for words, keep in zip(texts.words, kept, strict=True)),
        foreground=shorten(texts.foreground),
        segments=texts.segments and shorten(texts.segments),
    )


def _warn_of_unknown(encoding: Encoding, tokenizer: Any) -> None:
    """Warn once of the words that became nothing but the unknown token."""
    unknown: list[str] = []
    ids = encoding.ids if encoding.ids.ndim == 2 else encoding.ids[:, 0]
    for words, row, word_of in zip(encoding.texts.words, ids, encoding.word_of, strict=True):
        known = {*word_of[row != tokenizer.unk_token_id].tolist()}
        unknown += [word for index, word in enumerate(words) if index not in known]
    if unknown:
        message = f"the tokenizer does not know {len(unknown)} words, which all look alike to the network: "
        warnings.warn(message + name_some(list(dict.fromkeys(unknown))), KdvizWarning, stacklevel=3)


def review_tokenizer() -> Any:
    """Return the tokenizer of the built-in movie reviews: 4,000 lower-case word pieces learned from them.

    Only the training split was read for it. ``len(tokenizer)`` is the `vocabulary` that
    ``kdviz.models.text.build`` asks for.

    Returns
    -------
    transformers.PreTrainedTokenizerFast
        ``[CLS] words [SEP]``, and ``[CLS] question [SEP] context [SEP]`` for pairs.

    Raises
    ------
    MissingExtraError
        If transformers is not installed.
    DataError
        If the vocabulary is missing or damaged.
    """
    try:
        import tokenizers
        from transformers import PreTrainedTokenizerFast
    except ModuleNotFoundError:
        raise MissingExtraError("tokenizers need transformers: install kdviz[text]") from None
    lines = find_data("review_vocabulary.txt").read_text(encoding="utf-8").splitlines()
    pieces = {piece: index for index, piece in enumerate(lines)}
    cut = tokenizers.Tokenizer(tokenizers.models.WordPiece(pieces, unk_token="[UNK]"))
    cut.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    cut.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    cut.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, pieces[name]) for name in ("[CLS]", "[SEP]")],
    )
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=cut, **special)
