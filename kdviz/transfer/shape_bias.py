"""Whether networks go by shape or by texture, where the two are of different classes."""

from collections.abc import Mapping, Sequence
from typing import Unpack

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from kdviz.arguments import name_some
from kdviz.networks.features import Batch
from kdviz.networks.inputs import check_labels
from kdviz.networks.reading import InputsLike
from kdviz.transfer.question import Options, ask


def shape_bias(
    networks: Mapping[str, nn.Module],
    inputs: InputsLike,
    labels: ArrayLike,
    *,
    textures: ArrayLike,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Tell whether each network gives the class of the shape or that of the texture [1]_, [2]_.

    For images whose cues conflict, as :func:`kdviz.sources.cue_conflict` makes them.

    Parameters
    ----------
    networks, inputs, **options
        As for :func:`kdviz.transfer.ask`.
    labels
        ``(N,)``, integers, the classes of the shapes.
    textures
        ``(N,)``, integers, the classes of the textures, each another than the shape's.

    Returns
    -------
    Dataset
        ``decision`` ``(network, sample)``, 0 shape, 1 texture, 2 neither; ``shape_decision``, the headline,
        1, 0 and NaN in these cases: its mean over samples, NaN left out, is the published shape bias.
        Coordinate ``texture`` of samples.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        As :func:`kdviz.transfer.ask`; if `textures` are no such classes.

    References
    ----------
    .. [1] Geirhos et al., "ImageNet-trained CNNs are biased towards texture", ICLR 2019, section 3.
    .. [2] Ojha et al., "What Knowledge Gets Distilled in Knowledge Distillation?", NeurIPS 2023, appendix
       11.5.
    """
    question = ask(networks, inputs, labels, **options)
    theirs = check_labels("textures", textures, len(question.labels))
    if not (0 <= theirs.min() and theirs.max() < question.classes):
        got = f"{theirs.min()}..{theirs.max()}"
        raise ValueError(f"textures must lie in 0..{question.classes - 1}, the networks' classes, got {got}")
    if same := np.flatnonzero(theirs == question.labels).tolist():
        names = name_some(question.sample_ids[row] for row in same)
        raise ValueError(f"textures must be of another class than the shape, and are not in samples {names}")

    def look(batch: Batch, labels: Tensor, rows: Sequence[int]) -> dict[str, NDArray]:
        told = question.predict(batch)
        shape, texture = told == labels.numpy(), told == theirs[rows]
        return {
            "decision": np.select([shape, texture], [0, 1], 2).astype(np.int8),
            "shape_decision": np.select([shape, texture], [1.0, 0.0], np.nan).astype(np.float32),
        }

    found = question.walk(look, "shape bias")
    return question.build("shape_bias", "shape_decision", found, {"texture": theirs})
