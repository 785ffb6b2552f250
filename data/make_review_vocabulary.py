"""Make ``review_vocabulary.txt``: 4,000 word pieces learned from the training split of the movie reviews.

Lower case without accents, one piece a line: the special ones, all ASCII characters, then what is learned.
Pieces are learned as WordPiece trainers do: from single characters on, the most frequent pair of neighbours
becomes a piece, again and again. Of equally frequent pairs it is the first in the alphabet, so that the file
is the same each time (the trainer of ``tokenizers`` breaks ties by chance). Takes a minute; needs kdviz[text]
and the other review files with their checksums.

    python data/make_review_vocabulary.py
"""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase, digits, punctuation

from tokenizers import normalizers, pre_tokenizers

from kdviz.sources import movie_reviews

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = 4000
ASCII = [*punctuation, *(mark + letter for mark in ("", "##") for letter in ascii_lowercase + digits)]
RAREST = 2  # other characters, and pairs, that come only once are no pieces


def count_words(texts: tuple[tuple[str, ...], ...]) -> Counter[str]:
    """Count the words as the tokenizer cuts and spells them."""
    normalizer, cutter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    spelled = (normalizer.normalize_str(" ".join(words)) for words in texts)
    return Counter(word for text in spelled for word, _ in cutter.pre_tokenize_str(text))


def learn_pieces(words: Counter[str], size: int) -> list[str]:
    """Return all characters, then the pieces that joining makes, `size` in all."""
    spellings = {word: [word[0], *(f"##{letter}" for letter in word[1:])] for word in words}
    letters = Counter(dict.fromkeys(ASCII, RAREST))
    pairs: Counter[tuple[str, str]] = Counter()
    for word, spelling in spellings.items():
        for piece in spelling:
            letters[piece] += words[word]
        for pair in pairwise(spelling):
            pairs[pair] += words[word]
    pieces = sorted(letter for letter, count in letters.items() if count >= RAREST)
    while len(pieces) < size:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < RAREST:
            break
        joined = best[0] + best[1].removeprefix("##")
        pieces += [] if joined in pieces else [joined]
        for word, spelling in spellings.items():
            if best in pairwise(spelling):
                pairs.subtract({pair: words[word] * n for pair, n in Counter(pairwise(spelling)).items()})
                spellings[word] = join(spelling, best, joined)
                for pair in pairwise(spellings[word]):
                    pairs[pair] += words[word]
    return pieces


def join(spelling: list[str], pair: tuple[str, str], joined: str) -> list[str]:
    """Replace every occurrence of a pair of pieces by one piece."""
    result: list[str] = []
    for piece in spelling:
        if result and (result[-1], piece) == pair:
            result[-1] = joined
        else:
            result.append(piece)
    return result


def main() -> None:
    """Learn the pieces and write them beside this script."""
    pieces = SPECIAL + learn_pieces(count_words(movie_reviews("train").words), PIECES - len(SPECIAL))
    path = Path(__file__).parent / "review_vocabulary.txt"
    path.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")


if __name__ == "__main__":
    main()
