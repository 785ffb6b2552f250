"""Readers of texts: SST-2 and SQuAD as published, and labelled tables. NumPy only."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from kdviz.errors import DataError, KdvizWarning
from kdviz.sources.questions import QuestionSet
from kdviz.sources.reviews import REVIEW_CLASSES
from kdviz.sources.samples import AbsolutePath, OwnSource, check_file, read_text
from kdviz.sources.text import TextSet, TextSource, join_spans
from kdviz.sources.words import as_spans, locate_words, mark_listed, mark_polar

_SST2 = (
    "download https://dl.fbaipublicfiles.com/glue/data/SST-2.zip, unpack it and give its train.tsv or dev.tsv"
)
_SQUAD = (
    "download train-v1.1.json or train-v2.0.json of SQuAD from https://rajpurkar.github.io/SQuAD-explorer/ "
    "and give that"
)
_TABLE = "give a table of texts and labels between tabs, its header in line 1"
_QUOTED = re.compile('"(?:[^"]|"")*"')


class Sst2(OwnSource, TextSource):
    """Sentences of the user's own, as `read_sst2` reads them; a fifth of every class is held out."""

    kind: Literal["sst2"] = "sst2"
    file: AbsolutePath = Field(description="sentences and their classes")

    def read(self) -> TextSet:
        """Read the sentences."""
        return read_sst2(self.file)


class LabelledTexts(OwnSource, TextSource):
    """Texts or pairs of the user's own, as `read_texts` reads them; a fifth of every class is held out."""

    kind: Literal["texts"] = "texts"
    file: AbsolutePath = Field(description="texts and their classes")
    foreground: AbsolutePath | None = Field(
        default=None, description="words that ought to matter, one a line; a lexicon's by default"
    )

    def read(self) -> TextSet:
        """Read the texts."""
        listed = None
        if self.foreground is not None:
            listed = [word.strip() for word in read_text(self.foreground).split("\n") if word.strip()]
        return read_texts(self.file, foreground=listed)


class Squad(OwnSource, TextSource):
    """Questions and contexts, as `read_squad` reads them.

    Of spans, only the questions that have an answer within `length` tokens are used, and a fifth of the
    contexts is held out; of classes all are, and a fifth of either is.
    """

    kind: Literal["squad"] = "squad"
    file: AbsolutePath = Field(description="questions, contexts and answers")
    task: Literal["span", "answerable"] = Field(
        default="span", description="find the answer, or tell whether the context holds one"
    )

    @property
    def finds_spans(self) -> bool:
        """Whether the answer is to be found."""
        return self.task == "span"

    def read(self) -> TextSet:
        """Read the questions."""
        texts = read_squad(self.file)
        if not self.finds_spans:
            if texts.labels.all():
                raise DataError(
                    f"all questions of {self.file} have an answer, so task (data.task) 'answerable' has one "
                    "class only; give a file of SQuAD 2.0, such as train-v2.0.json, or take 'span'"
                )
            return texts
        asked = QuestionSet.of(texts)
        if len(asked) < len(texts):
            message = (
                f"{len(texts) - len(asked)} of {len(texts)} questions of {texts.source} have no answer: "
            )
            message += "left out by task (data.task) 'span', classes for 'answerable'"
            warnings.warn(message, KdvizWarning, stacklevel=2)
        return asked.keep_answered(**self._options())


class _Answer(BaseModel):
    text: str
    answer_start: int


class _Question(BaseModel):
    id: str | int
    question: str
    answers: list[_Answer] = []
    is_impossible: bool = False


class _Paragraph(BaseModel):
    context: str
    qas: list[_Question]


class _Article(BaseModel):
    paragraphs: list[_Paragraph]


class _Contents(BaseModel):
    """A file of SQuAD."""

    data: list[_Article]


def read_texts(path: str | Path, *, foreground: Sequence[str] | None = None) -> TextSet:
    """Read a table of texts and their classes: a header, then one sample a line, between tabs.

    Parameters
    ----------
    path
        One column is named ``label``. One other column holds the texts; of two, the first and second texts of
        pairs. The stem of the file is the `split`. Entries may be quoted as pandas and spreadsheets do.
    foreground
        Words, or several in a row, that ought to matter, in any case of letters; by default those of the
        lexicon of `movie_reviews`.

    Returns
    -------
    TextSet
        Classes are the labels that occur: in the order of numbers if all are numbers, else of the alphabet.
        Samples are named by file and line (the header is line 1).

    Raises
    ------
    DataError
        If the file cannot be read, has other columns, or a line lacks a text or its label.
    """
    path = Path(path)
    columns, rows = _read_table(path, _TABLE, "path (data.file, --texts)")
    texts = [name for name in columns if name != "label"]
    if len(texts) not in (1, 2) or len(columns) != len(texts) + 1:
        raise DataError(
            f"{path}, line 1: the header must name a column label and one or two of texts, got {columns}"
        )
    by_name = dict(zip(columns, zip(*rows, strict=True), strict=True))
    labels = by_name["label"]
    numbered = all(re.fullmatch(r"\d+", label) for label in labels)
    classes = sorted({*labels}, key=lambda label: (int(label) if numbered else 0, label))
    found = TextSet.from_sentences(
        by_name[texts[0]],
        [classes.index(label) for label in labels],
        contexts=by_name[texts[1]] if len(texts) == 2 else None,
        classes=classes,
        sample_ids=[f"{path.stem}-{number:06d}" for number in range(2, len(rows) + 2)],
        split=path.stem,
        source=f"texts, {path.name}",
    )
    if foreground is None:
        return found
    wholes = map(found.whole, range(len(found)))
    return replace(found, foreground=tuple(map(mark_listed, wholes, found.spans, repeat(foreground))))


def _read_table(path: Path, advice: str, name: str = "path (data.file)") -> tuple[list[str], list[list[str]]]:
    """Return the columns and the rows of a table, each with something in every column.

    Quotation marks mean themselves, unless all stand as in exported tables: around entries, doubled inside.
    """
    check_file(name, path, advice)
    header, *lines = read_text(path, advice).removesuffix("\n").split("\n")
    columns = header.split("\t")
    rows = [line.split("\t") for line in lines]
    marked = [entry for row in rows for entry in row if '"' in entry]
    if all(map(_QUOTED.fullmatch, marked)) and any('""' in entry[1:-1] for entry in marked):
        rows = [[e[1:-1].replace('""', '"') if '"' in e else e for e in row] for row in rows]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(columns) or not all(map(str.strip, row)):
            wanted, got = "<TAB>".join(columns), lines[number - 2][:60]
            raise DataError(f"{path}, line {number}: expected {wanted}, got {got!r}")
    if not rows:
        raise DataError(f"{path} holds no sentence; {advice}")
    return columns, rows


def read_sst2(path: str | Path) -> TextSet:
    """Read a labelled file of SST-2 as in GLUE: the header ``sentence<TAB>label``, then one text a line.

    Parameters
    ----------
    path
        ``train.tsv`` or ``dev.tsv``; its stem is the `split`. The file is already cut into words by spaces.

    Returns
    -------
    TextSet
        Samples are named by file and line (the header is line 1); foreground as for `movie_reviews`.

    Raises
    ------
    DataError
        If the file cannot be read, has another header, or a line has no text or another label than 0 and 1.

    References
    ----------
    .. [1] Socher et al., "Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank",
       EMNLP 2013.
    """
    path = Path(path)
    columns, rows = _read_table(path, _SST2)
    if columns != ["sentence", "label"]:
        got = "<TAB>".join(columns)[:60]
        raise DataError(f"{path}, line 1: the header must be sentence<TAB>label, got {got}; {_SST2}")
    for number, (_, label) in enumerate(rows, start=2):
        if label not in ("0", "1"):
            raise DataError(f"{path}, line {number}: the label of SST-2 is 0 or 1, got {label!r}")
    sentences = [sentence for sentence, _ in rows]
    spans = tuple(as_spans([word.span() for word in re.finditer(r"\S+", text)]) for text in sentences)
    return TextSet(
        texts=tuple(sentences),
        spans=spans,
        foreground=mark_polar([sentence.split() for sentence in sentences]),
        labels=np.array([int(label) for _, label in rows], dtype=np.int64),
        sample_ids=tuple(f"{path.stem}-{number:06d}" for number in range(2, len(rows) + 2)),
        classes=REVIEW_CLASSES,
        split=np.full(len(rows), path.stem),
        source=f"SST-2, {path.name}",
    )


def read_squad(path: str | Path) -> TextSet:
    """Read a JSON file of SQuAD 1.1 or 2.0: questions, each with the context that may answer it.

    Parameters
    ----------
    path
        Such as ``dev-v2.0.json``; its stem is the `split`.

    Returns
    -------
    TextSet
        Pairs of question and context; samples have the file's own
        question identifiers. Foreground: the context's words that the first answer touches. Class
        ``answerable``, or ``unanswerable`` (2.0 only) with no foreground word.

    Raises
    ------
    DataError
        If the file cannot be read or lacks a key, a text is empty, or an answer is not where it is said
        to be.

    References
    ----------
    .. [1] Rajpurkar, Jia and Liang, "Know What You Don't Know: Unanswerable Questions for SQuAD", ACL 2018.
    """
    path = Path(path)
    check_file("path (data.file)", path, _SQUAD)
    try:
        contents = _Contents.model_validate_json(read_text(path, _SQUAD))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "top level"
        raise DataError(f"{path}, {place}: {first['msg']}; {_SQUAD}") from error
    samples = []
    for paragraph in (paragraph for article in contents.data for paragraph in article.paragraphs):
        places = locate_words(paragraph.context)
        samples += [_mark_answer(question, paragraph.context, places, path) for question in paragraph.qas]
    if not samples:
        raise DataError(f"{path} holds no question")
    names, questions, texts, spans, foreground, labels = zip(*samples, strict=True)
    return TextSet(
        texts=questions,
        contexts=texts,
        spans=spans,
        foreground=foreground,
        labels=np.array(labels, dtype=np.int64),
        sample_ids=names,
        classes=("unanswerable", "answerable"),
        split=np.full(len(names), path.stem),
        source=f"SQuAD, {path.name}",
    )


def _mark_answer(
    question: _Question, context: str, spans: NDArray[np.int64], path: Path
) -> tuple[str, str, str, NDArray[np.int64], NDArray[np.bool_], int]:
    """Return name, texts, spans, foreground and label of a question, given the spans of its context."""
    place, asked = f"{path}, question {question.id!r}", locate_words(question.question)
    if not len(asked) or not len(spans):
        raise DataError(f"{place}: the {'context' if len(asked) else 'question'} is empty")
    marked = np.zeros(len(spans), dtype=bool)
    if not question.is_impossible:
        if not question.answers:
            raise DataError(f"{place}: it has no answer and is not marked is_impossible")
        text, start = question.answers[0].text, question.answers[0].answer_start
        end = start + len(text)
        if not text or start < 0 or context[start:end] != text:
            raise DataError(f"{place}: the answer {text[:60]!r} is not at character {start} of the context")
        marked = (spans[:, 0] < end) & (start < spans[:, 1])
    return (
        str(question.id),
        question.question,
        context,
        join_spans(question.question, asked, spans),
        np.concatenate([np.zeros(len(asked), dtype=bool), marked]),
        int(not question.is_impossible),
    )
