"""Rescale a network pair by pair and see which of its maps move, the entropy included.

Every map is drawn on the network as it was and on the rescaled one, whose outputs are first shown to be the
same; both are measured with the same noise. Nothing is normalised before it is compared, because a map
divided by its own largest value hides a uniform factor.

Symbols: ``B`` samples, ``C`` channels, ``U`` units, ``D`` entries of a feature.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdviz.arguments import name_some, one_of
from kdviz.attribution.maps import METHODS, need_captum
from kdviz.coherency.maps import INPUT, Maps, compare_maps, compare_points, draw_maps
from kdviz.coherency.pairs import Pair, Survey, find_pairs, list_disjoint
from kdviz.coherency.rescaling import (
    check_factor,
    fold_batch_norm,
    in_double,
    output_difference,
    prove_equal,
    rescale,
)
from kdviz.measuring import measure
from kdviz.networks.preparing import device_of
from kdviz.networks.reading import InputsLike, read_all
from kdviz.units import Grid

AUDITED = (*METHODS, "entropy")


def audit(
    network: nn.Module,
    inputs: InputsLike,
    classes: Tensor,
    *,
    units: Grid,
    foreground: ArrayLike | None = None,
    pairs: Sequence[Pair | Sequence[Pair]] | None = None,
    factors: Sequence[float] = (4.0,),
    spread: float = 1.0,
    layers: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    double: bool = True,
    probes: int = 40,
    draws: int = 8,
    threshold: float = 0.2,
    weight: float | None = None,
    seed: int = 0,
    name: str = "",
    progress: bool = True,
) -> pd.DataFrame:
    """Rescale every pair of layers and compare every map before and after.

    Parameters
    ----------
    network
        Maps images to logits ``(B, C)`` and can be traced by ``torch.fx``. Left as found: batch norms are
        folded into the layers before them on a copy, and that copy is audited.
    inputs
        Shape ``(B, channels, H, W)``, normalised as in training; or a dataset or batches of such, which are
        read into memory.
    classes
        Class of each that the attribution methods explain, ``(B,)``, int64.
    units
        Of the entropy, such as ``kdviz.units.grid(16)``.
    foreground
        Masks as in :func:`kdviz.measure`; without them no knowledge points are compared.
    pairs
        Those to rescale, each on its own, from :func:`find_pairs` of the folded network; all by default. A
        list among them is rescaled at once and must be disjoint (:func:`list_disjoint`).
    factors
        Uniform factors, positive. Powers of 2 make no rounding error.
    spread
        Standard deviation of the logarithm of one factor per channel, drawn from `seed`; 0 leaves it out.
    layers
        Where to look: any modules that the forward pass calls; by default all layers of the pairs.
    methods
        Some of :data:`kdviz.attribution.METHODS` and ``"entropy"``; by default all that the network has.
    double
        Compute in float64, or in the network's own precision. See the notes.
    probes, draws, seed
        Of the entropy, as in :func:`kdviz.measure`, by ``method="gain"`` before and after; `seed` draws the
        factors of the channels too.
    threshold
        Of the knowledge points, in nat.
    weight
        Of the entropies, as in :func:`kdviz.measure`.
    name, progress
        Show a progress bar, with the name of the network if there is one.

    Returns
    -------
    DataFrame
        A row for every ``pair``, ``factor`` (``"x4"``, ``"per channel"``), ``layer`` (``"input"`` for maps
        that have none), ``method``. ``place`` is where the layer lies: ``before`` the pair, ``between`` its
        two layers, ``after``, or ``input``. The others are of the sample that moved most: ``ratio`` of the
        norms after and before, ``cosine``, Spearman's ``rank_correlation``, ``difference`` (largest
        magnitude of any entry; of the entropy in nat); for the entropy ``jaccard`` of the knowledge points
        and the changes ``n_fg`` and ``n_bg`` of their numbers; ``moved`` (by more than 1e-4, in nat for the
        entropy, of the largest magnitude for other maps); ``output_difference``, largest, as a share of the
        largest output. What is not defined, such as the cosine with a map of zeros, is NaN.

    Raises
    ------
    ValueError
        As :func:`find_pairs`, :func:`rescale` and :func:`kdviz.measure`; if the network has no pair, the
        layers or methods are not those of the network, or the outputs of a rescaled network differ.

    Notes
    -----
    Maps of a layer are those of :func:`kdviz.attribution.draw_map`. A fully connected layer has no map; there
    its feature ``(D,)`` and the gradient of the logit with respect to it are compared, entry by entry.

    In exact arithmetic the entropy moves under no uniform factor, and under per-channel factors only between
    the pair, because the feature change is divided by the layer's own variance. In float32 a factor that is
    no power of 2 rounds the weights, a ReLU or maximum of some noisy copy falls the other way, and entropies
    of deep layers move by some thousandths of a nat: rounding, which is gone in float64.

    References
    ----------
    .. [1] Zhang et al., "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
       Classification", TPAMI 2022, section 3.2 and Fig. 1(b).
    """
    images = read_all(inputs, units.axes).to(device_of(network))
    classes = classes.to(images.device)
    folded = fold_batch_norm(network, images)
    original = in_double(folded) if double else folded
    images = images.double() if double else images
    survey = find_pairs(original, images)
    groups = _check_pairs(survey, pairs)
    names = _check_layers(survey, [pair for group in groups for pair in group], layers)
    wanted = [one_of("methods", method, AUDITED) for method in (AUDITED if methods is None else methods)]
    need_captum(wanted)
    changes = list(_plan(groups, factors, spread, seed))

    def look(one: nn.Module) -> tuple[Maps, dict[str, xr.Dataset]]:
        measured = {
            layer: measure(  # one after the other: together, a pass for one layer goes on to the deepest
                one,
                images,
                layers=layer,
                units=units,
                foreground=foreground,
                method="gain",  # so that no sample changes its method between two networks
                probes=probes,
                draws=draws,
                weight=weight,
                seed=seed,
                progress=False,
            )
            for layer in (names if "entropy" in wanted else ())
        }
        attributions = [method for method in wanted if method in METHODS]
        drawn = draw_maps(one, images, classes, layers=names, methods=attributions)
        for layer, ds in measured.items():
            drawn[layer, "entropy"] = ds["entropy"].values[0].astype(float)
        return drawn, measured

    maps, measured = look(original)
    if methods and (missing := set(methods) - {method for _, method in maps}):
        raise ValueError(
            f"methods has {', '.join(sorted(missing))}, of which this network has no map at {names}"
        )
    rows = []
    for change in tqdm(changes, desc=f"rescaling {name}".strip(), unit="network", disable=not progress):
        rescaled = original
        for pair, factor in change.steps:
            rescaled = rescale(rescaled, pair, factor)
        prove_equal(original, rescaled, images)
        outputs = output_difference(original, rescaled, images)
        other_maps, other_measured = look(rescaled)
        for (layer, method), before in maps.items():
            moved = compare_maps(before, other_maps[layer, method], absolute=method == "entropy")
            if method == "entropy" and foreground is not None:
                moved |= compare_points(measured[layer], other_measured[layer], threshold)
            where = {"pair": change.name, "factor": change.factor, "layer": layer}
            place = {"place": locate(layer, change.pairs, survey.order), "method": method}
            rows.append(where | place | moved | {"output_difference": outputs})
    return pd.DataFrame(rows)


def locate(layer: str, pairs: Sequence[Pair], order: Sequence[str]) -> str:
    """Say where the output of a layer lies as seen from pairs.

    Parameters
    ----------
    layer
        A module, or a container, whose output is taken as that of the last module called inside it; or
        ``"input"``.
    pairs
        One or more.
    order
        Of their :class:`Survey`.

    Returns
    -------
    str
        ``"between"`` the two layers of a pair, ``"before"`` all pairs, ``"after"`` the first, or ``"input"``.
    """
    if layer == INPUT:
        return INPUT
    last = max(at for at, name in enumerate(order) if is_within(name, layer))
    alone = order.count(order[last]) == 1  # of one that is called again, another call may lie there
    if alone and any(order[last] in (pair.first, *pair.between) for pair in pairs):
        return "between"
    return "before" if last < min(order.index(pair.first) for pair in pairs) else "after"


def is_within(name: str, layer: str) -> bool:
    """Tell whether a module is the layer, or lies in it."""
    return name == layer or name.startswith(f"{layer}.")


@dataclass(frozen=True)
class _Change:
    """One rescaled network: which pairs, by which factors, ``(C,)`` each."""

    name: str
    factor: str
    steps: tuple[tuple[Pair, Tensor], ...]

    @property
    def pairs(self) -> list[Pair]:
        return [pair for pair, _ in self.steps]


def _plan(
    groups: Sequence[Sequence[Pair]], factors: Sequence[float], spread: float, seed: int
) -> Iterator[_Change]:
    """Yield every network to compare with the first."""
    for group in groups:
        name = str(group[0]) if len(group) == 1 else f"{len(group)} pairs from {group[0].first}"
        for factor in factors:
            yield _Change(name, f"x{factor:g}", tuple((pair, check_factor(pair, factor)) for pair in group))
        if spread:
            drawn = tuple((pair, _draw_factors(pair, spread, seed)) for pair in group)
            yield _Change(name, "per channel", drawn)


def _draw_factors(pair: Pair, spread: float, seed: int) -> Tensor:
    """Draw one log-normal factor for every channel, the same ones whatever else is rescaled."""
    key = [seed, *pair.first.encode()]
    return torch.from_numpy(np.random.default_rng(key).lognormal(sigma=spread, size=pair.channels))


def _check_pairs(survey: Survey, pairs: Sequence[Pair | Sequence[Pair]] | None) -> list[list[Pair]]:
    """Return the groups of pairs that are rescaled at once."""
    given = survey.pairs if pairs is None else pairs
    groups = [[group] if isinstance(group, Pair) else list(group) for group in given]
    unknown = [str(pair) for group in groups for pair in group if pair not in survey.pairs]
    if unknown or not groups or not all(groups):
        refused = name_some(f"{layer}: {reason}" for layer, reason in survey.refusals.items())
        raise ValueError(
            f"pairs has {', '.join(unknown) or 'nothing in it'}; this network has "
            f"{', '.join(map(str, survey.pairs)) or f'no pair that can be rescaled ({refused})'}"
        )
    for group in groups:
        if list_disjoint(group) != group:
            raise ValueError(
                f"pairs are rescaled at once that share a layer: {', '.join(map(str, group))}; list_disjoint "
                "gives some that do not"
            )
    return groups


def _check_layers(survey: Survey, pairs: Sequence[Pair], layers: Sequence[str] | None) -> list[str]:
    if layers is None:
        of_pairs = {name for pair in pairs for name in (pair.first, pair.second)}
        return sorted(of_pairs, key=survey.order.index)
    calls = {name: [one for one in survey.order if is_within(one, name)] for name in layers}
    if unknown := [name for name in layers if not calls[name] or calls[name].count(name) > 1]:
        raise ValueError(
            f"layers has {', '.join(map(repr, unknown))}, which the forward pass does not call exactly once; "
            "kdviz.list_layers(network) names the layers"
        )
    return list(layers)
