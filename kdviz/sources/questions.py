"""Questions whose answer stands in a passage, and generated ones: who saw which plants and animals."""

import hashlib
import re
import warnings
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kdviz.arguments import name_some, one_of, whole_number
from kdviz.errors import DataError, KdvizWarning
from kdviz.sources.samples import PARTS, Part, Prepared
from kdviz.sources.text import Encoding, TextSet, TextSource, encode, join_spans
from kdviz.sources.tokenizing import Pieces, load_tokenizer, review_tokenizer, tokenize, word_tokenizer
from kdviz.sources.words import locate_words, split_words


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class QuestionSet(TextSet):
    """Questions and passages with their answers, which are the foreground words: one after the other.

    Networks are asked for the first and the last token of an answer (`Prepared.targets`), not for a class.
    An answer that touches a word in part is the whole word. The parts of a set share no passage.
    """

    plural = "questions"

    @classmethod
    def of(cls, texts: TextSet) -> Self:
        """Take the pairs of texts that have foreground words as questions; all are of one class.

        Raises
        ------
        DataError
            If there are none.
        """
        answered = texts.select(np.flatnonzero([mask.any() for mask in texts.foreground]))
        if not len(answered):
            raise DataError(f"no question of {texts.source} has an answer")
        known = {field.name: getattr(answered, field.name) for field in fields(TextSet)}
        return cls(**known | {"labels": np.zeros_like(answered.labels), "classes": ("answerable",)})

    def prepare(self, *, length: int = 96, tokenizer: Any = None) -> Prepared:
        """Cut the texts into tokens, as `encode` does, and tell where the answers are.

        Raises
        ------
        ValueError
            If an answer is missing, or beyond `length`: `keep_answered` leaves these questions out.
        """
        encoding = encode(self, tokenizer or review_tokenizer(), length=length)
        if lost := [self.sample_ids[at] for at in np.flatnonzero(~self._answered(encoding))]:
            raise ValueError(
                f"the answer of {name_some(lost)} is missing, or not within length={length} tokens; leave "
                "such questions out with keep_answered"
            )
        prepared = Prepared(encoding.ids, encoding.units, encoding.texts.foreground_mask)
        return replace(prepared, targets=encoding.answers)

    def keep_answered(self, *, length: int = 96, tokenizer: Any = None) -> Self:
        """Leave out the questions whose answer does not wholly lie within `length` tokens.

        Raises
        ------
        DataError
            If no question is left.

        Warns
        -----
        KdvizWarning
            How many are left out.
        """
        pieces = tokenize(tokenizer or review_tokenizer(), self.texts, self.contexts, self.spans)
        kept = np.array(
            [_fits(row, mask, length) for row, mask in zip(pieces, self.foreground, strict=True)], dtype=bool
        )
        if not kept.any():
            raise DataError(f"no answer in {self.source} lies within length={length} tokens")
        if not kept.all():
            message = f"{np.count_nonzero(~kept)} of {len(kept)} questions of {self.source} were left out: "
            message += f"their answer lies beyond length={length} tokens"
            warnings.warn(message, KdvizWarning, stacklevel=2)
        return self.select(np.flatnonzero(kept))

    def divide(self, part: Part) -> Self:
        """Hold out a fifth of the passages with all their questions, and return a part.

        Raises
        ------
        DataError
            If there is only one passage.
        """
        one_of("part", part, PARTS)
        passages, passage_of = np.unique(np.array(self.contexts), return_inverse=True)
        if len(passages) < 2:
            raise DataError(f"{self.source} has one passage only: none can be held out")
        held_out = np.random.default_rng(0).permutation(len(passages)) % 5 == 0
        chosen = np.flatnonzero(held_out[passage_of] == (part == "held-out"))
        chosen = np.random.default_rng(1).permutation(chosen)
        return replace(self.select(chosen), split=np.full(len(chosen), part))

    def _answered(self, encoding: Encoding) -> NDArray[np.bool_]:
        """Tell of which questions the whole answer is among the tokens."""
        whole = [spans[mask][-1:, 1] for spans, mask in zip(self.spans, self.foreground, strict=True)]
        seen = [spans[-1, 1] for spans in encoding.texts.spans]
        return np.array([bool(len(end)) and end[0] <= last for end, last in zip(whole, seen, strict=True)])


def _fits(pieces: Pieces, answer: NDArray[np.bool_], length: int) -> bool:
    """Tell whether the special tokens and all up to the answer's last are no more than `length`."""
    words = pieces.unit_of[answer]
    fits = np.count_nonzero(np.array(pieces.word_of) <= words.max(initial=-1)) <= length
    return bool(len(words) and (words >= 0).all() and fits)


class GeneratedQuestions(TextSource):
    """Generated passages and questions, as `generated_questions` makes them."""

    kind: Literal["generated-questions"] = "generated-questions"
    length: int = Field(
        default=64, ge=64, le=512, description="the most tokens of a question and its passage"
    )

    @property
    def finds_spans(self) -> bool:
        """Yes."""
        return True

    def load(self, part: Part) -> QuestionSet:
        """Generate questions."""
        return generated_questions(part)

    def load_tokenizer(self) -> Any:
        """Return what cuts the texts into tokens: by default every word of the templates is one."""
        return load_tokenizer(self.tokenizer) if self.tokenizer else word_tokenizer(_list_words())


_THINGS = {  # by kind: another name of the kind, and sixteen of it
    "bird": (
        "feathered animal",
        "heron, finch, sparrow, raven, swan, barn owl, stork, robin, wren, kestrel, sea eagle, magpie, lark, "
        "gull, starling, pheasant",
    ),
    "fish": (
        "animal with gills",
        "salmon, brown trout, pike, perch, carp, eel, herring, cod, tench, sturgeon, mackerel, plaice, "
        "basking shark, halibut, haddock, bream",
    ),
    "insect": (
        "animal with six legs",
        "stag beetle, wasp, hornet, cricket, mayfly, ladybird, earwig, moth, honey bee, dragonfly, termite, "
        "weevil, locust, butterfly, aphid, grasshopper",
    ),
    "mammal": (
        "furry animal",
        "fox, otter, hare, badger, red deer, hedgehog, weasel, bat, squirrel, mole, lynx, wild boar, marten, "
        "dormouse, vole, elk",
    ),
    "reptile": (
        "scaly animal",
        "adder, tortoise, gecko, skink, iguana, python, cobra, grass snake, chameleon, turtle, crocodile, "
        "alligator, viper, boa, caiman, monitor lizard",
    ),
    "tree": (
        "plant with a trunk",
        "oak, elm, ash, beech, silver birch, poplar, larch, maple, lime, hazel, alder, yew, norway spruce, "
        "rowan, willow, hornbeam",
    ),
    "flower": (
        "plant with petals",
        "daisy, tulip, rose, sweet pea, violet, poppy, primrose, lily, crocus, cowslip, orchid, iris, "
        "snowdrop, gentian, anemone, corn marigold",
    ),
    "fruit": (
        "thing to eat",
        "apple, pear, plum, cherry, quince, peach, apricot, fig, medlar, lemon, mango, papaya, melon, "
        "wild strawberry, black currant, raspberry",
    ),
}
_SENTENCES = (
    "{who} saw {one} and {other} {place}.",
    "{place} {who} noticed {one} and {other}.",
    "{who} found {one} {place}, and then {other}.",
)
_QUESTIONS = (
    "Which {kind} did {who} see?",
    "What {kind} was seen by {who}?",
    "Which {kind} did {who} find?",
    "What was the {kind} that {who} noticed?",
)
_PEOPLE = ("Ada", "Bela", "Cora", "Dario", "Edda", "Falk", "Gita", "Henk", "Ivo", "Jana", "Kolja", "Lea")
_PLACES = ("by the river", "near the barn", "on the hill", "behind the mill", "in the valley")
_TELLERS = 3  # sentences of a passage; each names two things
_HELD_OUT_SHARE = 0.2
_COUNTS = {"train": 8000, "held-out": 1000}


def generated_questions(split: str = "train", *, count: int | None = None, seed: int = 0) -> QuestionSet:
    """Generate passages of three sentences about who saw which plants and animals, each with one question.

    A sentence names two things, and the question asks for the bird, the tree or other kind of thing that
    somebody saw; kinds have two names. Six things stand in a passage, any of which could be named there:
    order, sentences, people and things are drawn at random, so that no place is likelier than another. In
    half of the passages all are of different kinds; in the others several people may have seen things of the
    kind that is asked for. One who knows which thing is of which kind, and does not look who saw it, is right
    in 88 of 100.

    Parameters
    ----------
    split
        ``"train"`` or ``"held-out"``. A hash of the passage decides, so that no passage is in both.
    count
        How many questions: by default 8,000 of the training split, 1,000 of the other.
    seed
        Another seed gives other passages. Question `k` does not depend on `count`.

    Returns
    -------
    QuestionSet
        Foreground: the words of the answer, one or two. Classes: the kinds that are asked for.

    Raises
    ------
    ValueError
        If an argument is outside what is said above.

    Examples
    --------
    >>> questions = generated_questions("held-out", count=1)
    >>> questions.texts[0]
    'Which animal with six legs did Lea find?'
    >>> questions.contexts[0].split(". ")[1]
    'Lea found an aphid near the barn, and then a cowslip'
    """
    one_of("split", split, PARTS)
    whole_number("seed", seed)
    count = _COUNTS[split] if count is None else count
    whole_number("count", count, 1)
    drawn = [_draw(np.random.default_rng([seed, PARTS.index(split), at]), split) for at in range(count)]
    asked, questions, passages, spans, foreground = zip(*drawn, strict=True)
    return QuestionSet(
        texts=questions,
        contexts=passages,
        spans=spans,
        foreground=foreground,
        labels=np.array([[*_THINGS].index(kind) for kind in asked], dtype=np.int64),
        sample_ids=tuple(f"{split}-{at:05d}" for at in range(count)),
        classes=tuple(_THINGS),
        split=np.full(count, split),
        source=f"generated questions, {split}, seed {seed}",
    )


def _draw(rng: np.random.Generator, split: str) -> tuple[str, str, str, NDArray[np.int64], NDArray[np.bool_]]:
    """Draw passages until one belongs to the split; return what is asked, texts, spans and foreground."""
    while True:
        passage, facts = _tell(rng)
        digest = int.from_bytes(hashlib.sha256(passage.encode()).digest()[:8]) / 2**64
        if (digest < _HELD_OUT_SHARE) == (split == "held-out"):
            break
    who, kind, thing = facts[rng.integers(len(facts))]
    name = kind if rng.random() < 0.5 else _THINGS[kind][0]
    question = str(rng.choice(_QUESTIONS)).format(kind=name, who=who)
    found = re.search(rf"\b{thing}\b", passage)
    assert found is not None
    asked, told = locate_words(question), locate_words(passage)
    marked = (told[:, 0] < found.end()) & (found.start() < told[:, 1])
    foreground = np.concatenate([np.zeros(len(asked), dtype=bool), marked])
    return kind, question, passage, join_spans(question, asked, told), foreground


def _tell(rng: np.random.Generator) -> tuple[str, list[tuple[str, str, str]]]:
    """Draw a passage, and who saw which thing of which kind in it; no thing is seen twice."""
    kinds = rng.choice([*_THINGS], (_TELLERS, 2), replace=False)
    if rng.random() < 0.5:
        kinds = np.stack([rng.choice([*_THINGS], 2, replace=False) for _ in range(_TELLERS)])
    sentences: list[str] = []
    facts: list[tuple[str, str, str]] = []
    for who, pair in zip(rng.choice(_PEOPLE, _TELLERS, replace=False).tolist(), kinds.tolist(), strict=True):
        for kind in pair:
            seen = {thing for _, _, thing in facts}
            left = [thing for thing in _THINGS[kind][1].split(", ") if thing not in seen]
            facts.append((who, kind, str(rng.choice(left))))
        one, other = (f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}" for _, _, thing in facts[-2:])
        told = str(rng.choice(_SENTENCES)).format(who=who, one=one, other=other, place=rng.choice(_PLACES))
        sentences.append(told[0].upper() + told[1:])
    return " ".join(sentences), facts


def _list_words() -> list[str]:
    """List every word and mark that passages and questions can hold, in lower case, each once."""
    texts = [*_SENTENCES, *_QUESTIONS, *_PEOPLE, *_PLACES, "a an"]
    texts += [text for kind, both in _THINGS.items() for text in (kind, *both)]
    words = (word for text in texts for word in split_words(re.sub(r"{\w+}", " ", text.lower())))
    return list(dict.fromkeys(words))
