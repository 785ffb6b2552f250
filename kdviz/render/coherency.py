"""Maps before and after weights were rescaled: those of one image on common colour limits, and what moved.

Symbols: ``N`` networks of one function, ``h, w`` size of a map.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from kdviz.render.image import as_rgb
from kdviz.render.layout import lay_out
from kdviz.render.looks import Picture
from kdviz.render.style import Scale, choose_scale, open_figure

_PLACES = {
    "input": "the\ninput",
    "before": "before\nthe two",
    "between": "between\nthem",
    "after": "after\nthem",
}
_CELL = 24  # pixels of a cell of a map, to keep its edges sharp


def coherency_figure(
    picture: ArrayLike,
    maps: Mapping[str, Sequence[ArrayLike]],
    *,
    networks: Sequence[str],
    title: str = "",
) -> Figure:
    """Draw a column of maps for every method and a line for every way to write one network down.

    As Fig. 1(b) of the TPAMI 2022 paper, with colour limits common to a column: nothing is normalised by
    itself, so a factor shows as another colour. Below every changed map stands how far: the ratio of norms
    and the cosine with the first line, or the largest difference in nat.

    Parameters
    ----------
    picture
        Shape ``(H, W, 3)``, uint8.
    maps
        ``{method: N maps (h, w)}``, the first of the network as it was; ``"entropy"`` is in nat. Maps of
        both signs are drawn with a diverging scale around 0.
    networks
        ``N`` names of the lines.
    title
        Shown above.

    Raises
    ------
    ValueError
        If a method has not one map ``(h, w)`` for every network.

    References
    ----------
    .. [1] Zhang et al., "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
       Classification", TPAMI 2022, Fig. 1(b).
    """
    arrays = {method: [np.asarray(one, float) for one in of_method] for method, of_method in maps.items()}
    for method, of_method in arrays.items():
        if len(of_method) != len(networks) or any(one.ndim != 2 for one in of_method):
            raise ValueError(
                f"maps[{method!r}] must be {len(networks)} maps (h, w), one for each of networks; got "
                f"{len(of_method)} of shape {', '.join(str(one.shape) for one in of_method[:3])}"
            )
    scales = {
        method: choose_scale(np.stack(of_method), entropies=method == "entropy")
        for method, of_method in arrays.items()
    }
    lines, captions = [], []
    for at in range(len(networks)):
        panels = [_draw(of_method[at], scales[method]) for method, of_method in arrays.items()]
        lines.append([None if at else as_rgb(picture), *panels])
        said = [_describe(method, of_method[0], of_method[at]) for method, of_method in arrays.items()]
        captions.append(["", *said] if at else [""] * (len(arrays) + 1))
    heads = ["image", *(textwrap.fill(method.replace("_", " "), 16) for method in arrays)]
    bars = [None, *scales.values()]
    return lay_out(lines, heads, networks, captions=captions, scale=bars, title=title)


def coherency_chart(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw how many maps moved: a panel a kind of factor, a row a method, a column where the map was taken.

    Parameters
    ----------
    table
        From :func:`kdviz.analysis.summarise_audits`, not empty.
    title
        Shown above.

    Raises
    ------
    ValueError
        If the table has no row.
    """
    if not len(table):
        raise ValueError("table has no row: no map was compared")
    methods, factors = (table.index.unique(level).tolist() for level in ("method", "factor"))
    places = [place for place in _PLACES if place in table.index.unique("place")]
    size = 1.6 + len(factors) * 0.85 * len(places), 1.2 + 0.3 * len(methods)
    figure, (axes,) = open_figure(title, *size, len(factors), sharey=True)
    for axis, factor in zip(axes, factors, strict=True):
        cells = table.xs(factor, level="factor")[["moved", "compared"]]
        shares = np.full((len(methods), len(places)), np.nan)
        for (method, place), (moved, compared) in zip(cells.index, cells.to_numpy(), strict=True):
            row, column = methods.index(method), places.index(place)
            shares[row, column] = moved / compared
            told = f"{moved:.0f} of {compared:.0f}"
            axis.text(column, row, told, ha="center", va="center", fontsize=8)
        axis.imshow(shares, cmap="Oranges", vmin=0, vmax=1.5, aspect="auto")
        axis.set_xticks(range(len(places)), [_PLACES[place] for place in places])
        axis.set_yticks(range(len(methods)), [method.replace("_", " ") for method in methods])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_title(
            "each channel by its own factor" if factor == "per channel" else f"a layer by {factor[1:]}",
            fontsize=9,
        )
    return figure


def _draw(values: NDArray[np.float64], scale: Scale) -> Picture:
    colours = np.rint(255 * scale.paint(values)).astype(np.uint8)
    return colours.repeat(_CELL, axis=0).repeat(_CELL, axis=1)


def _describe(method: str, before: NDArray[np.float64], after: NDArray[np.float64]) -> str:
    if method == "entropy":
        return f"up to {np.abs(after - before).max():.2f} nat"
    sizes = np.linalg.norm(before), np.linalg.norm(after)
    if not all(sizes):
        return "a map of zeros"
    return f"x {sizes[1] / sizes[0]:.2f}, cos {(before * after).sum() / sizes[0] / sizes[1]:.2f}"
