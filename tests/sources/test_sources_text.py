import json
import shutil
import unicodedata
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given, strategies
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from kdviz import units
from kdviz.errors import DataError, KdvizWarning
from kdviz.sources import (
    Encoding,
    TextSet,
    encode,
    movie_reviews,
    read_squad,
    read_sst2,
    review_tokenizer,
    split_words,
)
from kdviz.sources.reviews import _read_reviews
from kdviz.sources.words import _read_lexicon, locate_words

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def train() -> TextSet:
    return movie_reviews("train")


@pytest.fixture(scope="module")
def held_out() -> TextSet:
    return movie_reviews("held-out")


def make_texts(*texts: str, contexts=None) -> TextSet:
    """Make texts whose words stand between spaces, those in capitals in the foreground."""
    return TextSet.from_sentences(
        [text.split() for text in texts],
        np.arange(len(texts)) % 2,
        contexts=contexts and [text.split() for text in contexts],
        foreground=str.isupper,
        sample_ids=[f"text-{index}" for index in range(len(texts))],
        classes=("no", "yes"),
        split="train",
        source="made by hand",
    )


def spans_of(*spans: list[int]) -> np.ndarray:
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


# --- words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's good.", ["It's", "good", "."]),
        ("cinema.another", ["cinema", ".", "another"]),
        ("wait...what?!", ["wait", "...", "what", "?", "!"]),
        ("the '70s 'performance' of kids' books", "the '70s ' performance ' of kids ' books".split()),
        ('a "so-so" film', ["a", '"', "so-so", '"', "film"]),
        ("J.R.R. Tolkien at $1.8 million", ["J.R.R.", "Tolkien", "at", "$", "1.8", "million"]),
        ("clichés (Lucía)", ["clichés", "(", "Lucía", ")"]),
        ("  ", []),
        ("यह फ़िल्म बहुत अच्छी है।", ["यह", "फ़िल्म", "बहुत", "अच्छी", "है", "।"]),
        ("படம் நன்றாக இருக்கிறது.", ["படம்", "நன்றாக", "இருக்கிறது", "."]),
        ("এই ছবিটি খুব ভালো।", ["এই", "ছবিটি", "খুব", "ভালো", "।"]),
        ("หนังดี น้ำ", ["ห", "นั", "ง", "ดี", "น้ำ"]),  # a tokenizer joins what no space parts
        ("هٰذَا فِيلْمٌ رَائِعٌ، می‌خواهم", ["هٰذَا", "فِيلْمٌ", "رَائِعٌ", "،", "می‌خواهم"]),
        ('זֶה סֶרֶט נִפְלָא, צה"ל', ["זֶה", "סֶרֶט", "נִפְלָא", ",", 'צה"ל']),
        ("café naïve trường", ["café", "naïve", "trường"]),
        ("这部电影很好。", [*"这部电影很好。"]),
        ("この映画は、カメラ", [*"この映画は、", "カメラ"]),
        ("이 영화는 정말 좋다", ["이", "영화는", "정말", "좋다"]),
        ("Этот фильм — чудо! Ο κόσμος", ["Этот", "фильм", "—", "чудо", "!", "Ο", "κόσμος"]),
        ("col·lecció Straße", ["col·lecció", "Straße"]),
        ("great :-) film :) (see:) ;-(", ["great", ":-)", "film", ":)", "(", "see", ":", ")", ";-("]),
        ("👨‍👩‍👧 🇫🇷🇩🇪 👍🏽 1️⃣2️⃣ #️⃣", ["👨‍👩‍👧", "🇫🇷", "🇩🇪", "👍🏽", "1️⃣", "2️⃣", "#️⃣"]),
        ("good👍👍👍🏽 ❤️❤️", ["good", "👍👍", "👍🏽", "❤️❤️"]),
        ("﻿a​b ​‍ c­", ["a", "b", "c­"]),  # nothing is seen of the rest
    ],
)
def test_split_words__keeps_words_as_shown_and_parts_punctuation(text: str, words: list[str]) -> None:
    assert list(split_words(text)) == words
    spans = locate_words(text)
    assert [text[start:end] for start, end in spans] == words
    ends = [0, *spans.ravel(), len(text)]
    between = "".join(text[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True))
    assert all(unicodedata.category(mark) in ("Zs", "Cf") for mark in between)


@given(strategies.text())
def test_split_words__drops_nothing_that_is_seen(text: str) -> None:
    spans = locate_words(text)
    assert (np.diff(spans.ravel()) >= 0).all() and (spans[:, 1] > spans[:, 0]).all()
    ends = [0, *spans.ravel(), len(text)]
    between = "".join(text[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True))
    assert not regex.search(r"[^\s\p{Cc}\p{Default_Ignorable_Code_Point}]", between)


# --- text sets -----------------------------------------------------------------------------------------


def test_text_set__pads_its_foreground() -> None:
    texts = make_texts("a GOOD film", "BAD", "so it is")
    assert texts.foreground_mask.tolist() == [[False, True, False], [True, False, False], [False] * 3]
    assert len(texts) == 3
    assert repr(texts) == "TextSet(3 texts, 'made by hand')"


def test_select__keeps_everything_of_the_chosen_texts() -> None:
    texts = make_texts("a", "BAD", "so it", contexts=["GOOD film", "one", "IS"])
    chosen = texts.select(["text-2", "text-0"])
    assert chosen.words == (("so", "it", "IS"), ("a", "GOOD", "film"))
    assert [mask.tolist() for mask in chosen.foreground] == [[False, False, True], [False, True, False]]
    assert (chosen.texts, chosen.contexts) == (("so it", "a"), ("IS", "GOOD film"))
    assert (chosen.labels.tolist(), chosen.sample_ids) == ([0, 0], ("text-2", "text-0"))
    assert texts.select([-1]).sample_ids == ("text-2",)
    assert len(texts.select([])) == 0
    with pytest.raises(ValueError, match="chosen names texts that are not in the set: text-9"):
        texts.select(["text-9"])
    with pytest.raises(ValueError, match="sample_ids must differ, repeated: text-1"):
        texts.select([1, 1])


def test_fingerprint__changes_with_everything_but_the_source() -> None:
    texts = make_texts("a GOOD film", "BAD one")
    same = replace(texts, source="elsewhere")
    others = [
        replace(texts, texts=("a GOOD game", "BAD one")),
        replace(texts, texts=("a GOOD film ", "BAD one")),
        replace(texts, spans=(np.array([[0, 1], [2, 7], [7, 11]]), texts.spans[1])),
        replace(texts, foreground=(np.zeros(3, bool), texts.foreground[1])),
        replace(texts, labels=np.array([1, 1])),
        replace(texts, split=np.array(["train", "test"])),
        replace(texts, sample_ids=("text-0", "text-2")),
        replace(texts, texts=("a GOOD ", "BAD "), contexts=("film", "one")),
    ]
    assert same.fingerprint == texts.fingerprint
    assert len({texts.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"spans": (spans_of(), spans_of([0, 1])), "foreground": (np.zeros(0, bool), np.ones(1, bool))},
            ValueError,
            "'text-0' has no words, or an empty one; leave it out",
        ),
        (
            {"texts": ("a  ", "b"), "spans": (spans_of([0, 1], [1, 2]), spans_of([0, 1]))},
            ValueError,
            "or an empty one",
        ),
        (
            {"spans": (spans_of([0, 1], [2, 9]), spans_of([0, 1]))},
            ValueError,
            "'text-0' must lie in its text",
        ),
        ({"spans": (spans_of([2, 6], [0, 1]), spans_of([0, 1]))}, ValueError, "one after the other, got"),
        (
            {"spans": (np.array([0, 1]), spans_of([0, 1]))},
            ValueError,
            r"spans of 'text-0' must have shape \(N, 2",
        ),
        ({"texts": ("a ", "b"), "contexts": ("film", "")}, ValueError, "'text-1' has no words"),
        ({"texts": ("a f", "b"), "contexts": ("ilm", "c")}, ValueError, "'text-0' has no words"),
        ({"sample_ids": ("x", "x")}, ValueError, "sample_ids must differ, repeated: x"),
        ({"sample_ids": ("x",)}, ValueError, "sample_ids must name 2 texts, got 1 names"),
        ({"labels": np.array([0, 2])}, ValueError, r"labels must lie in 0\.\.1 .*, got 0\.\.2"),
        ({"labels": np.array([0.0, 1.0])}, TypeError, "labels must be a NumPy array of int64"),
        ({"split": np.array(["train"])}, ValueError, r"split must have shape \(2,\), got \(1,\)"),
        ({"foreground": (np.zeros(2, bool),)}, ValueError, "foreground must have 2 entries, one a text"),
        (
            {"foreground": (np.zeros(3, bool), np.zeros(1, bool))},
            ValueError,
            r"foreground of 'text-0' must have shape \(2,\), got \(3,\)",
        ),
        (
            {"foreground": (np.zeros(2), np.zeros(1, bool))},
            TypeError,
            "foreground of 'text-0' must be a NumPy array of bool, got an array of float64",
        ),
    ],
)
def test_text_set__refuses_what_does_not_fit(changes: dict, error: type, message: str) -> None:
    texts = make_texts("a film", "b")
    with pytest.raises(error, match=message):
        replace(texts, **changes)


SENTENCES = ("A wonderful film!", ["It", "isn't", "Bad."], "No plot")


def test_from_sentences__cuts_texts_and_takes_words_as_they_are() -> None:
    texts = TextSet.from_sentences(SENTENCES)
    assert texts.words == (("A", "wonderful", "film", "!"), ("It", "isn't", "Bad."), ("No", "plot"))
    assert texts.texts == ("A wonderful film!", "It isn't Bad.", "No plot")
    assert texts.labels.tolist() == [0, 0, 0] and texts.labels.dtype == np.int64
    assert texts.classes == ("class 0",)
    assert texts.sample_ids == ("sentence 0", "sentence 1", "sentence 2")
    assert texts.split.tolist() == ["all"] * 3
    assert texts.source == "own sentences"
    polar = [mask.tolist() for mask in texts.foreground]  # "Bad." is no word of the lexicon, "No" is
    assert polar == [[False, True, False, False], [False, False, False], [True, False]]


def test_from_sentences__takes_labels_and_names() -> None:
    labels = np.array([2, 0, 1], dtype=np.uint8)
    texts = TextSet.from_sentences(SENTENCES, labels, sample_ids=["x", "y", "z"], source="mine")
    assert (texts.labels.tolist(), texts.labels.dtype) == ([2, 0, 1], np.int64)
    assert texts.classes == ("class 0", "class 1", "class 2")
    assert (texts.sample_ids, texts.source) == (("x", "y", "z"), "mine")
    named = TextSet.from_sentences(SENTENCES, [1, 0, 1], classes=["bad", "good", "unused"])
    assert named.classes == ("bad", "good", "unused")


def test_from_sentences__foreground_by_a_function_or_by_masks() -> None:
    expected = [[False, True, False, False], [False, False, True], [False, False]]
    by_word = TextSet.from_sentences(SENTENCES, foreground={"wonderful", "Bad."}.__contains__)
    by_mask = TextSet.from_sentences(SENTENCES, foreground=expected)
    assert [mask.tolist() for mask in by_word.foreground] == expected
    assert [mask.dtype for mask in by_word.foreground] == [bool] * 3
    assert by_mask.fingerprint == by_word.fingerprint


@pytest.mark.parametrize(
    ("sentences", "options", "error", "message"),
    [
        ("a film", {}, TypeError, "sentences must be a sequence, got the one text 'a film'"),
        (["a", " ", "b"], {}, ValueError, "'sentence 1' has no words, or an empty one; leave it out"),
        (["a", []], {}, ValueError, "'sentence 1' has no words"),
        (["a", ["b", ""]], {}, ValueError, "'sentence 1' has no words, or an empty one"),
        (["a", 3], {}, TypeError, "must be texts or sequences of words, got 3"),
        ([["a", 3]], {}, TypeError, "must be texts or sequences of words, got .'a', 3."),
        (["a", "b"], {"labels": [1]}, ValueError, r"labels must have shape \(2,\), got \(1,\)"),
        (["a", "b"], {"labels": ["no", "yes"]}, TypeError, "labels must be integers, got an array of <U3"),
        (["a"], {"labels": [1.0]}, TypeError, "labels must be integers, got an array of float64"),
        (["a"], {"labels": [-1]}, ValueError, r"labels must lie in 0\.\.0 .*, got -1\.\.-1"),
        (["a"], {"labels": [1], "classes": ["no"]}, ValueError, r"labels must lie in 0\.\.0"),
        (["a"], {"classes": "no"}, TypeError, "classes must be a sequence, got the one text 'no'"),
        (["a"], {"sample_ids": "x"}, TypeError, "sample_ids must be a sequence, got the one text 'x'"),
        (["a"], {"sample_ids": ["x", "y"]}, ValueError, "sample_ids must name 1 texts, got 2 names"),
        (["a"], {"sample_ids": []}, ValueError, "sample_ids must name 1 texts, got 0 names"),
        (["a"], {"foreground": {"a"}}, TypeError, "of 'sentence 0' must be a NumPy array of bool"),
        (["a"], {"foreground": [[True], [True]]}, ValueError, "must have 1 entries, one a text, got 2"),
        (["a"], {"contexts": "b"}, TypeError, "contexts must be a sequence, got the one text 'b'"),
        (["a"], {"contexts": ["b", "c"]}, ValueError, "contexts must be 1, one a sentence, got 2"),
        (["a"], {"contexts": [" "]}, ValueError, "'sentence 0' has no words"),
        (
            ["a b"],
            {"foreground": [[True]]},
            ValueError,
            r"of 'sentence 0' must have shape \(2,\), got \(1,\)",
        ),
        (["a"], {"foreground": ["a"]}, TypeError, "of 'sentence 0' must be a NumPy array of bool"),
    ],
)
def test_from_sentences__refuses_what_does_not_fit(sentences, options, error, message) -> None:
    with pytest.raises(error, match=message):
        TextSet.from_sentences(sentences, **options)


def test_from_sentences__pairs() -> None:
    texts = TextSet.from_sentences(
        ["Where is it?"], contexts=[["It", "is", "here."]], foreground=[[0, 0, 0, 0, 0, 0, 1] > np.zeros(7)]
    )
    assert (texts.texts, texts.contexts) == (("Where is it?",), ("It is here.",))
    assert texts.words == (("Where", "is", "it", "?", "It", "is", "here."),)
    assert texts.spans[0].tolist()[3:5] == [[11, 12], [12, 14]]
    assert texts.foreground_mask.nonzero()[1].tolist() == [6]


def test_from_sentences__refuses_a_pair_as_words_and_says_how_pairs_are_passed() -> None:
    pair = ("Where is it?", "It is here.")
    says = (
        r"sentences\[0\] is a sequence, hence of words, but 'Where is it\?' has a space in it; pass .*, and "
    )
    with pytest.raises(
        ValueError, match=says + "of a pair the first text in sentences, the second in contexts"
    ):
        TextSet.from_sentences([pair])
    texts = TextSet.from_sentences([pair[0]], contexts=[pair[1]])
    assert (texts.texts[0], texts.contexts[0]) == pair


# --- movie reviews -------------------------------------------------------------------------------------


def test_movie_reviews__classes_take_turns_and_have_the_sign_of_the_rating(train, held_out) -> None:
    ratings = {name: rating for _, name, rating, _ in _read_reviews()}
    for texts, count in ((train, 8000), (held_out, 1930)):
        assert len(texts) == count
        assert texts.labels.tolist() == [0, 1] * (count // 2)
        signs = np.array([ratings[name] for name in texts.sample_ids])
        assert np.array_equal(signs > 0, texts.labels == 1)
        assert np.abs(signs).min() >= 0.5
    assert train.classes == ("negative", "positive")


def test_movie_reviews__numbers_of_its_docstring_are_right(train, held_out) -> None:
    ratings = np.array([rating for _, _, rating, _ in _read_reviews()])
    assert (len(ratings), int((np.abs(ratings) < 0.5).sum())) == (10603, 533)
    assert [int((~texts.foreground_mask.any(axis=1)).sum()) for texts in (train, held_out)] == [1101, 279]
    share = sum(map(np.sum, train.foreground)) / sum(map(len, train.words))
    assert share == pytest.approx(0.096, abs=5e-4)


def test_movie_reviews__splits_share_no_sentence(train, held_out) -> None:
    def spelled(texts: TextSet) -> set[str]:
        return {"".join(words).lower() for words in texts.words}

    assert len(spelled(train)) == len(train)
    assert spelled(train) & spelled(held_out) == set()


def test_movie_reviews__a_prefix_does_not_depend_on_the_count(train) -> None:
    few = movie_reviews("train", count=10)
    assert few.fingerprint == train.select(range(10)).fingerprint
    assert few.words[0][:4] == ("An", "undistinguished", "attempt", "to")
    assert few.sample_ids[0] == "review-08282"


def test_movie_reviews__foreground_is_what_the_lexicon_rates(train) -> None:
    index = train.sample_ids.index("review-02425")
    marked = [word for word, mark in zip(train.words[index], train.foreground[index], strict=True) if mark]
    assert marked == ["enjoyable", "good", "comedy"]
    polar = _read_lexicon(DATA / "review_lexicon.txt")
    assert {"horrible", "masterpiece"} <= polar  # rated -2.5 and 3.1
    assert {"amortize", "the"} & polar == set()  # rated -0.1, and not at all
    capital = train.words[train.sample_ids.index("review-08282")]
    assert not any("An" == word for word, mark in zip(capital, train.foreground[0], strict=True) if mark)


def test_movie_reviews__capitals_do_not_hide_a_polar_word(train, held_out) -> None:
    marks = {
        (word, bool(mark))
        for texts in (train, held_out)
        for words, masks in zip(texts.words, texts.foreground, strict=True)
        for word, mark in zip(words, masks, strict=True)
    }
    assert {("Terrible", True), ("terrible", True)} <= marks
    assert ("Terrible", False) not in marks


def test_movie_reviews__words_tell_the_class_and_length_does_not(train, held_out) -> None:
    """A bag of words reaches 78 % of unseen sentences; their lengths and marks alone stay near chance."""
    texts = [[" ".join(words) for words in part.words] for part in (train, held_out)]
    bag = CountVectorizer(binary=True, min_df=2, token_pattern=r"\S+")
    inputs = bag.fit_transform(texts[0]), bag.transform(texts[1])
    by_words = LogisticRegression(C=0.3, max_iter=300).fit(inputs[0], train.labels)
    assert by_words.score(inputs[1], held_out.labels) > 0.75
    lengths = [np.array([[len(words)] for words in part.words]) for part in (train, held_out)]
    by_length = LogisticRegression().fit(lengths[0], train.labels)
    assert by_length.score(lengths[1], held_out.labels) < 0.55


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"split": "test"}, ValueError, "split is 'test'"),
        ({"count": 0}, ValueError, r"count must be an integer in 1\.\.8000, got 0"),
        ({"count": 8001}, ValueError, r"count must be an integer in 1\.\.8000, got 8001"),
        ({"count": 2.0}, ValueError, "count must be an integer"),
    ],
)
def test_movie_reviews__refuses_what_is_not_there(arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        movie_reviews(**arguments)


# --- SST-2 ---------------------------------------------------------------------------------------------


def test_read_sst2__reads_what_glue_writes(tmp_path) -> None:
    path = tmp_path / "dev.tsv"
    path.write_text(
        "sentence\tlabel\nit 's a charming journey . \t1\nunflinchingly bleak\t0\n", encoding="utf-8"
    )
    texts = read_sst2(path)
    assert texts.texts == ("it 's a charming journey . ", "unflinchingly bleak")
    assert texts.words == (("it", "'s", "a", "charming", "journey", "."), ("unflinchingly", "bleak"))
    assert texts.labels.tolist() == [1, 0]
    assert texts.foreground_mask.tolist() == [[False, False, False, True, False, False], [False] * 6]
    assert texts.sample_ids == ("dev-000002", "dev-000003")
    assert (texts.split.tolist(), texts.source) == (["dev", "dev"], "SST-2, dev.tsv")


def test_read_sst2__takes_a_byte_order_mark_and_foreign_line_ends(tmp_path) -> None:
    path = tmp_path / "dev.tsv"
    path.write_bytes(b"\xef\xbb\xbfsentence\tlabel\r\ngood film\t1\r\nbad film\t0")
    assert read_sst2(path).labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"index\tsentence\n0\tgood\n", r"line 1: the header must be sentence<TAB>label, got index"),
        (b"", "holds no sentence"),
        (b"sentence\tlabel\ngood film\n", "line 2: expected sentence<TAB>label, got 'good film'"),
        (b"sentence\tlabel\na\t1\ngood\t2\n", "line 3: the label of SST-2 is 0 or 1, got '2'"),
        (b"sentence\tlabel\ngood\tbad\t1\n", "line 2: expected sentence<TAB>label"),
        (b"sentence\tlabel\n \t1\n", "line 2: expected sentence"),
        (b"sentence\tlabel\n\na\t1\n", "line 2: expected sentence"),
        (b"sentence\tlabel\na\t1\n\xff\t1\n", "cannot be read: .*utf-8"),
        (b"sentence\tlabel\n", "holds no sentence"),
    ],
)
def test_read_sst2__names_file_line_and_fault(contents: bytes, message: str, tmp_path) -> None:
    (tmp_path / "train.tsv").write_bytes(contents)
    with pytest.raises(DataError, match=r"train\.tsv.*" + message):
        read_sst2(tmp_path / "train.tsv")


def test_readers__say_that_a_file_is_missing(tmp_path) -> None:
    for read in (read_sst2, read_squad):
        with pytest.raises(DataError, match=r"none\.x cannot be read: .*No such file"):
            read(tmp_path / "none.x")


# --- SQuAD ---------------------------------------------------------------------------------------------

CONTEXT = "Normandy is a region in France. It was named in 911."


def squad(questions: list[dict], context: str = CONTEXT) -> dict:
    paragraph = {"context": context, "qas": questions}
    return {"version": "v2.0", "data": [{"title": "Normans", "paragraphs": [paragraph]}]}


def question(**changes) -> dict:
    answers = [{"text": "in France", "answer_start": 21}, {"text": "France", "answer_start": 24}]
    return {"id": "q1", "question": "Where is it?", "answers": answers} | changes


def write(tmp_path: Path, contents: object) -> Path:
    path = tmp_path / "dev-v2.0.json"
    path.write_text(
        contents if isinstance(contents, str) else json.dumps(contents, indent=1), encoding="utf-8"
    )
    return path


def test_read_squad__marks_the_words_of_the_first_answer(tmp_path) -> None:
    hopeless = question(id="q2", question="Who named it?", answers=[], is_impossible=True)
    texts = read_squad(write(tmp_path, squad([question(), hopeless])))
    asked = ("Where", "is", "it", "?")
    context = ("Normandy", "is", "a", "region", "in", "France", ".", "It", "was", "named", "in", "911", ".")
    assert texts.words[0] == asked + context
    assert [word for word, mark in zip(texts.words[0], texts.foreground[0], strict=True) if mark] == [
        "in",
        "France",
    ]
    assert texts.foreground[0].nonzero()[0].tolist() == [8, 9]
    assert (texts.texts[0], texts.contexts[0]) == ("Where is it?", CONTEXT)
    assert texts.labels.tolist() == [1, 0]
    assert not texts.foreground[1].any()
    assert texts.classes == ("unanswerable", "answerable")
    assert texts.sample_ids == ("q1", "q2")


def test_read_squad__marks_a_word_that_an_answer_only_touches(tmp_path) -> None:
    answer = [{"text": "rmand", "answer_start": 2}]
    texts = read_squad(write(tmp_path, squad([question(answers=answer)])))
    assert texts.foreground[0].nonzero()[0].tolist() == [4]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ('{"data": [\n{"paragraphs" 1}]}', "top level: Invalid JSON: .* at line 2"),
        ({"version": "1.1"}, "data: Field required"),
        ({"data": [{"title": "a"}]}, r"data\.0\.paragraphs: Field required"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, r"data\.0\.paragraphs\.0\.context: Field required"),
        ({"data": [{"paragraphs": "text"}]}, r"data\.0\.paragraphs: Input should be a valid array"),
        (["data"], "top level: Input should be an object"),
        ({"data": []}, "holds no question"),
        (squad([{"id": "q1", "answers": []}]), r"paragraphs\.0\.qas\.0\.question: Field required"),
        (squad([question(question=" ")]), "question 'q1': the question is empty"),
        (squad([question()], context=""), "question 'q1': the context is empty"),
        (squad([question(answers=[])]), "question 'q1': it has no answer and is not marked is_impossible"),
        (
            squad([question(answers=[{"text": "France", "answer_start": 25}])]),
            "question 'q1': the answer 'France' is not at character 25 of the context",
        ),
        (
            squad([question(answers=[{"text": "", "answer_start": 0}])]),
            "question 'q1': the answer '' is not at character 0",
        ),
    ],
)
def test_read_squad__names_file_place_and_fault(contents: object, message: str, tmp_path) -> None:
    with pytest.raises(DataError, match=r"dev-v2\.0\.json.*" + message):
        read_squad(write(tmp_path, contents))


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


# --- the built-in tokenizer ----------------------------------------------------------------------------


def test_review_tokenizer__knows_every_word_of_the_reviews(train, held_out) -> None:
    tokenizer = review_tokenizer()
    assert len(tokenizer) == 4000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encodings = [encode(texts, tokenizer, length=96) for texts in (train, held_out)]
    for encoding in encodings:
        assert isinstance(encoding, Encoding)
        assert (encoding.ids[:, 0] == tokenizer.cls_token_id).all()
        assert ((encoding.ids != tokenizer.pad_token_id).sum(axis=1) == encoding.lengths).all()
    unknown = [
        encoding.texts.words[row][encoding.word_of[row, column]]
        for encoding in encodings
        for row, column in zip(*(encoding.ids == tokenizer.unk_token_id).nonzero(), strict=True)
    ]
    assert unknown == ["We’ve", "there’s"]  # held out; curly apostrophes do not occur in training


def test_review_tokenizer__joins_back_to_the_text() -> None:
    tokenizer = review_tokenizer()
    assert tokenizer.tokenize("The film isn't unwatchable!")[:5] == ["the", "film", "isn", "'", "t"]
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("An unwatchable CLICHÉ")["input_ids"])
    assert (pieces[0], pieces[-1]) == ("[CLS]", "[SEP]")
    assert "".join(piece.removeprefix("##") for piece in pieces[1:-1]) == "anunwatchablecliche"


def test_review_tokenizer__says_that_the_vocabulary_is_damaged(tmp_path, monkeypatch) -> None:
    shutil.copy(DATA / "checksums.json", tmp_path)
    (tmp_path / "review_vocabulary.txt").write_text("[PAD]\n")
    monkeypatch.setenv("KDVIZ_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"review_vocabulary\.txt is damaged"):
        review_tokenizer()
