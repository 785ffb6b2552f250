"""What tokenizers make of texts: pieces, and the words that each belongs to. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdviz.errors import DataError, MissingExtraError
from kdviz.sources.files import find_data
from kdviz.sources.samples import check_folder


@dataclass(frozen=True)
class Pieces:
    """What a tokenizer makes of one text.

    Attributes
    ----------
    ids, types
        Identifier and type of every token.
    word_of
        The word seen through the tokens that each belongs to; -1: none, of special ones.
    spans
        Where those words lie in the text.
    unit_of
        For every word of the text the one of `spans` that it is part of; -1 of those without a token.
    """

    ids: list[int]
    types: list[int]
    word_of: list[int]
    spans: NDArray[np.int64]
    unit_of: NDArray[np.int64]


def tokenize(
    tokenizer: Any,
    texts: Sequence[str],
    contexts: Sequence[str] | None,
    spans: Sequence[NDArray[np.int64]],
) -> list[Pieces]:
    """Cut texts, or pairs of them, into tokens, however many they become, and give each token to a word.

    Parameters
    ----------
    tokenizer
        A fast one.
    texts, contexts, spans
        As of :class:`kdviz.sources.TextSet`.
    """
    parts = [list(texts)] if contexts is None else [list(texts), list(contexts)]
    asked = {"return_offsets_mapping": True, "return_token_type_ids": True, "verbose": False}
    encoded = tokenizer(*parts, padding=False, truncation=False, **asked)
    rows = []
    for at, (text, words) in enumerate(zip(texts, spans, strict=True)):
        part = np.array([-1 if part is None else part for part in encoded.sequence_ids(at)])
        places = np.array(encoded["offset_mapping"][at]) + len(text) * (part > 0)[:, None]
        found = _give_words(places, part, words)
        rows.append(Pieces(encoded["input_ids"][at], encoded["token_type_ids"][at], *found))
    return rows


def _give_words(
    places: NDArray[np.int64], part: NDArray[np.int64], words: NDArray[np.int64]
) -> tuple[list[int], NDArray[np.int64], NDArray[np.int64]]:
    """Return `word_of`, `spans` and `unit_of`, given where tokens and words begin and end.

    Tokens of spaces alone, or without a place, go to the next word that has one, else to the one before.
    """
    starts, ends = words.T
    low = np.searchsorted(ends, places[:, 0], side="right")
    high = np.searchsorted(starts, places[:, 1], side="left") - 1
    touching = (part >= 0) & (low <= high)
    joined = np.zeros(len(words), dtype=bool)  # to the word before
    for first, last in zip(low[touching], high[touching], strict=True):
        joined[first + 1 : last + 1] = True
    group = np.cumsum(~joined) - 1
    group_of = np.full(len(part), -1)
    for tokens in (np.flatnonzero(part == 0), np.flatnonzero(part == 1)):
        known = tokens[touching[tokens]]
        if len(known):
            nearest = np.searchsorted(known, tokens).clip(max=len(known) - 1)
            group_of[tokens] = group[low[known[nearest]]]
    groups = np.unique(group_of[group_of >= 0])
    number = np.full(len(words) + 1, -1)  # and -1 for none, by its last entry
    number[groups] = np.arange(len(groups))
    unit_of = number[group]
    bounds = [np.searchsorted(group, groups), np.searchsorted(group, groups, side="right") - 1]
    return number[group_of].tolist(), np.stack([starts[bounds[0]], ends[bounds[1]]], axis=1), unit_of


@lru_cache(maxsize=2)
def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer in a folder, as ``save_pretrained`` of transformers leaves it.

    Without a padding token, as of GPT-2, it fills up with the token that ends texts.

    Raises
    ------
    MissingExtraError
        If transformers is not installed.
    DataError
        If there is none in the folder.
    """
    transformers = _load_transformers()
    check_folder("tokenizer", folder)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no tokenizer as save_pretrained writes it: {error}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def review_tokenizer() -> Any:
    """Return the tokenizer of the built-in movie reviews: 4,000 lower-case word pieces learned from them.

    Only the training split was read for it. ``len(tokenizer)`` is the `vocabulary` that
    ``kdviz.models.text.build`` asks for.

    Returns
    -------
    transformers.BertTokenizerFast
        ``[CLS] words [SEP]``, and ``[CLS] question [SEP] context [SEP]`` for pairs.

    Raises
    ------
    MissingExtraError
        If transformers is not installed.
    DataError
        If the vocabulary is missing or damaged.
    """
    vocabulary, wanted = find_data("review_vocabulary.txt"), ["input_ids", "attention_mask"]
    return _load_transformers().BertTokenizerFast(str(vocabulary), model_input_names=wanted)


_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def word_tokenizer(words: Sequence[str]) -> Any:
    """Return a tokenizer whose tokens are these words and marks; others become the unknown token.

    Parameters
    ----------
    words
        Different ones, in lower case; capitals of texts are ignored.

    Returns
    -------
    transformers.PreTrainedTokenizerFast
        ``[CLS] text [SEP]``, and ``[CLS] question [SEP] passage [SEP]`` for pairs, padded with token 0.

    Raises
    ------
    MissingExtraError
        If transformers is not installed.
    """
    transformers = _load_transformers()
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors  # comes with it

    numbers = {word: at for at, word in enumerate([*_SPECIAL.values(), *words])}
    cut = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    cut.normalizer, cut.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    cut.post_processor = processors.BertProcessing(
        *((_SPECIAL[name], numbers[_SPECIAL[name]]) for name in ("sep_token", "cls_token"))
    )
    wanted = ["input_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(tokenizer_object=cut, model_input_names=wanted, **_SPECIAL)


def _load_transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError:
        raise MissingExtraError("tokenizers need transformers: install kdviz[text]") from None
    return transformers
