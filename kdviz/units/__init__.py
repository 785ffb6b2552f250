"""Split an input into units, and reduce per-element values to units.

A unit is the part of an input that shares one noise scale: a cell of an image grid, a word, a 3-D
point, any set of pixels. This package knows indices only: no networks, no torch, no files.

Modules: ``base`` (what every kind of units answers), ``grids``, ``masks``, ``words``, ``clouds``;
``regions`` (what masks of objects mean).
"""

from kdviz.units.base import ImageUnits, Units
from kdviz.units.clouds import Cloud, cloud
from kdviz.units.grids import Grid, grid
from kdviz.units.masks import Mask, mask
from kdviz.units.regions import read_mask
from kdviz.units.words import Tokens, tokens

__all__ = [
    "Cloud",
    "Grid",
    "ImageUnits",
    "Mask",
    "Tokens",
    "Units",
    "cloud",
    "grid",
    "mask",
    "read_mask",
    "tokens",
]
