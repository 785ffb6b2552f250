"""Sentences and clouds that the peers' procedures and kdviz explain: built-in data and teachers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

import kdviz
from benchmarks.replicas import Phi
from kdviz.models import cloud, text
from kdviz.networks.checkpoints import load_weights
from kdviz.networks.features import FeatureReader
from kdviz.sources import Encoding, encode, find_data, furniture, movie_reviews, review_tokenizer

SAMPLED = 300  # training sentences for the peers' normaliser
TESTED = 200
LENGTH = 96  # tokens that the teacher reads


@dataclass(frozen=True)
class Subject:
    """A network, one of its layers, and samples for it.

    Attributes
    ----------
    name
        Of network and layer, for tables.
    modality
        ``"text"`` or ``"cloud"``.
    layer
        The module whose output is the feature: what comes out of it counts the passes.
    samples
        What noise falls on, ``(T, K)`` or ``(n, 3)`` for each.
    phis
        For each sample what leads from there, ``(S, T, K)``, to features ``(S, ...)``.
    unit_of
        For each sample the unit of each of its rows, -1 for rows that are none.
    measure
        ``measure(seed=..., ...)`` measures all samples with kdviz.
    sampled
        Features of other samples, for the peers' text normaliser.
    scale
        The peers' recommended largest sigma: 10 standard deviations of the word embedding's weights.
    accuracy
        Of the network on up to 200 held-out samples.
    """

    name: str
    modality: str
    layer: nn.Module
    samples: list[Tensor]
    phis: list[Phi]
    unit_of: list[NDArray[np.int64]]
    measure: Callable[..., xr.Dataset]
    sampled: list[Tensor]
    scale: float
    accuracy: float


def make_word_subject(sentences: int) -> Subject:
    """Explain the last hidden layer of the built-in teacher of movie reviews for held-out sentences.

    Units are single word pieces, because those of the peers are; special tokens are none.
    """
    tokenizer = review_tokenizer()
    network = text.build("small_bert", classes=2, vocabulary=len(tokenizer), length=LENGTH)
    _load(network, "runs/teacher-reviews.safetensors")
    preset = text.PRESETS["small_bert"]
    layer, entry = preset.layers["hidden"], preset.entry
    reader = FeatureReader(network, [layer], preset.feature, entry)

    def enter(encoding: Encoding, at: int) -> tuple[Tensor, Phi]:
        """Return a sentence's embeddings at its own length, and what leads from there to its features."""
        ids = torch.from_numpy(encoding.ids[at : at + 1, : encoding.lengths[at]])

        def phi(embedded: Tensor) -> Tensor:
            features = reader(embedded, ids.expand(len(embedded), -1))[layer]
            return features.unflatten(1, (ids.shape[1], -1))

        return reader.enter(ids)[0], phi

    training, tested, chosen = (
        encode(movie_reviews(split, count=count), tokenizer, length=LENGTH)
        for split, count in (("train", SAMPLED), ("held-out", TESTED), ("held-out", sentences))
    )
    samples, phis = zip(*(enter(chosen, at) for at in range(sentences)), strict=True)
    piece_of = np.where(chosen.word_of < 0, -1, (chosen.word_of >= 0).cumsum(1) - 1)
    pieces = [
        tokenizer.convert_ids_to_tokens(row[of >= 0]) for row, of in zip(chosen.ids, piece_of, strict=True)
    ]
    units = kdviz.units.tokens(pieces, piece_of, chosen.lengths)
    others = (enter(training, at) for at in range(SAMPLED))
    with torch.no_grad():
        sampled = [phi(embedded[None]) for embedded, phi in others]

    def measure(**settings: Any) -> xr.Dataset:
        return kdviz.measure(
            network,
            torch.from_numpy(chosen.ids),
            layers=layer,
            entry=entry,
            units=units,
            weight=preset.weight,
            progress=False,
            **settings,
        )

    return Subject(
        "sentences, small_bert hidden",
        "text",
        network.get_submodule(layer),
        list(samples),
        list(phis),
        [piece_of[at, : chosen.lengths[at]] for at in range(sentences)],
        measure,
        sampled,
        10 * float(network.encoder.embeddings.word_embeddings.weight.std()),
        _find_accuracy(network, tested.ids, tested.texts.labels),
    )


def make_point_subject(clouds: int, *, points: int, background: int) -> Subject:
    """Explain the first linear layer of the built-in teacher of furniture for held-out clouds."""
    size = {"points": points, "background": background}
    tested, chosen = (furniture("held-out", count=count, **size) for count in (TESTED, clouds))
    network = cloud.build("small_pointnet", classes=len(chosen.classes))
    _load(network, "runs/teacher-furniture.safetensors")
    preset = cloud.PRESETS["small_pointnet"]
    layer = preset.layers["fc1"]
    reader = FeatureReader(network, [layer], preset.feature)
    samples = list(torch.from_numpy(chosen.clouds[:]))

    def phi(shaken: Tensor) -> Tensor:
        return reader(shaken)[layer]

    def measure(**settings: Any) -> xr.Dataset:
        return kdviz.measure(
            network,
            torch.stack(samples),
            layers=layer,
            units=kdviz.units.cloud(points + background),
            weight=preset.weight,
            progress=False,
            **settings,
        )

    units = np.arange(points + background)
    return Subject(
        "clouds, small_pointnet fc1",
        "cloud",
        network.get_submodule(layer),
        samples,
        [phi] * clouds,
        [units] * clouds,
        measure,
        [],
        0.0,
        _find_accuracy(network, tested.clouds[:], tested.labels),
    )


def _load(network: nn.Module, weights: str) -> None:
    load_weights(network, find_data(weights))
    network.eval().requires_grad_(False)


def _find_accuracy(network: nn.Module, inputs: NDArray, labels: NDArray[np.int64]) -> float:
    with torch.no_grad():
        return float((network(torch.from_numpy(inputs)).argmax(1).numpy() == labels).mean())
