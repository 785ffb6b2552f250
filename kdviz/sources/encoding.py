"""Turn words into what a network reads, and remember which token belongs to which word.

Any fast tokenizer of ``transformers`` will do; no torch.

Symbols: ``N`` texts, ``T`` tokens of the longest encoded text, ``U`` words of the longest text.
"""

import functools
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdviz.errors import KdvizWarning, MissingExtraError
from kdviz.sources.files import find_data
from kdviz.sources.samples import list_some, require_integer
from kdviz.sources.text import TextSet
from kdviz.units import Tokens, tokens


@dataclass(frozen=True, eq=False)
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

    def __repr__(self) -> str:
        """Say how many texts of how many tokens, without printing any."""
        longest = self.word_of.shape[1]
        return f"Encoding({len(self.texts)} texts of up to {longest} tokens, {self.texts.source!r})"


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
        raise TypeError(
            f"texts must be a kdviz.sources.TextSet, got {type(texts).__name__}; make one with "
            "TextSet.from_sentences"
        )
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(
            f"tokenizer must be a fast tokenizer of transformers, which knows the word of a token; "
            f"got {type(tokenizer).__name__}"
        )
    if tokenizer.pad_token_id is None:
        raise ValueError("tokenizer must have a padding token; set tokenizer.pad_token")
    if _glues_words(tokenizer):
        raise ValueError(
            "tokenizer reads words that come one by one as if no space stood between them; load it with "
            "add_prefix_space=True, such as AutoTokenizer.from_pretrained(folder, add_prefix_space=True)"
        )
    require_integer("length", length, 1)
    if not len(texts):
        raise ValueError("texts must hold at least one text, got none")
    rows, words_of, types = _tokenize(texts, tokenizer)
    fitting = _fit(texts, words_of, length)
    if fitting is not texts:
        rows, words_of, types = _tokenize(fitting, tokenizer)
    _warn_of_unknown(fitting, tokenizer, rows, words_of)
    ids = _pad(rows, tokenizer.pad_token_id)
    if texts.segments is not None:
        ids = np.stack([ids, _pad(types, 0)], axis=1)
    return Encoding(ids, _pad(words_of, -1), np.array([len(row) for row in rows]), fitting)


_Rows = list[list[int]]


def _glues_words(tokenizer: Any) -> bool:
    """Tell whether two words alone become other tokens than with a space between them."""
    spaced = tokenizer("a film", add_special_tokens=False)
    alone = tokenizer(["a", "film"], is_split_into_words=True, add_special_tokens=False)
    return spaced["input_ids"] != alone["input_ids"]


def _tokenize(texts: TextSet, tokenizer: Any) -> tuple[_Rows, _Rows, _Rows]:
    """Give token identifiers, words of tokens and types of tokens, text by text, without limit or padding."""
    firsts = [len(words) for words in texts.words]
    if texts.segments is not None:
        firsts = [int((segment == 0).sum()) for segment in texts.segments]
    parts = [[list(words[:first]) for words, first in zip(texts.words, firsts, strict=True)]]
    if texts.segments is not None:
        parts.append([list(words[first:]) for words, first in zip(texts.words, firsts, strict=True)])
    encoded = tokenizer(*parts, is_split_into_words=True, return_token_type_ids=True, verbose=False)
    words_of = []
    for index, first in enumerate(firsts):
        sequence = encoded.sequence_ids(index)
        words_of.append(
            [
                -1 if word is None else word + first * (part or 0)
                for word, part in zip(encoded.word_ids(index), sequence, strict=True)
            ]
        )
    return encoded["input_ids"], words_of, encoded["token_type_ids"]


def _fit(texts: TextSet, words_of: _Rows, length: int) -> TextSet:
    """Leave out words without token and words beyond `length`; the same set if there are none."""
    kept, dropped = [], Counter[str]()
    for index, row in enumerate(words_of):
        sizes = np.bincount([word for word in row if word >= 0], minlength=len(texts.words[index]))
        room = length - row.count(-1)
        keep = (sizes > 0) & (np.cumsum(sizes) <= room)
        dropped["too long"] += int((np.cumsum(sizes) > room).sum())
        dropped["no token"] += int(((sizes == 0) & (np.cumsum(sizes) <= room)).sum())
        parts = np.zeros_like(keep, int) if texts.segments is None else texts.segments[index]
        if set(parts[keep]) != set(parts):
            raise ValueError(
                f"length={length} leaves no word of {texts.sample_ids[index]!r}, or of a part of it: it has "
                f"{row.count(-1)} special tokens and {int(sizes.sum())} others"
            )
        kept.append(keep)
    if not dropped.total():
        return texts
    cut = sum(not keep.all() for keep in kept)
    warnings.warn(
        f"{dropped.total()} words of {cut} texts were left out: {dropped['too long']} beyond length={length} "
        f"tokens, {dropped['no token']} for which the tokenizer has no token",
        KdvizWarning,
        stacklevel=3,
    )
    return replace(
        texts,
        words=tuple(
            tuple(word for word, stays in zip(words, keep, strict=True) if stays)
            for words, keep in zip(texts.words, kept, strict=True)
        ),
        foreground=tuple(mask[keep] for mask, keep in zip(texts.foreground, kept, strict=True)),
        segments=texts.segments
        and tuple(segment[keep] for segment, keep in zip(texts.segments, kept, strict=True)),
    )


def _warn_of_unknown(texts: TextSet, tokenizer: Any, rows: _Rows, words_of: _Rows) -> None:
    """Warn once of the words that became nothing but the unknown token."""
    unknown: list[str] = []
    for words, row, words_row in zip(texts.words, rows, words_of, strict=True):
        known = {word for token, word in zip(row, words_row, strict=True) if token != tokenizer.unk_token_id}
        unknown += [word for index, word in enumerate(words) if index not in known]
    if unknown:
        warnings.warn(
            f"the tokenizer does not know {len(unknown)} words, which all look alike to the network: "
            f"{list_some(list(dict.fromkeys(unknown)))}",
            KdvizWarning,
            stacklevel=3,
        )


def _pad(rows: _Rows, filling: int) -> NDArray[np.int64]:
    padded = np.full((len(rows), max(map(len, rows))), filling, dtype=np.int64)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded


def review_tokenizer() -> Any:
    """Give the tokenizer of the built-in movie reviews: 4,000 lower-case word pieces learned from them.

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
    return _make_tokenizer(find_data("review_vocabulary.txt"))


@functools.lru_cache(maxsize=2)
def _read_pieces(path: Path) -> tuple[str, ...]:
    return tuple(path.read_text(encoding="utf-8").splitlines())


def _make_tokenizer(path: Path) -> Any:
    try:
        import tokenizers
        from transformers import PreTrainedTokenizerFast
    except ModuleNotFoundError:
        raise MissingExtraError("tokenizers need transformers: install kdviz[text]") from None
    pieces = {piece: index for index, piece in enumerate(_read_pieces(path))}
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
