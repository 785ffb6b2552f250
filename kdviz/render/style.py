"""Colours and shapes with one meaning in every picture; a colour repeats what a shape or a name says."""

from collections.abc import Mapping
from itertools import count
from typing import NamedTuple

from matplotlib.axes import Axes

# Okabe and Ito's palette, distinguishable with every common colour vision.
ROLE_COLOURS = {"teacher": "#009E73", "student": "#0072B2", "baseline": "#D55E00"}
ROLE_MARKERS = {"teacher": "D", "student": "o", "baseline": "s"}
FOREGROUND_COLOUR, BACKGROUND_COLOUR = "#F0E442", "#CC79A7"
DROPPED_COLOUR = "#56B4E9"  # a point tried before and dropped
ENTROPY_COLOURS = "viridis_r"  # what the layer keeps is bright
IMPORTANCE_COLOURS = "viridis"  # what matters is bright
SIGNED_COLOURS = "RdBu_r"

_FURTHER_COLOURS = ("#882255", "#E69F00", "#56B4E9", "#999933", "#332288", "#CC79A7")
_FURTHER_MARKERS = "^vP*X"  # one fewer: a pair comes back after thirty networks


class NetworkStyle(NamedTuple):
    """How a network is drawn: a colour as ``#rrggbb`` and a marker of matplotlib."""

    colour: str
    marker: str


def style_networks(roles: Mapping[str, str]) -> dict[str, NetworkStyle]:
    """Choose a colour and a marker for every network.

    Parameters
    ----------
    roles
        ``{name: role}``. The first teacher, student and baseline have the look of their role; every other
        network has one of its own, by its place in the order.

    Returns
    -------
    dict
        ``{name: style}``, in the order given.
    """
    styles, taken, others = {}, set(), count()
    for name, role in roles.items():
        if role in ROLE_COLOURS and role not in taken:
            taken.add(role)
            styles[name] = NetworkStyle(ROLE_COLOURS[role], ROLE_MARKERS[role])
        else:
            at = next(others)
            colour = _FURTHER_COLOURS[at % len(_FURTHER_COLOURS)]
            styles[name] = NetworkStyle(colour, _FURTHER_MARKERS[at % len(_FURTHER_MARKERS)])
    return styles


def tidy(axis: Axes) -> None:
    """Take off what carries nothing: two of the four spines; small tick labels."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def clear(axis: Axes) -> None:
    """Take off ticks and spines, for a picture."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
