"""Words as units: coloured, marked, underlined.

What a colour says, a mark or a line says too: foreground words are underlined, knowledge points carry a disc
or a diamond, dropped points a cross.

Symbols: ``U`` units of a text, its words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.colors import to_hex
from numpy.typing import ArrayLike, NDArray

from kdviz.render.canvas import Canvas, Panel
from kdviz.render.looks import OPAQUE, Bools, Looks, NetworkView
from kdviz.render.style import Mark, Scale
from kdviz.render.writing import Text, Word, drop_turns
from kdviz.schema import VOCABULARIES

_DIMMED = {"ink": "#767676"}  # readable on white
_FIRST_WORDS = 48  # letters


@dataclass(frozen=True)
class WordCanvas(Canvas):
    """A text."""

    needs = ("token",)
    is_text = True
    vocabulary = VOCABULARIES["text"]
    edge = "underlined: foreground"

    @property
    def words(self) -> list[str]:
        """The words."""
        return [str(word) for word in self.coordinates["token"]]

    @property
    def caption(self) -> str:
        """The first words."""
        text = drop_turns(" ".join(self.words))
        return text if len(text) <= _FIRST_WORDS else f"{text[:_FIRST_WORDS].rstrip()}\u2026"

    def draw_input(self, looks: Looks = OPAQUE, size: int = 240) -> Text:
        """Write the text as it was read."""
        return self._compose([{}] * len(self.words))

    def draw_values(self, values: ArrayLike, scale: Scale, looks: Looks = OPAQUE, size: int = 240) -> Text:
        """Lay the colours under the words; letters are black or white, as is read better."""
        array = self._fit("values", values)
        mixed = 1 - looks.opacity * (1 - scale.paint(array))
        return self._compose(
            [
                {} if np.isnan(value) else {"fill": to_hex(colour), "ink": _ink_on(colour)}
                for value, colour in zip(array, mixed, strict=True)
            ]
        )

    def draw_panels(self, one: NetworkView, looks: Looks, size: int) -> dict[str, Panel]:
        """Draw as other canvases do; pointing at a word tells its numbers."""
        sides = np.where(self.foreground, "foreground", "background")
        sides[self.coordinates.get("void", np.zeros_like(self.foreground))] = "void"
        columns = (one.entropy, one.gain, sides, one.points, one.uncertain)
        notes = [note_word(*values) for values in zip(*columns, strict=True)]
        return {
            kind: Text(tuple(replace(word, note=note) for word, note in zip(drawn.words, notes, strict=True)))
            for kind, drawn in super().draw_panels(one, looks, size).items()
            if isinstance(drawn, Text)
        }

    def _draw_marks(self, marks: Sequence[tuple[Bools, Mark]], looks: Looks, size: int) -> Text:
        """Write marks before their words, which stand on the mark's colour."""
        styles = [_DIMMED] * len(self.words)
        for chosen, mark in marks:
            for at in np.flatnonzero(chosen):
                styles[at] = {"fill": mark.colour, "mark": mark.shape, "ink": "#000000"}
        return self._compose(styles)

    def _compose(self, styles: Sequence[dict[str, str]]) -> Text:
        rows = zip(self.words, self.foreground, styles, strict=True)
        return Text(tuple(Word(word, underlined=bool(inside), **style) for word, inside, style in rows))


def note_word(entropy: float, gain: float, side: str, point: bool, doubtful: bool) -> str:
    """Say of a word its entropy, its gain, and what it is."""
    what = side
    what += ", knowledge point" if point else ""
    what += ", too close to the threshold to call" if doubtful else ""
    return f"entropy {entropy:.3f} nat, gain {gain:.3g}, {what}"


def _ink_on(colour: NDArray[np.float64]) -> str:
    """Choose black or white by the contrast ratio of WCAG 2.1 (its definition of relative luminance)."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    light = float(linear @ (0.2126, 0.7152, 0.0722))
    return "#000000" if (light + 0.05) ** 2 > 1.05 * 0.05 else "#ffffff"
