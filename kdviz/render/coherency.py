"""Maps of one image before and after weights were rescaled, on common colour limits.

Symbols: ``N`` networks of one function, ``h, w`` size of a map.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from kdviz.render.panels import as_rgb
from kdviz.render.style import ENTROPY_COLOURS, IMPORTANCE_COLOURS, SIGNED_COLOURS


def coherency_figure(
    picture: ArrayLike,
    maps: Mapping[str, Sequence[ArrayLike]],
    *,
    networks: Sequence[str],
    title: str = "",
    in_nat: Sequence[str] = ("entropy",),
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
        ``{method: N maps (h, w)}``, the first of the network as it was. Maps of both signs are drawn with a
        diverging scale around 0.
    networks
        ``N`` names of the lines.
    title
        Shown above.
    in_nat
        The methods whose change is a difference in nat.

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
    size = 1.45 * (len(arrays) + 1), 1.72 * len(networks) + 0.85
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(networks), len(arrays) + 1, squeeze=False)
    axes[0, 0].imshow(as_rgb(picture), interpolation="nearest")
    axes[0, 0].set_xlabel(networks[0], fontsize=8)
    for axis, name in zip(axes[1:, 0], networks[1:], strict=True):
        axis.text(0.5, 0.5, name, fontsize=8, ha="center", va="center", transform=axis.transAxes)
    for (method, of_method), column in zip(arrays.items(), axes.T[1:], strict=True):
        low, high = min(one.min() for one in of_method), max(one.max() for one in of_method)
        colours = ENTROPY_COLOURS if method in in_nat else IMPORTANCE_COLOURS
        if low < 0 < high:
            low, high, colours = -max(-low, high), max(-low, high), SIGNED_COLOURS
        for axis, one in zip(column, of_method, strict=True):
            image = axis.imshow(one, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        for axis, one in zip(column[1:], of_method[1:], strict=True):
            axis.set_xlabel(_describe(of_method[0], one, method in in_nat), fontsize=8)
        column[0].set_title(textwrap.fill(method.replace("_", " "), 12), fontsize=9)
        bar = figure.colorbar(image, ax=column, location="bottom", aspect=12, pad=0.02, shrink=0.9)
        bar.ax.tick_params(labelsize=6.5)
        bar.locator = MaxNLocator(3)
        bar.update_ticks()
        bar.outline.set_visible(False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=10)
    return figure


def _describe(before: NDArray[np.float64], after: NDArray[np.float64], in_nat: bool) -> str:
    if in_nat:
        return f"up to {np.abs(after - before).max():.2f} nat"
    sizes = np.linalg.norm(before), np.linalg.norm(after)
    if not all(sizes):
        return "a map of zeros"
    return f"x {sizes[1] / sizes[0]:.2f}, cos {(before * after).sum() / sizes[0] / sizes[1]:.2f}"
