"""Colours and shapes with one meaning in every picture; a colour repeats what a shape or a name says."""

from matplotlib.axes import Axes

# Okabe and Ito's palette, distinguishable with every common colour vision.
ROLE_COLOURS = {"teacher": "#009E73", "student": "#0072B2", "baseline": "#D55E00"}
ROLE_MARKERS = {"teacher": "D", "student": "o", "baseline": "s"}
FOREGROUND_COLOUR, BACKGROUND_COLOUR = "#F0E442", "#CC79A7"
DROPPED_COLOUR = "#56B4E9"  # a point tried before and dropped
ENTROPY_COLOURS = "viridis_r"  # what the layer keeps is bright
IMPORTANCE_COLOURS = "viridis"  # what matters is bright
SIGNED_COLOURS = "RdBu_r"


def tidy(axis: Axes) -> None:
    """Take off what carries nothing: two of the four spines; small tick labels."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
