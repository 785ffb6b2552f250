"""Every map that a network has at some layers, raw, and how far two maps differ.

Symbols: ``B`` samples, ``D`` entries of a feature, ``U`` units.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from kdviz.analysis import find_points
from kdviz.attribution.maps import LAYERED, METHODS, draw_map, list_methods, read_gradient
from kdviz.networks.features import frozen, resolve_layers, same_random_state

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
    if unknown := [method for method in methods if method not in METHODS]:
        raise ValueError(f"methods has {', '.join(map(repr, unknown))}; allowed: {', '.join(METHODS)}")
    names = resolve_layers(network, layers)
    maps: Maps = {}
    for method in methods:
        if method not in LAYERED:
            maps[INPUT, method] = _to_array(draw_map(network, inputs, classes, method=method))
    of_layers = [method for method in methods if method in LAYERED]
    for layer in names if of_layers else ():
        vectors = _read_vectors(network, inputs, classes, layer)
        if vectors is not None:
            maps |= {(layer, name): value for name, value in vectors.items() if name in of_layers}
            continue
        has = list_methods(network, inputs, layer=layer)
        for method in (one for one in of_layers if one in has):
            maps[layer, method] = _to_array(draw_map(network, inputs, classes, method=method, layer=layer))
    return maps


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
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.linalg.norm(second, axis=1) / np.linalg.norm(first, axis=1)
        change = np.abs(second - first).max(1)
        size = np.ones(len(first)) if absolute else np.abs(first).max(1)
        moved = ~(change <= TOLERANCE * size)  # so that NaN counts
        ratio = ratio[np.nanargmax(np.abs(np.log(ratio)))] if np.isfinite(ratio).any() else np.nan
    centred = [
        ranks - ranks.mean(1, keepdims=True) for ranks in (rankdata(one, axis=1) for one in (first, second))
    ]
    return {
        "ratio": float(ratio),
        "cosine": _least_cosine(first, second),
        "rank_correlation": _least_cosine(*centred),
        "difference": float(change.max()),
        "moved": bool(moved.any()),
    }


def compare_points(before: xr.Dataset, after: xr.Dataset, threshold: float) -> dict[str, float]:
    """Compare knowledge points: overlap of the sample with the least, largest changes of their numbers."""
    points = [find_points(ds, threshold=threshold)["knowledge_point"].values[0] for ds in (before, after)]
    on_object = before["foreground"].values
    either, both = (points[0] | points[1]).sum(1), (points[0] & points[1]).sum(1)
    numbers = {
        name: np.abs((points[0] & where).sum(1) - (points[1] & where).sum(1)).max()
        for name, where in (("n_fg", on_object), ("n_bg", ~on_object))
    }
    return {"jaccard": float(np.where(either, both / np.maximum(either, 1), 1.0).min()), **numbers}


def _read_vectors(
    network: nn.Module, inputs: Tensor, classes: Tensor, layer: str
) -> dict[str, NDArray[np.float64]] | None:
    """Give feature and gradient ``(B, D)`` of a layer without positions, None for a layer with a map."""
    with same_random_state(network), frozen(network):
        watched = inputs.detach().clone().requires_grad_(True)
        output, gradient = read_gradient(network, watched, classes, layer)
    if output.ndim == 4 and output.shape[2:].numel() > 1:
        return None
    return {"activation": _to_array(output), "layer_gradient": _to_array(gradient)}


def _least_cosine(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    return float(np.nanmin(cosine)) if np.isfinite(cosine).any() else np.nan


def _to_array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().double().cpu().numpy()
