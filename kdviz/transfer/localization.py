"""Where networks look for the class of a sample: whose Grad-CAM is nearer to the teacher's.

Symbols: ``M`` networks, ``B`` samples, ``h, w`` the size of a map.
"""

from collections.abc import Mapping, Sequence
from typing import Unpack

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from kdviz.arguments import one_of
from kdviz.attribution.maps import Place, check_layer, draw_map
from kdviz.networks.features import Batch, resolve_layers
from kdviz.networks.preparing import device_of
from kdviz.networks.reading import InputsLike
from kdviz.transfer.pixels import find_images
from kdviz.transfer.question import Options, Question, ask, beside


def localization(
    networks: Mapping[str, nn.Module],
    inputs: InputsLike,
    labels: ArrayLike,
    *,
    layers: Mapping[str, str | nn.Module] | None = None,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Compare where each network looks with where the teacher looks [1]_.

    Of every sample the Grad-CAM of its labelled class is drawn, the final ReLU included [2]_. A map of
    another size than the teacher's is resized to that size, bilinearly, pixel centres aligned.

    Parameters
    ----------
    networks, inputs, labels, **options
        As for :func:`kdviz.transfer.ask`; inputs are images.
    layers
        Name or module of the layer of a network, by the network's name; by default, and of networks not
        named, that of :func:`kdviz.attribution.find_map_layer`.

    Returns
    -------
    Dataset
        ``cam_similarity`` ``(network, sample)``, the cosine with the teacher's map; NaN where a map is zero.
        ``closer_map``, the headline, ``(network, sample)``: 1 where the network's map is closer to the
        teacher's than that of the independent network, 0 where it is not, NaN for a tie or where a map is
        zero; of several independent networks, the share that it beats. An independent network is compared
        with the others, NaN if there are none, and comes out near the attribute ``chance``. Without
        independent networks all is NaN, and the attribute ``note`` says so.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As :func:`kdviz.transfer.ask`; if inputs are no images or `layers` names another network.
    LayerError
        If a layer has no map, or a network has no such layer.

    References
    ----------
    .. [1] Ojha et al., "What Knowledge Gets Distilled in Knowledge Distillation?", NeurIPS 2023, section 4.1.
    .. [2] Selvaraju et al., "Grad-CAM", ICCV 2017, Eqs. (1) and (2).
    """
    question = ask(networks, inputs, labels, **options)
    places = _find_places(question, networks, layers or {})
    at = list(question.networks).index(question.teacher)
    alone = [list(question.networks).index(name) for name in question.independent]

    def look(batch: Batch, classes: Tensor, rows: Sequence[int]) -> dict[str, NDArray]:
        maps = [_draw(network, batch, classes, places[name]) for name, network in question.networks.items()]
        resized = [_resize(one, maps[at].shape[1:]) for one in maps]
        # in float64 no norm of a map that is not zero vanishes; 0 / 0 is the NaN of one that is
        flat = normalize(torch.stack(resized).flatten(2).double(), dim=2, eps=0.0)
        similarity = (flat * flat[at]).sum(2).numpy()
        return {"cam_similarity": similarity, "closer_map": _compare(similarity, alone)}

    values = question.walk(look, "localization")
    told = ", ".join(f"{name}: {place.layer}" for name, place in places.items())
    note = "" if alone else "there is no independent network to compare with"
    return question.build("localization", "closer_map", values, note=note, chance=0.5, layers=told)


def _find_places(
    question: Question, networks: Mapping[str, nn.Module], layers: Mapping[str, str | nn.Module]
) -> dict[str, Place]:
    """Find where the maps of each network are taken; modules are those of the networks as given."""
    for name in layers:
        one_of("layers", name, question.networks)
    batch, _ = question.source.read([0])
    find_images(batch, "localization")
    places = {}
    for (name, network), given in zip(question.networks.items(), networks.values(), strict=True):
        (layer,) = resolve_layers(given, [layers[name]]) if name in layers else (None,)
        places[name] = check_layer(network, beside(batch, network), layer, methods=["grad_cam"], argument="")
    return places


def _draw(network: nn.Module, batch: Batch, classes: Tensor, place: Place) -> Tensor:
    given, told = beside(batch, network), classes.to(device_of(network))
    return draw_map(network, given, told, method="grad_cam", layer=place).relu().cpu()


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    if maps.shape[1:] == size:
        return maps
    return interpolate(maps[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


def _compare(similarity: NDArray[np.float64], alone: list[int]) -> NDArray[np.float64]:
    """Return the share of independent networks that each network beats, ``(M, B)``, ties left out."""
    found = np.full(similarity.shape, np.nan)
    for at, own in enumerate(similarity):  # with itself a network ties
        wins, losses = (own > similarity[alone]).sum(0), (own < similarity[alone]).sum(0)
        np.divide(wins, wins + losses, out=found[at], where=wins + losses > 0)
    return found
