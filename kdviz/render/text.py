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

from kdviz.render.canvas import LEGEND, Canvas, Panel
from kdviz.render.looks import OPAQUE, Looks, NetworkView
from kdviz.render.style import BACKGROUND_COLOUR, DROPPED_COLOUR, FOREGROUND_COLOUR, Scale
from kdviz.render.writing import Text, Word

_DIMMED = {"ink": "#767676"}  # readable on white
_FIRST_WORDS = 48  # letters


@dataclass(frozen=True)
class WordCanvas(Canvas):
    """A text."""

    needs = ("token",)
    is_text = True
    inside = "foreground"
    edge = "underlined: foreground"
    legend = LEGEND.replace("object", "foreground") + "    underlined: foreground"

    @property
    def words(self) -> list[str]:
        """The words."""
        return [str(word) for word in self.coordinates["token"]]

    @property
    def caption(self) -> str:
        """The first words."""
        text = " ".join(self.words)
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

    def draw_points(self, points: ArrayLike, looks: Looks = OPAQUE, size: int = 240) -> Text:
        """Mark points among the words."""
        found = self._fit("points", points, bool)
        return self._mark(found & self.foreground, _DISC, found & ~self.foreground, _DIAMOND)

    def draw_detours(
        self, points: ArrayLike, dropped: ArrayLike, looks: Looks = OPAQUE, size: int = 240
    ) -> Text:
        """Mark points among the words."""
        held = self._fit("points", points, bool) & self.foreground
        return self._mark(held, _DISC, self._fit("dropped", dropped, bool), _CROSS)

    def draw_panels(self, one: NetworkView, looks: Looks, size: int) -> dict[str, Panel]:
        """Draw as other canvases do; pointing at a word tells its numbers."""
        notes = note_words(one.entropy, one.gain, self.foreground, one.points, one.uncertain)
        return {
            kind: Text(tuple(replace(word, note=note) for word, note in zip(drawn.words, notes, strict=True)))
            for kind, drawn in super().draw_panels(one, looks, size).items()
            if isinstance(drawn, Text)
        }

    def _mark(
        self, some: NDArray[np.bool_], look: dict[str, str], others: NDArray[np.bool_], second: dict[str, str]
    ) -> Text:
        """Mark some words in one way, others in a second way, and dim the rest."""
        pairs = zip(some, others, strict=True)
        return self._compose([look if one else second if other else _DIMMED for one, other in pairs])

    def _compose(self, styles: Sequence[dict[str, str]]) -> Text:
        rows = zip(self.words, self.foreground, styles, strict=True)
        return Text(tuple(Word(word, underlined=bool(inside), **style) for word, inside, style in rows))


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


def _look(fill: str, mark: str) -> dict[str, str]:
    return {"fill": fill, "mark": mark, "ink": "#000000"}


_DISC, _DIAMOND = _look(FOREGROUND_COLOUR, "\u25cf"), _look(BACKGROUND_COLOUR, "\u25c6")
_CROSS = _look(DROPPED_COLOUR, "\u2715")


def _ink_on(colour: NDArray[np.float64]) -> str:
    """Choose black or white by the contrast ratio of WCAG 2.1 (its definition of relative luminance)."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    light = float(linear @ (0.2126, 0.7152, 0.0722))
    return "#000000" if (light + 0.05) ** 2 > 1.05 * 0.05 else "#ffffff"
