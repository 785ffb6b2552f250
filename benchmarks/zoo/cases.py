"""A layer of a network of the zoo with samples, as kdviz and the authors' procedure need it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

import kdviz
from benchmarks import authors
from benchmarks.problems import CELLS
from benchmarks.zoo.networks import BACKGROUND, LENGTH, POINTS, ZOO, load_network
from benchmarks.zoo.photographs import load_crops
from kdviz.models import cloud, text
from kdviz.networks.hashing import fingerprint, fingerprint_tensors
from kdviz.sources import encode, furniture, movie_reviews, review_tokenizer


@dataclass(frozen=True)
class Case:
    """A layer of a network with samples.

    Attributes
    ----------
    network, where
        Name of the network in `ZOO`, ``"middle"`` or ``"last"``.
    module
        Whose output the feature is.
    heads, samples, units
        For each sample what leads to the feature, from what noise falls on, and the unit of its elements.
    names
        Of the samples, with a fingerprint of what the network is given.
    descent
        Further arguments of `authors.descend`.
    measure
        ``measure(**settings)`` measures all samples with kdviz.
    fingerprint
        Of the weights.
    """

    network: str
    where: str
    module: nn.Module
    heads: list[authors.Head]
    samples: list[Tensor]
    units: list[Tensor]
    names: list[str]
    descent: dict[str, float]
    measure: Callable[..., xr.Dataset]
    fingerprint: str

    @property
    def name(self) -> str:
        """Network and layer."""
        return f"{self.network} {self.where}"


def load_case(name: str, where: str, count: int) -> Case:
    """Load a network, training it if need be, and its first `count` held-out samples."""
    specimen = ZOO[name]
    network, layer = load_network(name), specimen.layers[where]
    find = {"image": partial(_images, specimen.side), "text": _texts, "cloud": _clouds}[specimen.kind]
    found = find(count)
    head: dict[str, Any] = {"relu": specimen.relu}
    if specimen.entry is None:
        given = list(found.inputs)
        heads, samples = [authors.cut_head(network, layer, **head)] * count, given
    else:
        head["entry"] = specimen.entry
        given = [row[: len(of)] for row, of in zip(found.inputs, found.units, strict=True)]
        embedded = [_embed(network, specimen.entry, row) for row in given]
        inside = torch.cat([rows[of[:, 0] >= 0] for rows, of in zip(embedded, found.units, strict=True)])
        head["unit"] = float(inside.double().square().mean().sqrt())
        heads = [authors.cut_head(network, layer, **head, given=row) for row in given]
        samples = [rows / head["unit"] for rows in embedded]

    def measure(**settings: Any) -> xr.Dataset:
        return kdviz.measure(
            network,
            found.inputs,
            layers=layer,
            entry=specimen.entry,
            feature="relu" if specimen.relu else "identity",
            units=found.kind,
            weight=found.weight,
            sample_ids=found.names,
            progress=False,
            **settings,
        )

    return Case(
        name,
        where,
        network.get_submodule(layer),
        heads,
        samples,
        found.units,
        [f"{name} {fingerprint(row)}" for name, row in zip(found.names, given, strict=True)],
        {"weight": found.weight, "base_noise": found.kind.base_noise},
        measure,
        fingerprint_tensors(network.state_dict()),
    )


@dataclass(frozen=True)
class _Found:
    """Samples of a modality, with what is usual for it."""

    inputs: Tensor
    names: list[str]
    kind: kdviz.units.Units
    units: list[Tensor]
    weight: float


def _images(side: int, count: int) -> _Found:
    inputs, _, names = load_crops("held-out", count, side)
    cells = authors.share_cells(inputs.shape[-1], CELLS)
    return _Found(inputs, names, kdviz.units.grid(CELLS), [cells] * count, authors.WEIGHT)


def _texts(count: int) -> _Found:
    """Sentences, each piece of a word being a unit, special tokens none."""
    tokenizer = review_tokenizer()
    texts = movie_reviews("held-out", count=count)
    encoded = encode(texts, tokenizer, length=LENGTH)
    piece_of = np.where(encoded.word_of < 0, -1, (encoded.word_of >= 0).cumsum(1) - 1)
    pieces = [
        tokenizer.convert_ids_to_tokens(row[of >= 0]) for row, of in zip(encoded.ids, piece_of, strict=True)
    ]
    units = [
        torch.from_numpy(row[:length, None]) for row, length in zip(piece_of, encoded.lengths, strict=True)
    ]
    kind = kdviz.units.tokens(pieces, piece_of, encoded.lengths)
    names, weight = list(texts.sample_ids), text.PRESETS["small_bert"].weight
    return _Found(torch.from_numpy(encoded.ids), names, kind, units, weight)


def _clouds(count: int) -> _Found:
    """Furniture, each point being a unit."""
    found = furniture("held-out", count=count, points=POINTS, background=BACKGROUND)
    points = torch.arange(POINTS + BACKGROUND)[:, None]
    kind, weight = kdviz.units.cloud(POINTS + BACKGROUND), cloud.PRESETS["small_pointnet"].weight
    inputs = torch.from_numpy(found.clouds[:])
    return _Found(inputs, list(found.sample_ids), kind, [points] * count, weight)


def _embed(network: nn.Module, entry: str, ids: Tensor) -> Tensor:
    """Return what comes out of a module, ``(T, K)``."""
    with torch.no_grad():
        return authors.cut_head(network, entry, relu=False)(ids[None])[0]
