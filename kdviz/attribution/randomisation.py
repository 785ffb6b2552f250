"""Sanity check of maps: weights are randomised, layer after layer, and a map that explains them must move.

Symbols: ``B`` samples, ``U`` units.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdviz.analysis import collect_importance, rank_correlation
from kdviz.arguments import one_of
from kdviz.attribution.unit_maps import attribute
from kdviz.errors import KdvizWarning
from kdviz.measuring import measure
from kdviz.networks.features import resolve_layers, unwrap
from kdviz.networks.layouts import Turn
from kdviz.networks.reading import InputsLike
from kdviz.schema import build
from kdviz.units import Grid

Order = Literal["cascade", "independent"]


def randomise_weights(
    network: nn.Module,
    inputs: InputsLike,
    *,
    units: Grid,
    labels: ArrayLike | None = None,
    explained: ArrayLike | None = None,
    methods: Sequence[str] | None = None,
    layer: str | nn.Module | None = None,
    layout: Turn | None = None,
    entropy_layers: Sequence[str] = (),
    stages: Sequence[str] | None = None,
    order: Order = "cascade",
    seed: int = 0,
    device: str | torch.device | None = None,
    max_batch: int | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Check that maps move when the weights they explain are replaced by random ones.

    A method whose map stays the same when the network has forgotten what it learned does not show what the
    network learned, however good it looks [1]_.

    Parameters
    ----------
    network, inputs, units, labels, explained, methods, layer, layout
        As in :func:`kdviz.attribute`. The class explained stays that of the trained network.
    entropy_layers
        Layers whose entropies are checked too, as the methods ``"entropy LAYER"``, measured anew at every
        stage with the same noise.
    stages
        Modules with weights of their own, of more than one value, in the order in which they are randomised;
        by default all, from the output to the input, taken in the order of ``named_modules()`` reversed.
    order
        ``"cascade"``: each stage keeps those before it randomised. ``"independent"``: one module at a time.
    seed
        Of the weights, drawn normally with the mean and the standard deviation of the tensor they replace, so
        that scales survive; biases likewise, running statistics stay. A tensor of one value, such as a bias
        of zeros, has no spread and stays too.
    device, max_batch, progress
        As in :func:`kdviz.measure`.

    Returns
    -------
    Dataset
        ``similarity`` and ``similarity_of_sizes`` with dims (attribution_method, stage, sample): Spearman's
        rank correlation over units of the map before and after, signed and of absolute values (entropies: of
        their distance to the sample's mean). 1 means that the map did not move; NaN that it is constant.

    Raises
    ------
    ValueError, TypeError, LayerError, MemoryError
        As :func:`kdviz.attribute` and :func:`kdviz.measure`; also for unknown stages or an unknown `order`.

    Notes
    -----
    What lies above a layer does not enter the layer's entropies or activations: they *cannot* move before the
    cascade reaches the layer itself.

    References
    ----------
    .. [1] Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3: there weights are
       initialised anew, and similarity is also shown by SSIM and HOG.
    """
    one_of("order", order, ("cascade", "independent"))
    network = unwrap(network)
    own = [
        name
        for name, part in network.named_modules()
        if name and any(map(_has_spread, part.parameters(recurse=False)))
    ]
    chosen = own[::-1] if stages is None else resolve_layers(network, stages)
    if without := [name for name in chosen if name not in own]:
        raise ValueError(f"stages {without} have no weights of their own to draw; allowed: {', '.join(own)}")
    pictures = list(inputs) if isinstance(inputs, Iterator) else inputs
    same: dict[str, Any] = {"inputs": pictures, "units": units, "device": device}
    same |= {"max_batch": max_batch, "progress": False}
    where: dict[str, Any] = {"layer": layer, "layout": layout}
    first = attribute(network, labels=labels, explained=explained, methods=methods, **where, **same)
    before = _add_entropies(first, network, entropy_layers, same)
    generator = torch.Generator().manual_seed(seed)
    similar = []
    changed = copy.deepcopy(network)
    for stage in tqdm(chosen, desc="randomising", unit="stage", disable=not progress):
        if order == "independent":
            changed = copy.deepcopy(network)
        _randomise(changed.get_submodule(stage), generator)
        maps = attribute(
            changed,
            explained=first["explained"].values,
            methods=first["attribution_method"].values.tolist(),
            layer=first.attrs.get("layer"),
            layout=layout,
            **same,
        )
        after = _add_entropies(maps, changed, entropy_layers, same)
        sides = before.values, after.values
        similar.append((rank_correlation(*sides), rank_correlation(*map(np.abs, sides))))
    signed, sizes = (np.stack(values, axis=1) for values in zip(*similar, strict=True))
    return build(
        {"similarity": signed, "similarity_of_sizes": sizes},
        coords={
            "attribution_method": before["attribution_method"],
            "stage": chosen,
            "sample": first["sample"],
        },
        attrs={"order": order, "seed": seed, "layer": first.attrs.get("layer", "")},
    )


def _add_entropies(
    maps: xr.Dataset, network: nn.Module, layers: Sequence[str], options: Mapping[str, Any]
) -> xr.DataArray:
    """Return the importance of units, ``(attribution_method, B, U)``, by maps and by entropies."""
    found = [collect_importance(maps)]
    if layers:
        with warnings.catch_warnings():
            # a dead layer, no calibration: its similarity tells
            warnings.simplefilter("ignore", KdvizWarning)
            measured = measure(network, layers=list(layers), **options)
        for layer in layers:
            ds = measured.sel(layer=layer, drop=True)
            last = collect_importance(maps, entropy=ds).isel(attribution_method=[-1])
            found.append(last.assign_coords(attribution_method=[f"entropy {layer}"]))
    return xr.concat(found, "attribution_method", join="exact").isel(epoch=0)


@torch.no_grad()
def _randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the module's own weights anew, with the mean and the spread of those it had."""
    for weight in module.parameters(recurse=False):
        noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype).to(weight.device)
        if _has_spread(weight):
            weight.copy_(weight.mean() + weight.std(correction=0) * noise)


def _has_spread(weight: Tensor) -> bool:
    return bool((weight != weight.ravel()[:1]).any())
