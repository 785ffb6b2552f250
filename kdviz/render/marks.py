"""The shapes of marks, drawn by Pillow."""

from typing import Any

from PIL import ImageDraw

from kdviz.render.style import DIAMOND, DISC, Mark


def draw_mark(
    pen: ImageDraw.ImageDraw, mark: Mark, place: Any, reach: float, inks: Any, width: int, stroke: int
) -> None:
    """Draw a disc, a diamond or a cross.

    Parameters
    ----------
    pen
        Of the picture.
    mark
        Its shape; a cross is neither of the two others.
    place, reach
        Its middle ``(x, y)`` and how far it goes from there, in pixels.
    inks
        Colours of the inside and of the rim.
    width, stroke
        Of the rim, and of the lines of a cross with its rim, in pixels.
    """
    (x, y), (fill, rim) = place, inks
    if mark is DISC:
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill, rim, width)
    elif mark is DIAMOND:
        far = 1.25 * reach  # as large as a disc
        pen.polygon([(x, y - far), (x + far, y), (x, y + far), (x - far, y)], fill, rim, width)
    else:
        end = 0.8 * reach  # of its arms, which are wide
        for ink, thick in ((rim, stroke), (fill, stroke - 2 * width)):
            for slant in (-end, end):
                pen.line((x - end, y - slant, x + end, y + slant), ink, thick)
