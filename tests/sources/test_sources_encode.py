"""From texts to tokens: words of several pieces, what is left out, pairs."""

import numpy as np
import pytest
from small_texts import make_texts
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from kdviz import units
from kdviz.errors import KdvizWarning
from kdviz.sources import encode

# --- tokens --------------------------------------------------------------------------------------------

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##like", "##ly", "good", "film", "!", "#", "##s"]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    cut = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    cut.normalizer = normalizers.BertNormalizer(lowercase=True)
    cut.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cut.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=cut, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


def test_encode__groups_word_pieces_to_the_word_as_shown(tokenizer) -> None:
    encoding = encode(make_texts("Unlikely GOOD films !!", "film"), tokenizer)
    assert encoding.ids.tolist() == [[2, 4, 5, 6, 7, 8, 11, 9, 9, 3], [2, 8, 3] + [0] * 7]
    assert encoding.word_of.tolist() == [[-1, 0, 0, 0, 1, 2, 2, 3, 3, -1], [-1, 0] + [-1] * 8]
    assert encoding.lengths.tolist() == [10, 3]
    assert (encoding.ids.dtype, encoding.word_of.dtype, encoding.lengths.dtype) == (np.int64,) * 3
    assert encoding.texts.words == (("Unlikely", "GOOD", "films", "!!"), ("film",))


def test_encode__units_are_the_words(tokenizer) -> None:
    encoding = encode(make_texts("Unlikely GOOD films !!", "film"), tokenizer)
    words = encoding.units
    assert isinstance(words, units.Tokens)
    assert words.count == 4
    assert words.index((10, 2), sample=0)[:, 1].tolist() == [-1, 0, 0, 0, 1, 2, 2, 3, 3, -1]
    assert words.index((3, 2), sample=1)[:, 0].tolist() == [-1, 0, -1]
    assert words.valid(2).tolist() == [[True] * 4, [True, False, False, False]]
    assert words.coordinates()["token"][1].tolist() == [
        ["Unlikely", "GOOD", "films", "!!"],
        ["film", "", "", ""],
    ]


def test_encode__leaves_out_words_that_do_not_fit_whole_and_counts_them(tokenizer) -> None:
    texts = make_texts("good unlikely GOOD film", "film good", "film film GOOD film film")
    message = r"^3 words of 2 texts were left out: they lie beyond length=6 tokens"
    with pytest.warns(KdvizWarning, match=message):
        encoding = encode(texts, tokenizer, length=6)
    assert encoding.texts.words == (("good", "unlikely"), ("film", "good"), ("film", "film", "GOOD", "film"))
    assert encoding.ids.tolist()[0] == [2, 7, 4, 5, 6, 3]
    assert encoding.lengths.tolist() == [6, 4, 6]
    assert encoding.texts.foreground_mask.tolist() == [[False] * 4, [False] * 4, [False, False, True, False]]
    with pytest.warns(KdvizWarning, match="^5 words of 2 texts were left out"):
        whole = encode(texts, tokenizer, length=5)  # "unlikely" needs three tokens, two are left
    assert whole.texts.words[0] == ("good",)


def test_encode__leaves_out_words_without_a_token(tokenizer) -> None:
    with pytest.warns(KdvizWarning, match="1 words of 1 texts were left out: .* has no token"):
        encoding = encode(make_texts("good \u200b\u200d FILM"), tokenizer)
    assert encoding.texts.words == (("good", "FILM"),)
    assert encoding.texts.foreground[0].tolist() == [False, True]
    assert encoding.word_of.tolist() == [[-1, 0, 1, -1]]


def test_encode__names_unknown_words_once(tokenizer) -> None:
    texts = make_texts("good zeitgeist film", "zeitgeist WOW film", "films")
    with pytest.warns(KdvizWarning, match="does not know 3 words, .*: zeitgeist, WOW$") as caught:
        encoding = encode(texts, tokenizer)
    assert len(caught) == 1
    assert encoding.ids[0].tolist() == [2, 7, 1, 8, 3]
    assert encoding.texts.words == texts.words


def test_encode__a_text_of_one_word_needs_one_token(tokenizer) -> None:
    encoding = encode(make_texts("good"), tokenizer, length=3)
    assert encoding.ids.tolist() == [[2, 7, 3]]


def test_encode__pairs_carry_token_types_and_lose_words_of_the_second_text(tokenizer) -> None:
    texts = make_texts("good unlikely", "film", contexts=["film GOOD films", "good"])
    encoding = encode(texts, tokenizer)
    assert encoding.ids.shape == (2, 2, 11)
    assert encoding.ids[0, 0].tolist() == [2, 7, 4, 5, 6, 3, 8, 7, 8, 11, 3]
    assert encoding.ids[0, 1].tolist() == [0] * 6 + [1] * 5
    assert encoding.word_of[0].tolist() == [-1, 0, 1, 1, 1, -1, 2, 3, 4, 4, -1]
    assert encoding.ids[1].tolist() == [[2, 8, 3, 7, 3] + [0] * 6, [0, 0, 0, 1, 1] + [0] * 6]
    assert encoding.lengths.tolist() == [11, 5]
    with pytest.warns(KdvizWarning, match="1 words of 1 texts"):
        cut = encode(texts, tokenizer, length=10)
    assert cut.texts.words[0] == ("good", "unlikely", "film", "GOOD")
    assert cut.texts.contexts == ("film GOOD", "good")
    assert cut.texts.foreground[0].tolist() == [False, False, False, True]
    with pytest.raises(ValueError, match="length=7 leaves no word of 'text-0' or a part"):
        encode(texts, tokenizer, length=7)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"length": 4},
            ValueError,
            "length=4 leaves no word of 'text-0'.*5 tokens, 2 special ones",
        ),
        ({"length": 0}, ValueError, "length must be an integer of 1 or more, got 0"),
        ({"length": 8.0}, ValueError, "length must be an integer"),
    ],
)
def test_encode__refuses_what_cannot_work(arguments, error, message, tokenizer) -> None:
    with pytest.raises(error, match=message):
        encode(make_texts("unlikely"), tokenizer, **arguments)


def test_encode__refuses_other_tokenizers_and_no_texts(tokenizer) -> None:
    with pytest.raises(TypeError, match=r"must be a fast tokenizer of transformers.*got function"):
        encode(make_texts("a"), lambda text: text.split())
    with pytest.raises(ValueError, match="texts must hold at least one text"):
        encode(make_texts("a").select([]), tokenizer)
    with pytest.raises(
        TypeError,
        match=r"texts must be a kdviz\.sources\.TextSet, got list; make one with TextSet\.from_sentences",
    ):
        encode(["a film"], tokenizer)
