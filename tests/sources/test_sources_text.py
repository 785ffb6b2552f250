"""Words, and sets of texts with their foreground."""

import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import regex
from hypothesis import given, strategies
from small_texts import make_texts

from kdviz.sources import TextSet, split_words
from kdviz.sources.words import locate_words


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
