"""Questions and where their answers stand in characters, words and tokens; of SQuAD, and generated."""

import json
import re
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdviz.errors import DataError, KdvizWarning
from kdviz.sources import (
    GeneratedQuestions,
    QuestionSet,
    Squad,
    encode,
    generated_questions,
    read_squad,
    review_tokenizer,
)
from kdviz.sources.questions import _PEOPLE, _THINGS
from kdviz.sources.text import TextSet
from kdviz.sources.tokenizing import word_tokenizer

PASSAGES = (
    ("Ada Bell was born in Lund in 1911.", (("Where was Ada born?", "Lund"), ("Who was born?", "Ada Bell"))),
    ("The river Fenn is 1.8 miles long, says Bo.", (("How long is it?", "1.8 miles"),)),
    ("Rain fell on the unbelievably cold hills.", (("What was cold?", "the unbelievably cold hills"),)),
    ("Nobody came.", (("Who came?", None),)),
)


def write_squad(path: Path, passages=PASSAGES) -> Path:
    articles = []
    for number, (context, asked) in enumerate(passages):
        questions = [
            {
                "id": f"q{number}-{at}",
                "question": question,
                "is_impossible": answer is None,
                "answers": []
                if answer is None
                else [{"text": answer, "answer_start": context.index(answer)}],
            }
            for at, (question, answer) in enumerate(asked)
        ]
        articles.append({"paragraphs": [{"context": context, "qas": questions}]})
    path.write_text(json.dumps({"data": articles}), encoding="utf-8")
    return path


def read_back(texts: TextSet, tokenizer, at: int, first: int, last: int) -> str:
    """What stands between two tokens, by the tokenizer's own offsets in the second text."""
    cut = tokenizer(texts.texts[at], texts.contexts[at], return_offsets_mapping=True)
    assert {cut.sequence_ids()[first], cut.sequence_ids()[last]} == {1}
    places = cut["offset_mapping"]
    return texts.contexts[at][places[first][0] : places[last][1]]


@pytest.fixture
def asked(tmp_path) -> QuestionSet:
    return QuestionSet.of(read_squad(write_squad(tmp_path / "squad.json")))


# --- where answers are ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pieces", "words"])
def test_prepare__tokens_of_answers_are_their_characters(asked, kind: str) -> None:
    tokenizer = review_tokenizer()
    if kind == "words":
        tokenizer = word_tokenizer(sorted({w.lower() for words in asked.words for w in words} | {"1", "8"}))
    targets = asked.prepare(tokenizer=tokenizer).targets
    found = [read_back(asked, tokenizer, at, *ends) for at, ends in enumerate(targets.tolist())]
    assert found == ["Lund", "Ada Bell", "1.8 miles", "the unbelievably cold hills"]
    assert asked.classes == ("answerable",) and asked.labels.tolist() == [0, 0, 0, 0]
    assert "Nobody" not in "".join(asked.contexts)


def test_prepare__an_answer_within_a_word_is_the_whole_word(tmp_path) -> None:
    passages = (("It was unbelievably cold.", (("How cold?", "believ"),)), ("No.", (("Why?", "No"),)))
    texts = QuestionSet.of(read_squad(write_squad(tmp_path / "a.json", passages)))
    tokenizer = review_tokenizer()
    first, last = texts.prepare(tokenizer=tokenizer).targets[0]
    assert last > first and read_back(texts, tokenizer, 0, first, last) == "unbelievably"


def test_encoding__answers_are_minus_one_without_foreground_words(asked) -> None:
    none = replace(asked, foreground=tuple(np.zeros_like(mask) for mask in asked.foreground))
    assert encode(none, review_tokenizer()).answers.tolist() == [[-1, -1]] * 4


def test_keep_answered__leaves_out_answers_that_are_cut_in_part(asked) -> None:
    """Each length is the last at which the answer's last token no longer fits, counted by the tokenizer."""
    tokenizer, targets = review_tokenizer(), asked.prepare().targets
    for at in range(len(asked)):
        needed = int(targets[at, 1]) + 2  # its last token, counted from 1, and the special one at the end
        one = asked.select([at])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", KdvizWarning)  # of the words beyond the answer
            assert one.prepare(length=needed).targets.tolist() == [targets[at].tolist()]
        with pytest.raises(
            DataError, match=f"no answer in SQuAD, squad.json lies within length={needed - 1}"
        ):
            one.keep_answered(length=needed - 1, tokenizer=tokenizer)
        with (
            pytest.warns(KdvizWarning),
            pytest.raises(ValueError, match=rf"the answer of {asked.sample_ids[at]} is missing, or not"),
        ):
            one.prepare(length=needed - 1)


def test_keep_answered__leaves_out_questions_that_fill_the_length_themselves() -> None:
    texts = TextSet.from_sentences(
        ["Where was she born , whom you know ?", "Who ?"],
        contexts=["Lund .", "Ada ."],
        foreground=[
            [word in ("Lund", "Ada") for word in words.split()]
            for words in ("Where was she born , whom you know ? Lund .", "Who ? Ada .")
        ],
    )
    tokenizer = word_tokenizer(sorted({word.lower() for words in texts.words for word in words}))
    with pytest.warns(KdvizWarning, match="1 of 2 questions"):
        kept = QuestionSet.of(texts).keep_answered(length=8, tokenizer=tokenizer)
    assert kept.texts == ("Who ?",)


def test_keep_answered__says_how_many_it_leaves_out(asked) -> None:
    needed = asked.prepare().targets[:, 1] + 2
    length = int(needed.min())
    lost = int((needed > length).sum())
    assert 0 < lost < 4
    message = rf"^{lost} of 4 questions of SQuAD, squad\.json were left out: their answer lies beyond length="
    with pytest.warns(KdvizWarning, match=message):
        kept = asked.keep_answered(length=length)
    assert kept.sample_ids == tuple(np.array(asked.sample_ids)[needed <= length])


def test_divide__parts_share_no_passage_and_lose_no_question(tmp_path) -> None:
    passages = [(f"Ada saw {n} owls.", (("Who saw?", "Ada"), ("How many?", str(n)))) for n in range(10, 31)]
    texts = QuestionSet.of(read_squad(write_squad(tmp_path / "a.json", passages)))
    train, held_out = texts.divide("train"), texts.divide("held-out")
    assert len(held_out) == 10 and {*train.sample_ids, *held_out.sample_ids} == {*texts.sample_ids}
    assert not {*train.contexts} & {*held_out.contexts}
    assert set(Counter(held_out.contexts).values()) == {2}
    assert {*held_out.split} == {"held-out"} and held_out.split.dtype.kind == "U"


# --- SQuAD in a study ----------------------------------------------------------------------------------


def test_squad__asks_for_spans_or_for_classes(tmp_path) -> None:
    file = write_squad(tmp_path / "squad.json")
    spans, classes = Squad(file=file), Squad(file=file, task="answerable")
    assert (spans.finds_spans, classes.finds_spans) == (True, False)
    with pytest.warns(
        KdvizWarning, match=r"^1 of 5 questions of SQuAD, squad\.json have no answer: left out by"
    ):
        loaded = [spans.load(part) for part in ("train", "held-out")]
    assert sorted(len(part) for part in loaded) and sum(map(len, loaded)) == 4
    assert all(isinstance(part, QuestionSet) for part in loaded)
    assert spans.prepare(loaded[0]).targets.shape == (len(loaded[0]), 2)
    told = [classes.load(part) for part in ("train", "held-out")]
    assert sum(map(len, told)) == 5 and told[0].classes == ("unanswerable", "answerable")
    assert classes.prepare(told[0]).targets is None


def test_squad__without_what_is_needed_is_one_sentence(tmp_path) -> None:
    with pytest.raises(DataError, match="one passage only: none can be held out"):
        Squad(file=write_squad(tmp_path / "one.json", PASSAGES[:1])).load("train")
    with pytest.raises(DataError, match=r"no question of SQuAD, none\.json has an answer"):
        Squad(file=write_squad(tmp_path / "none.json", PASSAGES[3:])).load("train")
    with pytest.raises(
        DataError, match=r"^path \(data\.file\) is not a file: .*gone\.json; download train-v1\.1"
    ):
        Squad(file=tmp_path / "gone.json").load("train")
    all_answered = write_squad(tmp_path / "train-v1.1.json", PASSAGES[:3])
    with pytest.raises(
        DataError, match=r"train-v1\.1\.json have an answer, so task .* one class only; give a"
    ):
        Squad(file=all_answered, task="answerable").load("train")


# --- generated questions -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generated() -> dict[str, QuestionSet]:
    return {part: generated_questions(part, count=600) for part in ("train", "held-out")}


KIND_OF = {thing: kind for kind, (_, things) in _THINGS.items() for thing in things.split(", ")}


def answer_by_reading(question: str, passage: str) -> str:
    """Look for the person in the passage, and for a thing of the kind among what stands in that sentence."""
    (who,) = (name for name in _PEOPLE if name in question)
    (kind,) = (
        kind for kind, names in _THINGS.items() for name in (kind, names[0]) if f" {name} " in question
    )
    (sentence,) = (part for part in passage.split(".") if who in part)
    found = [thing for thing, its in KIND_OF.items() if its == kind and re.search(rf" {thing}\b", sentence)]
    (thing,) = found
    return thing


def test_generated_questions__answers_are_those_of_a_reader(generated) -> None:
    for texts in generated.values():
        for at in range(len(texts)):
            words = [w for w, mark in zip(texts.words[at], texts.foreground[at], strict=True) if mark]
            assert " ".join(words) == answer_by_reading(texts.texts[at], texts.contexts[at])
            assert texts.classes[texts.labels[at]] == KIND_OF[" ".join(words)]


def test_generated_questions__neither_place_nor_kind_alone_tells_the_answer(generated) -> None:
    """Six things a passage; 88 of 100 by kind is (1 + 0.77) / 2, 0.77 the mean of 1 / (1 + rivals)."""
    texts = generated["train"]
    chances, places = [], Counter()
    for at in range(len(texts)):
        things = re.findall(rf" ({'|'.join(map(re.escape, KIND_OF))})\b", texts.contexts[at])
        assert len(set(things)) == 6
        answer = answer_by_reading(texts.texts[at], texts.contexts[at])
        places[things.index(answer)] += 1
        chances.append(1 / sum(KIND_OF[thing] == KIND_OF[answer] for thing in things))
    assert np.mean(chances) == pytest.approx(0.885, abs=0.025)  # three standard errors of 600
    assert max(places.values()) / 600 < 1 / 6 + 0.05  # as well


def test_generated_questions__parts_share_no_passage_and_seeds_differ(generated) -> None:
    train, held_out = (generated[part].contexts for part in ("train", "held-out"))
    assert not {*train} & {*held_out} and len({*train}) == 600
    assert generated_questions("train", count=3).contexts == train[:3]
    assert generated_questions("train", count=3, seed=1).contexts != train[:3]
    with pytest.raises(ValueError, match="count must be"):
        generated_questions(count=0)


def test_generated_questions__tokenizer_knows_every_word(generated) -> None:
    source = GeneratedQuestions()
    tokenizer = source.load_tokenizer()
    for texts in generated.values():
        with warnings.catch_warnings():
            warnings.simplefilter("error", KdvizWarning)  # of unknown words, or such as are left out
            prepared = source.prepare(texts)
        for at, (first, last) in enumerate(prepared.targets[:100].tolist()):
            told = read_back(texts, tokenizer, at, first, last)
            assert told == answer_by_reading(texts.texts[at], texts.contexts[at])
    assert len(tokenizer) == len(tokenizer.get_vocab()) and tokenizer.pad_token_id == 0
    assert tokenizer("Otters?")["input_ids"] == [2, 1, tokenizer.convert_tokens_to_ids("?"), 3]
