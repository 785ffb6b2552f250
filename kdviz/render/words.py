"""Words as coloured text: for the app as HTML, for files as a picture or on the axes of a figure.

Three views, as of grids: values, knowledge points, detours. What a colour says, a mark or a line says too:
foreground words are underlined, knowledge points carry a disc or a diamond, dropped points a cross. An empty
word stands for padding and is left out.

Symbols: ``U`` units of a text, its words.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from itertools import accumulate

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import to_hex
from matplotlib.font_manager import findfont
from matplotlib.patches import Rectangle
from matplotlib.text import Text as Writing
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from kdviz.render.panels import Picture
from kdviz.render.style import BACKGROUND_COLOUR, DROPPED_COLOUR, ENTROPY_COLOURS, FOREGROUND_COLOUR

DISC, DIAMOND, CROSS = "\u25cf", "\u25c6", "\u2715"
_INK, _DIMMED = "#222222", "#767676"  # both readable on white
_LETTER = 0.86  # size of the font over the height of its letters, as the words below are measured
_LINE, _GAP, _PAD = 1.75, 0.34, 0.2  # in heights of a letter: line to line, word to word, word to its box


@dataclass(frozen=True)
class Word:
    """One word and how it looks: colours as ``#rrggbb``, no `fill` if empty; `note` is shown on hover."""

    text: str
    fill: str = ""
    ink: str = _INK
    mark: str = ""
    underlined: bool = False
    note: str = ""

    @property
    def shown(self) -> str:
        """The word behind its mark."""
        return f"{self.mark}\u00a0{self.text}" if self.mark else self.text  # never apart at the end of a line


@dataclass(frozen=True)
class Text:
    """Words in their order, made by `text_of`, `word_values`, `word_points` or `word_detours`."""

    words: tuple[Word, ...]

    def to_html(self, *, size: int = 13) -> str:
        """Write the words as HTML that wraps; `size` is the height of letters in pixels.

        Every word is escaped and stands in a ``<span>`` whose ``title`` is its note.
        """
        spans = " ".join(map(_to_span, self.words))
        return (
            f'<div style="background:#fff;color:{_INK};font-size:{size}px;line-height:{_LINE};'
            f'font-family:sans-serif;padding:4px 6px;overflow-wrap:anywhere">{spans}</div>'
        )

    def to_picture(self, *, width: int = 480, size: int = 20) -> Picture:
        """Draw the words on white, RGB, uint8, `width` pixels wide and as high as they need.

        Parameters
        ----------
        width
            In pixels. A word that is wider ends in dots.
        size
            Height of letters in pixels.
        """
        places, height = _arrange(self.words, width / size)
        image = Image.new("RGB", (width, max(1, round(height * size))), "white")
        pen, font = ImageDraw.Draw(image), _font(size)
        for place in places:
            left, top, right, bottom = (round(edge * size) for edge in place.box)
            word = place.word
            if word.fill:
                edge = "black" if word.mark else None
                pen.rectangle((left, top, right, bottom), fill=word.fill, outline=edge)
            pen.text((left + _PAD * size, top + _PAD * size), place.shown, font=font, fill=word.ink)
            if word.underlined:
                low = bottom - round(_PAD * size * 0.4)
                inside = left + _PAD * size, right - _PAD * size
                pen.line((inside[0], low, inside[1], low), fill=word.ink, width=max(1, size // 12))
        return np.asarray(image)

    def height(self, line: float) -> float:
        """Give the height of the text in lines of length `line`; both in heights of a letter."""
        return _arrange(self.words, line)[1]

    def show_on(self, axis: Axes, *, line: float | None = None, height: float = 0.0) -> None:
        """Write the words on axes as text; in an SVG or a PDF they can be selected and searched.

        Letters grow with the axes: `line` is the length of a line in heights of a letter, by default
        `fit_line` of these words. The axes are as high as the text, or `height` if that is more.
        """
        line = fit_line([self]) if line is None else line
        places, needed = _arrange(self.words, line)
        axis.set(
            xlim=(0, line), ylim=(max(needed, height), 0), xticks=[], yticks=[], aspect="equal", anchor="N"
        )
        axis.spines[:].set_visible(False)
        for place in places:
            left, top, right, bottom = place.box
            word = place.word
            if word.fill:
                box = Rectangle((left, top), right - left, bottom - top, facecolor=word.fill)
                box.set(edgecolor="black" if word.mark else "none", linewidth=0.6)
                axis.add_patch(box)
            axis.add_artist(_Scaled(left + _PAD, top + _PAD, place.shown, word.ink))
            if word.underlined:
                low = bottom - 0.4 * _PAD
                axis.plot((left + _PAD, right - _PAD), (low, low), color=word.ink, linewidth=0.9)


def fit_line(texts: Iterable[Text]) -> float:
    """Give the line length, in heights of a letter, at which no text is higher than its lines are long."""
    line, every = 14.0, list(texts)
    while any(text.height(line) > line for text in every):
        line *= 1.1
    return line


def text_of(words: Sequence[str], foreground: ArrayLike, *, notes: Sequence[str] | None = None) -> Text:
    """Give a text as it was read, foreground words underlined.

    Parameters
    ----------
    words
        ``U`` words; empty ones are padding and left out.
    foreground
        Shape ``(U,)``, bool.
    notes
        ``U`` sentences for whoever points at a word; see `note_words`.

    Raises
    ------
    ValueError
        If the lengths differ or the mask is not bool.
    """
    return _compose(words, foreground, notes, [{}] * len(words))


def word_values(
    words: Sequence[str],
    values: ArrayLike,
    foreground: ArrayLike,
    *,
    limits: tuple[float, float],
    colours: str = ENTROPY_COLOURS,
    opacity: float = 1.0,
    notes: Sequence[str] | None = None,
) -> Text:
    """Lay the values of the words under them as colours; letters are black or white, as is read better.

    Parameters
    ----------
    words, foreground, notes
        As in `text_of`.
    values
        Shape ``(U,)``, float. Words of NaN stay uncoloured.
    limits, colours
        As in `draw_values`.
    opacity
        1 gives the colours of the map, less mixes them with white.

    Raises
    ------
    ValueError
        As in `text_of`; or if the limits do not increase.
    """
    array = _fit("values", np.asarray(values, float), words)
    looks: list[dict[str, str]] = []
    for value, colour in zip(array, colour_values(array, limits, colours), strict=True):
        if np.isnan(value):
            looks.append({})
            continue
        mixed = 1 - opacity * (1 - colour)
        looks.append({"fill": to_hex(mixed), "ink": _ink_on(mixed)})
    return _compose(words, foreground, notes, looks)


def word_points(
    words: Sequence[str], points: ArrayLike, foreground: ArrayLike, *, notes: Sequence[str] | None = None
) -> Text:
    """Mark knowledge points: discs on the foreground, diamonds on the background; other words are grey.

    Parameters
    ----------
    words, foreground, notes
        As in `text_of`.
    points
        Shape ``(U,)``, bool.

    Raises
    ------
    ValueError
        As in `text_of`.
    """
    found, inside = _mask("points", points, words), _mask("foreground", foreground, words)
    kinds = {True: _look(FOREGROUND_COLOUR, DISC), False: _look(BACKGROUND_COLOUR, DIAMOND)}
    looks = [
        kinds[bool(on_object)] if point else {"ink": _DIMMED}
        for point, on_object in zip(found, inside, strict=True)
    ]
    return _compose(words, foreground, notes, looks)


def word_detours(
    words: Sequence[str],
    points: ArrayLike,
    dropped: ArrayLike,
    foreground: ArrayLike,
    *,
    notes: Sequence[str] | None = None,
) -> Text:
    """Mark which points of the foreground are held, by discs, and which were tried and dropped, by crosses.

    Parameters
    ----------
    words, foreground, notes
        As in `text_of`.
    points, dropped
        Shape ``(U,)``, bool, as in `draw_detours`.

    Raises
    ------
    ValueError
        As in `text_of`.
    """
    held = _mask("points", points, words) & _mask("foreground", foreground, words)
    lost = _mask("dropped", dropped, words)
    looks = [
        _look(FOREGROUND_COLOUR, DISC)
        if one_held
        else _look(DROPPED_COLOUR, CROSS)
        if one_lost
        else {"ink": _DIMMED}
        for one_held, one_lost in zip(held, lost, strict=True)
    ]
    return _compose(words, foreground, notes, looks)


def note_words(
    entropy: ArrayLike, gain: ArrayLike, foreground: ArrayLike, points: ArrayLike, uncertain: ArrayLike
) -> list[str]:
    """Say of every word, all of shape ``(U,)``: its entropy, its gain, and what it is."""
    notes = []
    columns = (np.asarray(one).tolist() for one in (entropy, gain, foreground, points, uncertain))
    for one_entropy, one_gain, inside, point, doubtful in zip(*columns, strict=True):
        parts = [
            f"entropy {one_entropy:.3f} nat",
            f"gain {one_gain:.3g}",
            "foreground" if inside else "background",
        ]
        parts += ["knowledge point"] * point + ["too close to the threshold to call"] * doubtful
        notes.append(", ".join(parts))
    return notes


def colour_values(values: ArrayLike, limits: tuple[float, float], colours: str) -> NDArray[np.float64]:
    """Give the colour of every value as RGB from 0 to 1; that of NaN means nothing.

    Raises
    ------
    ValueError
        If the limits do not increase.
    """
    if not limits[0] < limits[1]:
        raise ValueError(f"limits are {limits[0]} and {limits[1]}; the first must be below the second")
    place = np.clip((np.asarray(values, float) - limits[0]) / (limits[1] - limits[0]), 0, 1)
    return colormaps[colours](np.nan_to_num(place))[..., :3]


# -- private


@dataclass(frozen=True)
class _Place:
    """A word as it is shown, and left, top, right and bottom of its box in heights of a letter."""

    word: Word
    shown: str
    box: tuple[float, float, float, float]


class _Scaled(Writing):
    """A word on axes whose unit of length is the height of a letter; set larger where the axes are larger."""

    def __init__(self, x: float, y: float, text: str, colour: str) -> None:
        super().__init__(x, y, text, color=colour, va="top", family="DejaVu Sans", parse_math=False)
        self.set_in_layout(False)  # the axes are laid out first, then the word follows

    def draw(self, renderer: RendererBase) -> None:
        assert self.axes is not None and self.figure is not None
        (_, high), (_, low) = self.axes.transData.transform([(0, 0), (0, 1)])
        self.set_fontsize(_LETTER * abs(high - low) * 72 / self.figure.dpi)
        super().draw(renderer)


def _compose(
    words: Sequence[str], foreground: ArrayLike, notes: Sequence[str] | None, looks: Sequence[dict[str, str]]
) -> Text:
    inside = _mask("foreground", foreground, words)
    said = [""] * len(words) if notes is None else notes
    if len(said) != len(words):
        raise ValueError(f"notes has length {len(said)}, the text has {len(words)} words")
    rows = zip(words, inside, said, looks, strict=True)
    return Text(
        tuple(
            Word(str(word), underlined=bool(on_object), note=note, **look)
            for word, on_object, note, look in rows
            if word
        )
    )


def _look(fill: str, mark: str) -> dict[str, str]:
    return {"fill": fill, "mark": mark, "ink": "#000000"}


def _to_span(word: Word) -> str:
    style = f"color:{word.ink}"
    if word.fill:
        style += f";background:{word.fill};border-radius:3px;padding:1px 3px;box-decoration-break:clone"
        style += ";outline:1px solid #000" if word.mark else ""
    if word.underlined:
        style += ";text-decoration:underline;text-underline-offset:2px"
    title = f' title="{escape(word.note)}"' if word.note else ""
    return f'<span style="{style}"{title}>{escape(word.shown)}</span>'


def _ink_on(colour: NDArray[np.float64]) -> str:
    """Choose black or white by the contrast ratio of WCAG 2.1 (its definition of relative luminance)."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    light = float(linear @ (0.2126, 0.7152, 0.0722))
    return "#000000" if (light + 0.05) ** 2 > 1.05 * 0.05 else "#ffffff"


def _fit(name: str, array: NDArray, words: Sequence[str]) -> NDArray:
    if array.shape != (len(words),):
        raise ValueError(
            f"{name} has shape {array.shape}, a text of {len(words)} words needs {(len(words),)}"
        )
    return array


def _mask(name: str, mask: ArrayLike, words: Sequence[str]) -> NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.dtype != bool:
        raise ValueError(f"{name} must be bool, got {array.dtype}")
    return _fit(name, array, words)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(findfont("DejaVu Sans"), round(size * _LETTER))


@cache
def _width_of(text: str) -> float:
    """Give the width of a text in heights of a letter."""
    return _font(100).getlength(text) / 100


def _arrange(words: Sequence[Word], width: float) -> tuple[list[_Place], float]:
    """Break words into lines of at most `width`, and give the height of all; in heights of a letter."""
    places, left, line = [], 0.5 * _GAP, 0
    for word in words:
        shown = _cut(word.shown, width - _GAP - 2 * _PAD)
        wide = _width_of(shown) + 2 * _PAD
        if left + wide > width - 0.4 * _GAP and left > _GAP:
            left, line = 0.5 * _GAP, line + 1
        top = 0.2 + line * _LINE
        places.append(_Place(word, shown, (left, top, left + wide, top + 1 + 2 * _PAD)))
        left += wide + _GAP
    return places, (line + 1) * _LINE + 0.2


def _cut(text: str, width: float) -> str:
    """Shorten a text that is too wide, dots at its end."""
    if _width_of(text) <= width:
        return text
    starts: Iterator[str] = accumulate(text)
    fitting = [start for start in starts if _width_of(f"{start}\u2026") <= width]
    return f"{fitting[-1] if fitting else ''}\u2026"
