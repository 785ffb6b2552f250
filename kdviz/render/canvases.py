"""The kinds of canvases, chosen by the coordinates of a run's samples.

``row`` and ``col`` are a grid, ``token`` words, ``x``, ``y`` and ``z`` points in space. A further kind is a
further class in `KINDS`; nothing else tells the kinds apart.
"""

import re
from collections import Counter

import xarray as xr

from kdviz.arguments import whole_number
from kdviz.render.canvas import Canvas
from kdviz.render.cloud import CloudCanvas
from kdviz.render.image import GridCanvas
from kdviz.render.text import WordCanvas
from kdviz.schema import read_classes

_HASH = re.compile(r"(?=.*\d)(?=.*[a-f])[\da-f]{12}(-\d+)?")  # names that samples have by default

KINDS: tuple[type[Canvas], ...] = (GridCanvas, WordCanvas, CloudCanvas)


def pick_samples(samples: xr.Dataset, count: int) -> list[str]:
    """Name `count` samples to show, or all of fewer, spread over the order as stored and over the classes.

    Raises
    ------
    ValueError
        If `count` is no integer of 1 or more.
    """
    names = samples["sample"].values.tolist()
    labels = samples["label"].values.tolist() if "label" in samples.variables else [0] * len(names)
    step = max(1, len(names) // whole_number("count of samples to show", count, 1))
    chosen, seen = set[int](), Counter[object]()
    for start in range(0, len(names), step)[:count]:
        free = (at for at in (*range(start, len(names)), *range(start)) if at not in chosen)
        found = min(free, key=lambda at: seen[labels[at]])  # the next one of a class shown least
        chosen.add(found)
        seen[labels[found]] += 1
    return [names[at] for at in sorted(chosen)]


def title_samples(samples: xr.Dataset, *, classes: bool = False) -> dict[str, str]:
    """Call samples what can be read: by their names, or, where these are hashes, by their positions.

    Returns
    -------
    dict
        ``{name: title}``, such as ``"image 3"``, or ``"image 3, class 1"`` with `classes` where these are
        known, by their names if the run tells them (:func:`kdviz.store.describe`); all are unique.
    """
    word = choose_kind(samples).vocabulary.sample
    names = [str(name) for name in samples["sample"].values.ravel()]
    ends = [""] * len(names)
    if classes and "label" in samples:
        known = dict(enumerate(read_classes(samples)))
        ends = [f", {known.get(code, f'class {code}')}" for code in samples["label"].values.ravel().tolist()]
    places = enumerate(zip(names, ends, strict=True))
    return {name: f"{word} {at}{end}" if _HASH.fullmatch(name) else name for at, (name, end) in places}


def choose_kind(samples: xr.Dataset) -> type[Canvas]:
    """Choose the canvas by the coordinates of samples.

    Raises
    ------
    ValueError
        If they are of no known kind.
    """
    for kind in KINDS:
        if set(kind.needs) <= set(samples.variables):
            return kind
    known = "; ".join(", ".join(kind.needs) for kind in KINDS)
    raise ValueError(f"the units are of no kind that can be drawn: they need the coordinates {known}")
