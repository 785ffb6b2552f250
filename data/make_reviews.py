"""Make ``reviews.tsv.xz`` and ``review_lexicon.txt``: rated sentences and words.

``reviews.tsv.xz`` has one sentence a line: number in the original file, mean rating from -4 (extremely
negative) to 4 (extremely positive), text. Two apostrophes or a grave accent that stand for a quotation mark
become one, runs of spaces one space; of texts that are then equal but for capitals the first is kept.
``review_lexicon.txt`` has one lower-case word and its mean rating a line, without the emoticons, phrases and
single letters of the original. Standard library only; the same input gives the same files.

    python data/make_reviews.py vaderSentiment-3.3.2.tar.gz

The argument is the source distribution of vaderSentiment 3.3.2, as
``pip download --no-deps --no-binary :all: vaderSentiment==3.3.2`` leaves it.
"""

import argparse
import io
import lzma
import re
import tarfile
from pathlib import Path

HERE = Path(__file__).parent
LEXICON = "vaderSentiment/vader_lexicon.txt"
EXTRAS = "additional_resources/hutto_ICWSM_2014.tar.gz"
SENTENCES = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
WORD = re.compile(r"[^\W\d_]+(?:[-'][^\W\d_]+)*")


def read_member(archive: tarfile.TarFile, ending: str) -> bytes:
    """Read the one file of an archive whose path ends so."""
    (member,) = (member for member in archive.getmembers() if member.name.endswith(ending))
    return archive.extractfile(member).read()


def tidy(text: str) -> str:
    """Write quotation marks as such and spaces singly."""
    return " ".join(text.replace("''", '"').replace("`", "'").split())


def list_sentences(raw: str) -> list[str]:
    """Turn the lines ``number, mean rating, text`` into ours, each text once."""
    kept: dict[str, str] = {}
    for line in raw.splitlines():
        number, rating, text = line.split("\t")
        text = tidy(text)
        kept.setdefault(text.casefold(), f"{number}\t{float(rating):.3f}\t{text}\n")
    return list(kept.values())


def list_words(raw: str) -> list[str]:
    """Keep the words of the lexicon, in lower case and order."""
    ratings = {}
    for line in raw.splitlines():
        word, rating = line.split("\t")[:2]
        if len(word) > 1 and WORD.fullmatch(word):
            ratings.setdefault(word.lower(), rating)
    return [f"{word}\t{ratings[word]}\n" for word in sorted(ratings)]


def main() -> None:
    """Read the command line and write the files beside this script."""
    parser = argparse.ArgumentParser(description="Make reviews.tsv.xz and review_lexicon.txt.")
    parser.add_argument("archive", type=Path, help="vaderSentiment-3.3.2.tar.gz")
    with tarfile.open(parser.parse_args().archive) as outer:
        words = list_words(read_member(outer, f"/{LEXICON}").decode("utf-8"))
        with tarfile.open(fileobj=io.BytesIO(read_member(outer, EXTRAS))) as inner:
            sentences = list_sentences(read_member(inner, SENTENCES).decode("utf-8"))
        licence = read_member(outer, "/LICENSE.txt").decode("utf-8").replace("\r\n", "\n").strip()
    packed = lzma.compress("".join(sentences).encode("utf-8"), preset=9 | lzma.PRESET_EXTREME)
    (HERE / "reviews.tsv.xz").write_bytes(packed)
    (HERE / "review_lexicon.txt").write_text("".join(words), encoding="utf-8")
    (HERE / "review_license.txt").write_text(licence + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
