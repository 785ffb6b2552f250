"""Tokens are those of the sentence, for tokenizers of every kind and scripts of the world."""

import numpy as np
import pytest
import regex
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

import kdviz.models  # noqa: F401 - before networks of transformers: makes torchvision importable
from kdviz.errors import KdvizWarning
from kdviz.sources import Encoding, TextSet, encode, movie_reviews

WORLD = [
    "यह फ़िल्म बहुत अच्छी है।",
    "இந்தப் படம் மிகவும் நன்றாக இருக்கிறது.",
    "এই ছবিটি খুব ভালো।",
    "หนังเรื่องนี้ดีมาก น้ำใส",
    "هٰذَا فِيلْمٌ رَائِعٌ، می\u200cخواهم",
    'זֶה סֶרֶט נִפְלָא, צה"ל',
    "cafe\u0301 nai\u0308ve tru\u031bo\u031b\u0300ng",
    "这部电影很好，我很喜欢。",
    "この映画はとても面白い、カメラ！",
    "이 영화는 정말 좋다",
    "Этот фильм — чудо!",
    "👨‍👩‍👧 🇫🇷🇩🇪 👍🏽👍👍 1️⃣2️⃣ #️⃣ ❤️❤️",
    'He said "No." ... and :-)  two  spaces, ½ of it ﬁne \n\n ',
    " 8,000\u00a0km\u2009² Ⅷ ㎏ Å",
]
SENTENCES = [*WORLD, *movie_reviews("held-out", count=400 - len(WORLD)).texts]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


def wrap(cut: Tokenizer, template: str | None, **options) -> PreTrainedTokenizerFast:
    """Give a trained tokenizer its special tokens around a text, `template`, and around two of them."""
    if template is not None:
        cut.post_processor = processors.TemplateProcessing(
            single=template.format("$A"),
            pair=f"{template.format('$A')} {template.format('$B').replace('<s> ', '')}",
            special_tokens=[(name, cut.token_to_id(name)) for name in SPECIAL],
        )
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=cut, **names | options)


def learn(cut: Tokenizer, trainer: trainers.Trainer) -> Tokenizer:
    cut.train_from_iterator([*movie_reviews("train", count=1000).texts, *WORLD * 20], trainer)
    return cut


def word_pieces() -> PreTrainedTokenizerFast:
    cut = Tokenizer(models.WordPiece(unk_token="<unk>"))
    cut.normalizer = normalizers.BertNormalizer(lowercase=True)
    cut.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=1200, special_tokens=SPECIAL, show_progress=False)
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return wrap(learn(cut, trainer), "<s> {} </s>", model_input_names=names)


def bytes_joined(prefix: bool, trim: bool, template: str | None = None) -> PreTrainedTokenizerFast:
    cut = Tokenizer(models.BPE())
    cut.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    learn(cut, trainer)
    cut.post_processor = processors.ByteLevel(trim_offsets=trim)
    return wrap(cut, template)


def unigrams(scheme: str) -> PreTrainedTokenizerFast:
    cut = Tokenizer(models.Unigram())
    cut.normalizer = normalizers.NFKC()
    cut.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=1200, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    return wrap(learn(cut, trainer), "{} </s>", padding_side="left")


def metaspace_bytes() -> PreTrainedTokenizerFast:
    """As of Llama: no Unicode normalisation, unknown characters by their bytes, nothing after the text."""
    cut = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    cut.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=SPECIAL + fallback, limit_alphabet=120, show_progress=False
    )
    return wrap(learn(cut, trainer), "<s> {}", pad_token=None, padding_side="left")


MAKERS = {
    "WordPiece": word_pieces,
    "bytes": lambda: bytes_joined(prefix=False, trim=False),
    "bytes, offsets trimmed": lambda: bytes_joined(prefix=False, trim=True, template="<s> {} </s>"),
    "bytes, space before": lambda: bytes_joined(prefix=True, trim=True),
    "bytes, space before, untrimmed": lambda: bytes_joined(prefix=True, trim=False),
    "Unigram": lambda: unigrams("always"),
    "Unigram, first": lambda: unigrams("first"),
    "Unigram, never": lambda: unigrams("never"),
    "Metaspace with bytes": metaspace_bytes,
}


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request) -> PreTrainedTokenizerFast:
    return MAKERS[request.param]()


@pytest.fixture(scope="module")
def encoding(tokenizer) -> Encoding:
    return encode(TextSet.from_sentences(SENTENCES), tokenizer, length=512)


pytestmark = pytest.mark.filterwarnings("ignore:the tokenizer does not know:kdviz.errors.KdvizWarning")


def test_encode__ids_are_the_tokenizers_own(tokenizer, encoding) -> None:
    for at, text in enumerate(SENTENCES):
        own = tokenizer(text)["input_ids"]
        assert encoding.ids[at, : encoding.lengths[at]].tolist() == own
        assert (encoding.ids[at, len(own) :] == (tokenizer.pad_token_id or 0)).all()
    assert list(encoding.inputs) == [
        name
        for name in ("input_ids", "attention_mask", "token_type_ids")
        if name in tokenizer.model_input_names
    ]
    assert np.array_equal(encoding.inputs["attention_mask"].sum(1), encoding.lengths)


def test_encode__words_cover_the_text_and_tokens_the_words(tokenizer, encoding) -> None:
    for at, (text, spans) in enumerate(zip(SENTENCES, encoding.texts.spans, strict=True)):
        ends = [0, *spans.ravel(), len(text)]
        between = "".join(text[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True))
        assert not regex.search(r"[^\s\p{Default_Ignorable_Code_Point}]", between)
        own = encoding.word_of[at, : encoding.lengths[at]]
        special = np.array(tokenizer(text).sequence_ids()) == None  # noqa: E711
        assert np.array_equal(own < 0, special)
        assert set(own) - {-1} == set(range(len(spans)))
        assert (np.diff(own[~special]) >= 0).all()


def test_encode__words_are_the_finest_cut_that_words_and_tokens_allow(tokenizer, encoding) -> None:
    """Characters are linked that lie in one word, or under one token; what hangs together is a word."""
    words = TextSet.from_sentences(SENTENCES).spans
    for at, text in enumerate(SENTENCES):
        seen = np.zeros(len(text), bool)
        for start, end in words[at]:
            seen[start:end] = True
        groups = [
            np.arange(*span)
            for span in (*words[at], *tokenizer(text, return_offsets_mapping=True)["offset_mapping"])
        ]
        chains = [group[seen[group]] for group in groups]
        links = np.concatenate([np.stack([chain[:-1], chain[1:]]) for chain in chains], axis=1)
        graph = coo_array((np.ones(links.shape[1]), links), shape=(len(text),) * 2)
        part = connected_components(graph, directed=False)[1]
        expected = {
            (np.flatnonzero((part == one) & seen)[0], np.flatnonzero((part == one) & seen)[-1] + 1)
            for one in set(part[seen])
        }
        assert {tuple(span) for span in encoding.texts.spans[at].tolist()} == expected


def test_encode__a_long_text_is_cut_and_its_ids_are_its_own(tokenizer, encoding) -> None:
    some = zip(SENTENCES[:150], encoding.word_of[:150], strict=True)
    sentences = [text for text, row in some if (row == 0).sum() < 4]
    whole, length = TextSet.from_sentences(sentences), 8
    with pytest.warns(
        KdvizWarning, match=f"words of .* texts were left out: they lie beyond length={length}"
    ):
        cut = encode(whole, tokenizer, length=length)
    assert len(sentences) > 70
    assert cut.lengths.max() <= length
    for at, (text, short) in enumerate(zip(sentences, cut.texts.texts, strict=True)):
        own = tokenizer(short)["input_ids"]
        assert cut.ids[at, : cut.lengths[at]].tolist() == own
        if short != text:
            assert text.startswith(short) and len(tokenizer(text)["input_ids"]) > length
            ends = cut.texts.spans[at][:, 1]
            assert ends[-1] == len(short)
            long = encode(whole.select([at]), tokenizer, length=512)
            following = np.flatnonzero(long.texts.spans[0][:, 0] >= len(short))[0]
            inside = (long.word_of[0] <= following).sum()  # special tokens are -1
            by_itself = len(tokenizer(text[: long.texts.spans[0][following, 1]])["input_ids"])
            assert max(inside, by_itself) > length  # the word after it does not fit


def test_encode__pairs_are_the_tokenizers_own(tokenizer) -> None:
    questions, contexts = SENTENCES[:50], SENTENCES[50:100]
    texts = TextSet.from_sentences(questions, contexts=contexts)
    encoding = encode(texts, tokenizer, length=1024)
    with pytest.warns(KdvizWarning, match="left out"):
        cut = encode(texts, tokenizer, length=130)
    assert cut.texts.texts == tuple(questions)
    for at, (question, context) in enumerate(zip(questions, contexts, strict=True)):
        for each, second in ((encoding, context), (cut, cut.texts.contexts[at])):
            own = tokenizer(question, second, return_token_type_ids=True)
            size = each.lengths[at]
            assert each.ids[at, :, :size].tolist() == [own["input_ids"], own["token_type_ids"]]
            parts = [part for part in own.sequence_ids() if part is not None]
            words = each.word_of[at, :size]
            starts = each.texts.spans[at][words[words >= 0], 0]
            assert ((starts >= len(question)) == np.array(parts, bool)).all()
            assert context.startswith(second)


def test_encode__inputs_are_what_a_network_is_fed(tokenizer, encoding) -> None:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=600,
        pad_token_id=0,
        num_labels=2,
    )
    network = RobertaForSequenceClassification(config).eval()
    rows = slice(0, 30)
    with torch.no_grad():
        ours = network(
            **{name: torch.from_numpy(values[rows]) for name, values in encoding.inputs.items()}
        ).logits
        own = torch.cat([network(**tokenizer(text, return_tensors="pt")).logits for text in SENTENCES[rows]])
    torch.testing.assert_close(ours, own, atol=1e-5, rtol=1e-5)


def unigram_of(*pieces: str) -> PreTrainedTokenizerFast:
    cut = Tokenizer(models.Unigram([("<unk>", -20.0), *((piece, -1.0) for piece in pieces)], unk_id=0))
    cut.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=cut, unk_token="<unk>")


def test_encode__tokens_are_the_words_where_a_script_has_no_spaces() -> None:
    texts = TextSet.from_sentences(["这部电影很好。", "หนังดีมาก"], foreground={"好", "ดี"}.__contains__)
    encoding = encode(texts, unigram_of("▁", "这部", "电影", "很好", "。", "หนัง", "ดี", "มาก"))
    assert encoding.texts.words == (("这部", "电影", "很好", "。"), ("หนัง", "ดี", "มาก"))
    assert [mask.tolist() for mask in encoding.texts.foreground] == [
        [False, False, True, False],
        [False, True, False],
    ]
    assert encoding.word_of.tolist() == [[0, 0, 1, 2, 3], [0, 0, 1, 2, -1]]
    assert encoding.ids.tolist() == [[1, 2, 3, 4, 5], [1, 6, 7, 8, 0]]


def test_encode__bytes_of_one_character_are_one_word() -> None:
    cut = Tokenizer(models.BPE({mark: at for at, mark in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    cut.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoding = encode(TextSet.from_sentences(["好 👍🏽 é"]), PreTrainedTokenizerFast(tokenizer_object=cut))
    assert encoding.texts.words == (("好", "👍🏽", "é"),)
    assert encoding.word_of.tolist() == [[0] * 3 + [1] * 9 + [2] * 3]  # the space belongs to what follows


def test_encode__refuses_a_tokenizer_that_does_not_tell_where_its_tokens_lie() -> None:
    with pytest.raises(TypeError, match=r"must be a fast tokenizer of transformers, .*, got ByT5Tokenizer"):
        encode(TextSet.from_sentences(["a film"]), ByT5Tokenizer())
