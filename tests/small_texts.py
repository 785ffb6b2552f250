"""Sets of a few texts, written in place."""

import numpy as np

from kdviz.sources import TextSet


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
