"""All that is written in pictures: the sheet for every figure, and words with colours and marks.

Names and words are the user's: nothing of them is read as mathematics, and none turns its neighbours around.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.patches import Rectangle
from matplotlib.text import Text as Writing
from PIL import ImageFont

from kdviz.render.describing import describe_figure

_INK = "#222222"
_LETTER = 0.86  # size of the font over the height of its letters, as the words below are measured
_LINE, _GAP, _PAD = 1.75, 0.34, 0.2  # in heights of a letter: line to line, word to word, word to its box
_HIGH = 1 + 2 * _PAD  # of a box
_TURNS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # marks of direction, Unicode UAX 9


def drop_turns(text: str) -> str:
    """Leave out the invisible marks by which a word may turn its neighbours, where nothing can isolate it."""
    return _TURNS.sub("", text)


class Sheet(Figure):
    """A figure on which every text is written as it is: no ``$`` begins a formula, no mark turns words.

    A PDF or EPS file of it holds TrueType fonts and none of Type 3, which conferences and journals refuse.
    Shown in a notebook, it carries its text alternative.
    """

    def _repr_mimebundle_(self, **formats: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """Return no data, which is left to matplotlib, and what notebooks store beside it."""
        return {}, {"alt": describe_figure(self)}

    def savefig(self, fname: Any, *args: Any, **options: Any) -> None:
        """Save as matplotlib does; a ``PdfPages`` writes its fonts itself, when it is closed."""
        paged = type(fname).__name__ == "PdfPages"  # whose module takes long to import
        with rc_context({} if paged else {"pdf.fonttype": 42, "ps.fonttype": 42}):
            super().savefig(fname, *args, **options)

    def draw(self, renderer: RendererBase) -> None:
        """Draw, ticks and legends included, which are made as late as here."""
        for text in self.findobj(Writing):
            text.set_parse_math(False)
            text.set_text(drop_turns(text.get_text()))
        super().draw(renderer)


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
        """The word after its mark."""
        return f"{self.mark}\u00a0{self.text}" if self.mark else self.text  # never apart at the end of a line


@dataclass(frozen=True)
class Text:
    """Words in their order, as a `WordCanvas` makes them."""

    words: tuple[Word, ...]

    def to_html(self) -> str:
        """Write the words as HTML that wraps.

        Every word is escaped and stands in a ``<span>`` whose ``title`` is its note.
        """
        spans = " ".join(map(_to_span, self.words))
        return (
            f'<div style="background:#fff;color:{_INK};font-size:13px;line-height:{_LINE};'
            f'font-family:sans-serif;padding:4px 6px;overflow-wrap:anywhere">{spans}</div>'
        )

    def height(self, line: float) -> float:
        """Compute the height of the text in lines of length `line`; both in heights of a letter."""
        return _arrange(self.words, line)[1]

    def show_on(self, axis: Axes, line: float) -> None:
        """Write the words on axes as text; in an SVG or a PDF they can be selected and searched.

        Letters grow with the axes: `line` is the length of a line in heights of a letter.
        """
        places, height = _arrange(self.words, line)
        axis.set(xlim=(0, line), ylim=(height, 0), aspect="equal", anchor="N")
        for word, shown, left, top, wide in places:
            if word.fill:
                box = Rectangle((left, top), wide, _HIGH, facecolor=word.fill)
                box.set(edgecolor="black" if word.mark else "none", linewidth=0.6)
                axis.add_patch(box)
            axis.add_artist(_Scaled(left + _PAD, top + _PAD, shown, word.ink))
            if word.underlined:
                low = top + _HIGH - 0.4 * _PAD
                axis.plot((left + _PAD, left + wide - _PAD), (low, low), color=word.ink, linewidth=0.9)


def fit_line(texts: Iterable[Text]) -> float:
    """Find the line length, in heights of a letter, at which no text is higher than its lines are long."""
    line, every = 14.0, list(texts)
    while any(text.height(line) > line for text in every):
        line *= 1.1
    return line


# -- private


class _Scaled(Writing):
    """A word on axes whose unit of length is the height of a letter; set larger where the axes are larger."""

    def __init__(self, x: float, y: float, text: str, colour: str) -> None:
        super().__init__(x, y, text, color=colour, va="top", family="DejaVu Sans")
        self.set_in_layout(False)  # the axes are laid out first, then the word follows

    def draw(self, renderer: RendererBase) -> None:
        assert self.axes is not None and self.figure is not None
        (_, high), (_, low) = self.axes.transData.transform([(0, 0), (0, 1)])
        self.set_fontsize(_LETTER * abs(high - low) * 72 / self.figure.dpi)
        super().draw(renderer)


def _to_span(word: Word) -> str:
    style = f"color:{word.ink}"
    if word.fill:
        style += f";background:{word.fill};border-radius:3px;padding:1px 3px;box-decoration-break:clone"
        style += ";outline:1px solid #000" if word.mark else ""
    if _TURNS.search(word.text):
        style += ";unicode-bidi:isolate"
    if word.underlined:
        style += ";text-decoration:underline;text-underline-offset:2px"
    title = f' title="{escape(word.note)}"' if word.note else ""
    return f'<span style="{style}"{title}>{escape(word.shown)}</span>'


@cache
def _width_of(text: str) -> float:
    """Measure the width of a text in heights of a letter."""
    return _LETTER * ImageFont.truetype(findfont("DejaVu Sans"), 100).getlength(text) / 100


def _arrange(
    words: Sequence[Word], width: float
) -> tuple[list[tuple[Word, str, float, float, float]], float]:
    """Break words into lines of at most `width`, and measure the height of all; in heights of a letter.

    Of every word: itself, what fits of it, and left, top and width of its box.
    """
    places, left, line = [], 0.5 * _GAP, 0
    for word in words:
        shown = word.shown
        while len(shown) > 1 and _width_of(shown) > width - _GAP - 2 * _PAD:
            shown = f"{shown[:-2]}\u2026"
        wide = _width_of(shown) + 2 * _PAD
        if left + wide > width - 0.4 * _GAP and left > _GAP:
            left, line = 0.5 * _GAP, line + 1
        places.append((word, shown, left, 0.2 + line * _LINE, wide))
        left += wide + _GAP
    return places, (line + 1) * _LINE + 0.2
