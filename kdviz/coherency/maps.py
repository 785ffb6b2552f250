"""Every map that a network has at some layers, raw, and how far two maps differ.

Symbols: ``B`` samples, ``D`` entries of a feature, ``U`` units.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from kdviz.analysis import find_points, rank_correlation
from kdviz.attribution.maps import LAYERED, check_layer, draw_map, list_methods, read_gradient
from kdviz.errors import LayerError
from kdviz.networks.features import frozen, resolve_layers, same_random_state
from kdviz.points import overlap_points
from kdviz.schema import read_sides

INPUT = "input"
"""In place of a layer, where a map has none."""
TOLERANCE = 1e-4
"""What moves: an entropy by more nat than this in any unit, another map by more of its largest value."""


Maps = dict[tuple[str, str], NDArray[np.float64]]


def draw_maps(
    network: nn.Module, inputs: Tensor, classes: Tensor, *, layers: Sequence[str], methods: Sequence[str]
) -> Maps:
    """Draw every map that a network has at some layers, raw, as :func:`audit` compares them.

    Parameters
    ----------
    network, inputs, classes
        As in :func:`audit`, in one precision.
    layers
        Convolutions and fully connected layers.
    methods
        Some of :data:`kdviz.attribution.METHODS`; what the network does not have at a layer is left out.

    Returns
    -------
    dict
        ``{(layer, method): array}``, ``(B, h, w)`` or, of fully connected layers, ``(B, D)``; the layer is
        ``"input"`` for methods that have none.

    Raises
    ------
    ValueError
        For an unknown method.
    LayerError
        For an unknown layer.
    """
    drawn: dict[tuple[str, str], Tensor] = {}
    for method in methods:
        if method not in LAYERED:
            drawn[INPUT, method] = draw_map(network, inputs, classes, method=method)
    of_layers = [method for method in methods if method in LAYERED]
    for layer in resolve_layers(network, layers):
        with same_random_state(network), frozen(network):
            output, gradient = read_gradient(network, inputs, classes, layer)
        place = None
        if output.ndim > 2:
            with suppress(LayerError):  # what has no map is compared entry by entry
                place = check_layer(network, inputs, layer)
        if place is not None:
            has = list_methods(network, inputs, place)
            for method in (one for one in of_layers if one in has):
                drawn[layer, method] = draw_map(network, inputs, classes, method=method, layer=place)
        else:
            vectors = {"activation": output, "layer_gradient": gradient}
            drawn |= {(layer, method): vectors[method] for method in of_layers if method in vectors}
    return {key: tensor.detach().double().cpu().numpy() for key, tensor in drawn.items()}


def compare_maps(before: ArrayLike, after: ArrayLike, *, absolute: bool = False) -> dict[str, Any]:
    """Compare maps of the same samples, raw.

    Parameters
    ----------
    before, after
        Shape ``(B, ...)``.
    absolute
        Whether `moved` counts the difference itself, rather than its share of the largest magnitude before.

    Returns
    -------
    dict
        ``ratio`` of norms, ``cosine``, Spearman's ``rank_correlation`` and largest ``difference``, each of
        the sample that moved most by it; ``moved``, which a map with NaN on either side did.
    """
    first, second = (np.asarray(one, float).reshape(len(np.asarray(one)), -1) for one in (before, after))
    norms = [np.linalg.norm(one, axis=1) for one in (first, second)]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = norms[1] / norms[0]
        ratio = ratio[np.nanargmax(np.abs(np.log(ratio)))] if np.isfinite(ratio).any() else np.nan
        cosine = (first * second).sum(1) / norms[0] / norms[1]
    change = np.abs(second - first).max(1)
    size = np.ones(len(first)) if absolute else np.abs(first).max(1)
    return {
        "ratio": float(ratio),
        "cosine": float(pd.Series(cosine).min()),  # leaves out NaN, and may be NaN
        "rank_correlation": float(pd.Series(rank_correlation(first, second)).min()),
        "difference": float(change.max()),
        "moved": bool((~(change <= TOLERANCE * size)).any()),  # so that NaN counts
    }


def compare_points(before: xr.Dataset, after: xr.Dataset, threshold: float) -> dict[str, float]:
    """Compare knowledge points: overlap of the sample with the least, largest changes of their numbers."""
    points = [find_points(ds, threshold=threshold)["knowledge_point"].values[0] for ds in (before, after)]
    sides = zip(("n_fg", "n_bg"), read_sides(before), strict=True)
    overlap = np.nan_to_num(overlap_points(*points), nan=1.0)  # without any points, they are the same
    numbers = {
        name: np.abs((points[0] & where).sum(1) - (points[1] & where).sum(1)).max() for name, where in sides
    }
    return {"jaccard": float(overlap.min()), **numbers}
