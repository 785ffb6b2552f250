"""Texts as they come: movie reviews, SST-2 and SQuAD, and the tokenizer learned from the reviews."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from kdviz.errors import DataError
from kdviz.sources import Encoding, TextSet, encode, movie_reviews, read_squad, read_sst2, review_tokenizer
from kdviz.sources.reviews import _read_reviews
from kdviz.sources.words import _read_lexicon

DATA = Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def train() -> TextSet:
    return movie_reviews("train")


@pytest.fixture(scope="module")
def held_out() -> TextSet:
    return movie_reviews("held-out")


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
        with pytest.raises(
            DataError, match=r"^path \(data\.file\) is not a file: .*none\.x; download .*SQuAD|SST"
        ):
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
