"""Readers of text data sets in their published file formats: SST-2 and SQuAD. NumPy only."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kdviz.errors import DataError
from kdviz.sources.reviews import REVIEW_CLASSES
from kdviz.sources.samples import AbsolutePath, Part, find_repeated, list_some, require_integer
from kdviz.sources.text import TextSet, TextSource
from kdviz.sources.words import locate_words, mark_polar, split_words

ANSWER_CLASSES = ("unanswerable", "answerable")
"""The two classes of SQuAD: whether the context answers the question."""


class Sst2(TextSource):
    """Sentences of the user's own, as `read_sst2` reads them; a fifth of every class is held out."""

    kind: Literal["sst2"] = "sst2"
    file: AbsolutePath = Field(description="sentences and their classes")

    def load(self, part: Part) -> TextSet:
        """Read the sentences of a part."""
        return read_sst2(self.file).divide(part)


class Squad(TextSource):
    """Questions and contexts, as `read_squad` reads them; a fifth of either class is held out."""

    kind: Literal["squad"] = "squad"
    file: AbsolutePath = Field(description="questions, contexts and answers")

    def load(self, part: Part) -> TextSet:
        """Read the questions of a part."""
        return read_squad(self.file).divide(part)


def read_sst2(path: str | Path, *, count: int | None = None) -> TextSet:
    """Read a labelled file of SST-2 as in GLUE: the header ``sentence<TAB>label``, then one text a line.

    Parameters
    ----------
    path
        ``train.tsv`` or ``dev.tsv``; its stem is the `split`. The file is already cut into words by spaces.
    count
        Read the first `count` texts only, all by default.

    Returns
    -------
    TextSet
        Samples are named by file and line (the header is line 1); foreground as for `movie_reviews`.

    Raises
    ------
    ValueError, TypeError
        If `count` is not a positive integer.
    DataError
        If the file cannot be read, has another header, or a line has no text or another label than 0 and 1.

    References
    ----------
    .. [1] Socher et al., "Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank",
       EMNLP 2013.
    """
    path = Path(path)
    if count is not None:
        require_integer("count", count, 1)
    lines = _read_text(path).split("\n")
    if lines[0].rstrip("\r").split("\t") != ["sentence", "label"]:
        raise DataError(
            f"{path}, line 1: the header must be sentence<TAB>label, got {lines[0][:60]!r}; "
            "GLUE's test files have no labels"
        )
    words, labels, numbers = [], [], []
    for number, line in islice(enumerate(lines[1:], start=2), count):
        if not line and number == len(lines):
            break
        sentence, *label = line.rstrip("\r").split("\t")
        if label not in (["0"], ["1"]):
            raise DataError(
                f"{path}, line {number}: expected a sentence, a tab and 0 or 1, got {line[:60]!r}"
            )
        if not sentence.strip():
            raise DataError(f"{path}, line {number}: the sentence is empty")
        words.append(tuple(sentence.split()))
        labels.append(int(label[0]))
        numbers.append(number)
    if not words:
        raise DataError(f"{path} holds no sentence")
    return TextSet(
        words=tuple(words),
        foreground=mark_polar(words),
        labels=np.array(labels, dtype=np.int64),
        sample_ids=tuple(f"{path.stem}-{number:06d}" for number in numbers),
        classes=REVIEW_CLASSES,
        split=np.full(len(words), path.stem),
        source=f"SST-2, {path.name}",
    )


def read_squad(path: str | Path, *, count: int | None = None) -> TextSet:
    """Read a JSON file of SQuAD 1.1 or 2.0: questions, each with the context that may answer it.

    Parameters
    ----------
    path
        Such as ``dev-v2.0.json``; its stem is the `split`.
    count
        Read the first `count` questions only, all by default.

    Returns
    -------
    TextSet
        Words of the question, then of the context, told apart by `segments`; samples have the file's own
        question identifiers. Foreground: the context's words that the first answer touches. Class
        ``answerable``, or ``unanswerable`` (2.0 only) with no foreground word.

    Raises
    ------
    ValueError, TypeError
        If `count` is not a positive integer.
    DataError
        If the file cannot be read or lacks a key, a text is empty, or an answer is not where it is said
        to be.

    References
    ----------
    .. [1] Rajpurkar, Jia and Liang, "Know What You Don't Know: Unanswerable Questions for SQuAD", ACL 2018.
    """
    path = Path(path)
    if count is not None:
        require_integer("count", count, 1)
    try:
        contents = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: no valid JSON: {error.msg}") from error
    samples = list(islice(_walk_questions(contents, path), count))
    if not samples:
        raise DataError(f"{path} holds no question")
    names, words, foreground, segments, labels = zip(*samples, strict=True)
    repeated = find_repeated(names)
    if repeated:
        raise DataError(f"{path}: question identifiers must differ, repeated: {list_some(repeated)}")
    return TextSet(
        words=words,
        foreground=foreground,
        labels=np.array(labels, dtype=np.int64),
        sample_ids=names,
        classes=ANSWER_CLASSES,
        split=np.full(len(names), path.stem),
        source=f"SQuAD, {path.name}",
        segments=segments,
    )


def _walk_questions(contents: Any, path: Path) -> Iterator[tuple]:
    """Yield (name, words, foreground, segments, label) of every question."""
    place = "top level"
    try:
        for article, entry in enumerate(contents["data"]):
            for paragraph, block in enumerate(entry["paragraphs"]):
                place = f"article {article}, paragraph {paragraph}"
                spans = locate_words(block["context"])
                for question in block["qas"]:
                    place = f"question {question['id']!r}"
                    yield _read_question(question, block["context"], spans, f"{path}, {place}")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        reason = f"key {error} is missing" if isinstance(error, KeyError) else f"not as in SQuAD: {error}"
        raise DataError(f"{path}, {place}: {reason}") from error


def _read_question(
    question: dict[str, Any], context: str, spans: list[tuple[str, int, int]], place: str
) -> tuple[str, tuple[str, ...], NDArray[np.bool_], NDArray[np.int64], int]:
    asked = split_words(question["question"])
    if not asked or not spans:
        raise DataError(f"{place}: the {'context' if asked else 'question'} is empty")
    words = asked + tuple(word for word, _, _ in spans)
    segments = np.repeat([0, 1], [len(asked), len(spans)])
    foreground = np.zeros(len(words), dtype=bool)
    answerable = not question.get("is_impossible", False)
    if answerable:
        if not question["answers"]:
            raise DataError(f"{place}: it has no answer and is not marked is_impossible")
        text, start = question["answers"][0]["text"], question["answers"][0]["answer_start"]
        end = start + len(text)
        if not text or start < 0 or context[start:end] != text:
            raise DataError(f"{place}: the answer {text[:60]!r} is not at character {start} of the context")
        foreground[len(asked) :] = [first < end and start < last for _, first, last in spans]
    return str(question["id"]), words, foreground, segments, int(answerable)


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text") from error
